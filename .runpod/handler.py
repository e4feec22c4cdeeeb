"""The file that RunPod's Hub requires: it starts the worker as the image does, with the package `handler`.

It is here because beside the package it could not be imported.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # of the package; it was this file's own
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
