#!/bin/sh
# The pictures of docs/gui.md: one solved episode of each horizon, played, exported as a filmstrip, and photographed by a browser.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-docs}
CHROMIUM=$(command -v chromium || command -v google-chrome)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
strip() { # horizon template height
    "$BIN/agentgym" eval --env gui/desk --policy oracle --split train --tasks 1 --option "kinds=$2" --option tree=false --plain --out "$scratch/$1" >/dev/null 2>&1
    "$BIN/agentgym" export "$scratch/$1" --format filmstrip --to "$scratch/$1.html"
    "$CHROMIUM" --headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 --window-size="1500,$3" \
        --screenshot="$OUT/gui-$1.png" "file://$scratch/$1.html" 2>/dev/null
}
strip short save-as 830
strip medium total-into-note 830
strip long form-from-picture 1500
