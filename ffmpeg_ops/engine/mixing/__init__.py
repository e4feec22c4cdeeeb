"""Sounds become one stream: every sound decoded to 48 kHz stereo, fitted to a number of samples, mixed and limited."""
