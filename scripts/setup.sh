#!/bin/sh
# Installs what the other targets need: FFmpeg with fonts, and the virtual environment .venv.
# With CI set, also gcc, headers and the servers without which some tests are skipped: PostgreSQL, Redis, nginx,
# Prometheus, and Node.js for an S3 server on loopback.
# Safe to run again at any time; does nothing when everything is installed.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
    echo "setup: $*" >&2
    exit 1
}

# install_debian REASON PACKAGE… — installs with apt-get as root on Debian; otherwise prints what to do and exits.
install_debian() {
    reason=$1
    shift
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$reason. Install it and try again; on Debian or Ubuntu: sudo apt-get install $*"
    fi
    echo "setup: $reason; installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "apt-get update failed"; }
    apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 || { tail -n 15 "$log" >&2; fail "apt-get install failed"; }
}

ffmpeg_is_complete() {
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null &&
        ffmpeg -hide_banner -encoders 2>/dev/null | grep -q ' libx264 ' &&
        ffmpeg -hide_banner -filters 2>/dev/null | grep -q ' ass '
}

ffmpeg_is_complete || install_debian "FFmpeg with libx264 and libass is missing" ffmpeg fonts-noto-core fontconfig
ffmpeg_is_complete || fail "the installed FFmpeg lacks libx264 or libass; install one that has both"
if ! fc-list 2>/dev/null | grep -q 'Noto Sans'; then
    install_debian "the font Noto Sans is missing" fonts-noto-core fontconfig
fi

# Fonts for scripts that Noto Sans lacks. Captions work without them, but leave out the characters that no font has.
missing=
while read -r package family; do
    case $package in '#'*) continue ;; esac
    fc-list 2>/dev/null | grep -q "$family" || missing="$missing $package"
done <scripts/fonts.txt
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # split into one word per package
    (install_debian "fonts for Chinese, Japanese, Korean and emoji are missing" $missing) ||
        echo "setup: continuing without them; captions in these scripts will lack characters" >&2
fi

command -v "$python" >/dev/null || fail "$python is missing; install Python 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or newer is needed, $python is older"

stamp="$("$python" -c 'import sys; print(sys.version)') $(cksum <requirements.txt)"
if [ "$(cat .venv/.complete 2>/dev/null || true)" != "$stamp" ]; then
    echo "setup: creating the virtual environment .venv"
    rm -rf .venv
    if ! "$python" -m venv .venv >"$log" 2>&1; then
        rm -rf .venv
        install_debian "Python's venv module is missing" python3-venv
        "$python" -m venv .venv
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    printf '%s' "$stamp" >.venv/.complete
fi

# Without it jobs run, with a warning.
.venv/bin/python -c 'import pyseccomp' 2>/dev/null || (install_debian "libseccomp is missing" libseccomp2) ||
    echo "setup: continuing without it; FFmpeg is then less confined, see SECURITY.md" >&2

# What only tests need. Those tests are skipped where it is missing, but not in CI.
if [ -n "${CI:-}" ]; then
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || install_debian "PostgreSQL is missing" postgresql
    command -v redis-server >/dev/null || install_debian "Redis is missing" redis-server
    command -v npm >/dev/null || install_debian "Node.js is missing" nodejs npm
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || install_debian "nginx is missing" nginx
    command -v promtool >/dev/null || install_debian "promtool is missing" prometheus
    command -v gcc >/dev/null || install_debian "gcc is missing" gcc libc6-dev
    ls /usr/include/ffnvcodec /usr/include/x264.h /usr/include/x265.h /usr/include/aom >/dev/null 2>&1 ||
        install_debian "headers for the stand-in of NVENC are missing" libffmpeg-nvenc-dev libx264-dev libx265-dev libaom-dev
    .venv/bin/python -m tests.emulators.nvenc.debian13 >"$log" 2>&1 ||
        echo "setup: continuing without Debian 13's FFmpeg; tests of it are skipped: $(tail -n 1 "$log")" >&2
    if ! cmp -s tests/s3/package-lock.json tests/s3/node_modules/.installed; then
        echo "setup: installing the S3 server of the tests"
        npm ci --prefix tests/s3 --no-audit --no-fund --ignore-scripts >"$log" 2>&1 || {
            tail -n 5 "$log" >&2
            fail "npm ci failed"
        }
        cp tests/s3/package-lock.json tests/s3/node_modules/.installed
    fi
fi
