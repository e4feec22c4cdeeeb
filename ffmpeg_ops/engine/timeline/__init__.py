"""Scenes become frame and sample numbers. Pure: nothing is read, and no process is started."""
