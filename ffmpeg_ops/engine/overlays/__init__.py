"""Texts, pictures and videos that are laid over a film."""
