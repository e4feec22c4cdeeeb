#!/bin/sh
# Lints the OpenAPI document of a live gateway, generates clients from it and runs them: tests/generated_clients.
# The generators are installed beside .venv, because they need other versions of some packages. They bring Node.js and Java
# with them, on Linux x86-64; elsewhere Node.js 22.18 or newer must be installed.
set -eu
cd "$(dirname "$0")/.."

home=tests/generated_clients
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
    tail -n 15 "$log" >&2
    echo "test-clients: $*" >&2
    exit 1
}

command -v npm >/dev/null || fail "npm is missing; install Node.js"
if ! cmp -s "$home/package-lock.json" "$home/node_modules/.installed"; then
    echo "test-clients: installing the generators of $home/package.json"
    npm ci --prefix "$home" --no-audit --no-fund --ignore-scripts >"$log" 2>&1 || fail "npm ci failed"
    cp "$home/package-lock.json" "$home/node_modules/.installed"
fi

stamp="$(.venv/bin/python -c 'import sys; print(sys.version)') $(cksum <"$home/requirements.txt")"
if [ "$(cat .venv-clients/.complete 2>/dev/null || true)" != "$stamp" ]; then
    echo "test-clients: installing the generators of $home/requirements.txt"
    .venv/bin/python -m venv --clear --without-pip .venv-clients
    .venv/bin/python -m pip --python .venv-clients/bin/python install --quiet --disable-pip-version-check \
        -r "$home/requirements.txt" >"$log" 2>&1 || fail "pip install failed"
    printf '%s' "$stamp" >.venv-clients/.complete
fi

.venv/bin/python -m pytest "$home"
