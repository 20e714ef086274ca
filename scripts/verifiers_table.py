"""Rows of a table of verifiers: ``verifiers_table.py SET 'label=VERIFIER' …``. Prints Markdown."""

from __future__ import annotations

import sys
from pathlib import Path

from agentgym.evaluation.stats import Interval
from agentgym.evaluation.verifiers import VerifierResult, evaluate_verifier

HEAD = (
    "| verifier | accuracy | pairs | one against many | calibration error | first error F1 | turned round: noise, layout, words, length, format |"
    " caught: mistake, other task, injection | best of 8 |"
)


def of(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def row(label: str, r: VerifierResult) -> str:
    p = r.probes
    turned = ", ".join(f"{p[k]['flipped']:.2f}" for k in ("noise", "layout", "paraphrase", "length", "format") if k in p)
    caught = ", ".join(f"{p[k]['accuracy']:.2f}" for k in ("mistake", "mismatch", "injection") if k in p)
    alone = [f"{x:.2f}" if x is not None else "–" for x in (r.calibration, r.first_error.get("f1"))]
    return "| " + " | ".join([label, of(r.accuracy), of(r.pairs), of(r.one_vs_many), *alone, turned, caught, of(r.best_of.get("8"))]) + " |"


def main() -> None:
    print(HEAD)
    print("|" + "---|" * (HEAD.count("|") - 1))
    for each in sys.argv[2:]:
        label, _, name = each.partition("=")
        print(row(label, evaluate_verifier(name, Path(sys.argv[1]))), flush=True)


main()
