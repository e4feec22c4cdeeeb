"""The RunPod endpoint as code: what `runpod.toml` wants, what is there, and the way from one to the other."""
