#!/bin/sh
# Pins all requirements in one resolution, from which gateway and worker get their parts; those of the tests of generated
# clients, which are installed apart, in another.
# Each file is valid for Python 3.11 and newer. Those for the images also contain the hashes of the packages.
set -eu
cd "$(dirname "$0")/.."
pin() {
    uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
        --no-emit-find-links "$@"
}
pin requirements.in --upgrade -o requirements.txt
pin tests/generated_clients/requirements.in --upgrade -o tests/generated_clients/requirements.txt
for package in gateway handler; do
    pin "$package/requirements.in" -c requirements.txt --upgrade --generate-hashes -o "$package/requirements.txt"
done
