#!/bin/sh
# The system packages that setup needs. Installs them where it may (root on Debian or Ubuntu); else prints the one line to run, and stops
# only where nothing works without them: sandboxes are for the environments that need one.
set -eu
PYTHON=${PYTHON:-python3}
needed=
wanted=
command -v git >/dev/null 2>&1 || needed="$needed git"
if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    needed="$needed python3-venv"
fi
command -v cc >/dev/null 2>&1 || wanted="$wanted gcc libc6-dev"
command -v bwrap >/dev/null 2>&1 || wanted="$wanted bubblewrap"
command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || wanted="$wanted chromium"
for each in Xvfb:xvfb openbox:openbox dbus-daemon:dbus mousepad:mousepad thunar:thunar galculator:galculator gnumeric:gnumeric lxterminal:lxterminal \
    ristretto:ristretto; do
    command -v "${each%%:*}" >/dev/null 2>&1 || wanted="$wanted ${each##*:}"
done
ldconfig -p 2>/dev/null | grep -q libatomic.so.1 || wanted="$wanted libatomic1"
[ -e /usr/libexec/at-spi-bus-launcher ] || wanted="$wanted at-spi2-core"
[ -x /usr/bin/python3 ] || wanted="$wanted python3"
/usr/bin/python3 -c 'import tkinter' >/dev/null 2>&1 || wanted="$wanted python3-tk"
[ -d /usr/share/fonts/truetype/dejavu ] || wanted="$wanted fonts-dejavu-core"
[ -d /usr/share/icons/Adwaita ] || wanted="$wanted adwaita-icon-theme"
if [ -z "$needed$wanted" ]; then
    exit 0
fi
line="apt-get update && apt-get install -y --no-install-recommends$needed$wanted"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $needed $wanted >/dev/null
    exit 0
fi
echo "some system packages are missing; run this once, then make setup again:" >&2
echo "  sudo sh -c '$line'" >&2
if [ -n "$needed" ]; then
    exit 3
fi
