#!/bin/sh
# Entry point of the worker image. WORKER_MODE=runpod (default) takes jobs from RunPod, http serves rented machines.
# Vast.ai sets CONTAINER_ID: there the supervisor runs the worker and holds the dead-man switch.
case "${WORKER_MODE:-runpod}" in
    runpod) exec python -m handler "$@" ;;
    http)
        if [ -n "${CONTAINER_ID:-}" ]; then
            exec python -m handler.supervisor
        fi
        exec python -m handler.http_worker "$@"
        ;;
    *)
        echo "Wrong settings: WORKER_MODE: must be runpod or http, not '$WORKER_MODE'." >&2
        exit 1
        ;;
esac
