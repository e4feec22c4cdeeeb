#!/bin/sh
# The face of the one worker image: WORKER_MODE=runpod (default) takes jobs from RunPod, http serves rented instances.
case "${WORKER_MODE:-runpod}" in
    runpod) exec python -m handler "$@" ;;
    http) exec python -m handler.http_worker "$@" ;;
    *)
        echo "Wrong settings: WORKER_MODE: must be runpod or http, not '$WORKER_MODE'." >&2
        exit 1
        ;;
esac
