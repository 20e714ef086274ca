#!/bin/sh
# The table of verifiers in docs/verifiers.md: taught on attempts at train tasks, measured on attempts at others. Needs what
# `python benchmarks/over_optimisation.py --out runs/over` has played. Prints Markdown.
set -eu
BIN=${BIN:-.venv/bin}
OVER=${1:-runs/over}
OUT=${2:-runs/table}
mkdir -p "$OUT/train" "$OUT/test"
cp "$OVER/train.jsonl" "$OUT/train/episodes.jsonl"
head -n 1000 "$OVER/test.jsonl" >"$OUT/test/episodes.jsonl"
for side in train test; do
    "$BIN/agentgym" export "$OUT/$side" --format probes --to "$OUT/$side-set" --plain >/dev/null
done
teach() { "$BIN/agentgym" train --role verifier --steps 80 --groups 16 --lr 1e-3 --context 2048 --plain --algo "$1" --data "$OUT/$2" --out "$OUT/$3" >/dev/null 2>&1; }
for each in "reward-model train rm" "outcome train outcome" "value train value" "step train-set step" "contrast train contrast" "outcome train-set robust"; do
    # shellcheck disable=SC2086
    [ -d "$OUT/${each##* }/verifier" ] || teach $each
done
late() { echo "late('rm:$OUT/$1/verifier', level='outcome')"; }
"$BIN/python" "$(dirname "$0")/verifiers_table.py" "$OUT/test-set" \
    "pairs (reward-model)=rm:$OUT/rm/verifier" "outcomes (outcome)=rm:$OUT/outcome/verifier" "outcomes and probes (outcome)=rm:$OUT/robust/verifier" \
    "contrast (contrast)=rm:$OUT/contrast/verifier" "worst of three=combine([$(late rm), $(late outcome), $(late robust)], form='min')" \
    "every turn, outcomes (value)=rm:$OUT/value/verifier" "every turn, mistakes (step)=rm:$OUT/step/verifier" \
    "words alike (likeness)=likeness"
