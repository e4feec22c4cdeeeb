#!/bin/sh
# Pins all requirements: one resolution for everything, of which gateway and worker get their parts.
# Each file serves every Python from 3.11 on. The files of the images also hold the hashes of their packages.
set -eu
cd "$(dirname "$0")/.."
pin() {
    uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
        --no-emit-find-links "$@"
}
pin requirements.in --upgrade -o requirements.txt
for package in gateway handler; do
    pin "$package/requirements.in" -c requirements.txt --upgrade --generate-hashes -o "$package/requirements.txt"
done
