#!/bin/sh
# Pins all requirements anew: one resolution for everything, from which gateway and worker take their part.
# One file serves every Python from 3.11 on. What goes into the images carries the hashes of its packages.
set -eu
cd "$(dirname "$0")/.."
pin() {
    uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
        --no-emit-find-links "$@"
}
pin requirements.in --upgrade -o requirements.txt
for room in gateway handler; do
    pin "$room/requirements.in" -c requirements.txt --upgrade --generate-hashes -o "$room/requirements.txt"
done
