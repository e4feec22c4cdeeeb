"""The protocol between gateway and worker: the job's envelope, errors, media types, the worker's identity."""
