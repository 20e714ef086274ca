#!/bin/sh
# A Docker engine for the tests: `start` uses the one that runs, or installs and starts one where it may (root on Debian or Ubuntu);
# `stop` ends only what `start` began. Where none can be had, says so and succeeds: the tests that need one are skipped, but not in CI.
set -eu
PID=${ENGINE_PID:-.venv/engine.pid}
LOG=${ENGINE_LOG:-.venv/engine.log}
answers() { docker info >/dev/null 2>&1; }
case ${1:-start} in
start)
    answers && exit 0
    if [ "$(id -u)" != 0 ]; then
        echo "no Docker engine answers; start one: sudo systemctl start docker" >&2
        exit 0
    fi
    missing=
    for each in dockerd:docker.io debootstrap:debootstrap iptables:iptables; do
        command -v "${each%%:*}" >/dev/null 2>&1 || missing="$missing ${each##*:}"
    done
    if [ -n "$missing" ]; then
        command -v apt-get >/dev/null 2>&1 || exit 0
        apt-get update -q >/dev/null
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
    fi
    setsid dockerd >"$LOG" 2>&1 </dev/null &
    echo $! >"$PID"
    for _ in $(seq 120); do
        answers && exit 0
        sleep 0.5
    done
    echo "the Docker engine did not start; see $LOG" >&2
    ;;
stop)
    [ -f "$PID" ] || exit 0
    kill "$(cat "$PID")" 2>/dev/null || true
    rm -f "$PID"
    ;;
esac
