#!/bin/sh
# The system packages that setup needs. Installs them where it may (root on Debian or Ubuntu); else prints the one line to run.
set -eu
PYTHON=${PYTHON:-python3}
missing=
command -v git >/dev/null 2>&1 || missing="$missing git"
if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing="$missing python3-venv"
fi
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
if [ -z "$missing" ]; then
    exit 0
fi
line="apt-get update && apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
else
    echo "some system packages are missing; run this once, then make setup again:" >&2
    echo "  sudo sh -c '$line'" >&2
    exit 3
fi
