"""The worker: runs attempts for RunPod's SDK (`python -m handler`) or over HTTP."""
