#!/bin/sh
# Runs the tests of RunPod's SDK with its newest release, including pre-releases, to find problems before we update it.
# The release is installed in a separate virtual environment on top of .venv. Skipped if PyPI cannot be reached; with CI
# set, that is a failure.
set -eu
cd "$(dirname "$0")/.."

wanted=$(grep '^runpod' handler/requirements.in)
if ! newest=$(echo "$wanted" | .venv/bin/uv pip compile --quiet --system-certs --prerelease allow --no-deps \
    --no-header --no-annotate -); then
    [ -z "${CI:-}" ] || { echo "test-sdk-next: PyPI cannot be reached" >&2; exit 1; }
    echo "test-sdk-next: skipped, because PyPI cannot be reached"
    exit 0
fi
if grep -qx "$newest" requirements.txt; then
    echo "test-sdk-next: $newest is the newest release, and the pinned one"
    exit 0
fi

echo "test-sdk-next: testing with $newest"
python=.venv-sdk-next/bin/python
.venv/bin/python -m venv --clear --without-pip .venv-sdk-next
site_packages='import sysconfig; print(sysconfig.get_path("purelib"))'
.venv/bin/python -c "$site_packages" >"$("$python" -c "$site_packages")/below.pth"
.venv/bin/python -m pip --python "$python" install --quiet --pre --upgrade "$newest"
"$python" -m pytest -n 3 --dist worksteal \
    tests/handler/test_main.py tests/handler/test_runpod_sdk.py tests/handler/test_warm_up.py \
    tests/emulators/test_runpod_sdk.py
