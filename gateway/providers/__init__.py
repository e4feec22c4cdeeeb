"""Providers of workers. `base.py` defines what a provider is, `registry.py` finds them."""
