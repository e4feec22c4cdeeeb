"""The RunPod endpoint as code: `runpod.toml`, the present endpoint, and the changes from one to the other."""
