"""Captions: subtitles or spoken words are parsed into cues, broken into lines and written as an ASS script."""
