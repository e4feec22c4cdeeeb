"""Captions: subtitles or spoken words become cues, cues become lines, and lines become an ASS script for libass."""
