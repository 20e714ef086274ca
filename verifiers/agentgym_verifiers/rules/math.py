"""Mathematical answers, judged by ``math-verify`` in a process of its own, with a time-out."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from typing import Any

from agentgym.errors import MissingExtra
from agentgym.verdict import Verdict
from agentgym_verifiers.rules.pick import Rule, pick

_WORKER = """
import json, sys
from math_verify import parse, verify
for line in sys.stdin:
    answer, gold = json.loads(line)
    wanted = parse(gold, parsing_timeout=None) or parse("$" + gold + "$", parsing_timeout=None)
    made = parse(answer, parsing_timeout=None)
    right = bool(wanted) and bool(made) and bool(verify(wanted, made, timeout_seconds=None))
    print(json.dumps({"parsed": bool(made), "gold": bool(wanted), "right": right}), flush=True)
"""


class _Worker:
    """One process that compares; killed, and started anew at the next question, if it does not answer in time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def ask(self, answer: str, gold: str, seconds: float) -> dict[str, bool]:
        """Compare. Raises ``TimeoutError``, or ``RuntimeError`` if the process died."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.process = subprocess.Popen([sys.executable, "-I", "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                self._exchange("1", "1", 120.0)
            return self._exchange(answer, gold, seconds)

    def _exchange(self, answer: str, gold: str, seconds: float) -> dict[str, bool]:
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps([answer, gold]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self.close()
            if late.is_set():
                raise TimeoutError(f"no answer within {seconds:g} s")
            raise RuntimeError("the math worker died")
        found: dict[str, bool] = json.loads(line)
        return found

    def close(self) -> None:
        """Stop the process; idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_worker = _Worker()
atexit.register(_worker.close)


class Math(Rule, frozen=True, kw_only=True):
    """1 if the answer and the reference are the same mathematical object (fractions, sets, intervals, LaTeX), else 0.

    An answer that takes longer than ``seconds`` scores 0; a reference that cannot be read makes the verdict ``invalid``. Needs the extra
    ``math``.
    """

    answer: str = "action"
    gold: str = "task:answer"
    seconds: float = 5.0

    def score(self, view: Any) -> Verdict:
        require_math()
        gold, answer = str(pick(view, self.gold)), str(pick(view, self.answer))
        if len(answer) > 10_000:
            return Verdict.scored(0.0, problem="longer than 10,000 characters")
        try:
            found = _worker.ask(answer, gold, self.seconds)
        except TimeoutError as error:
            return Verdict.scored(0.0, problem=str(error))
        if not found["gold"]:
            return Verdict.invalid(f"the reference {gold:.80} is no mathematics")
        return Verdict.scored(float(found["right"]), parsed=found["parsed"])


def require_math() -> None:
    """Raise ``MissingExtra`` if ``math-verify`` is not installed; import nothing."""
    from importlib.util import find_spec

    if find_spec("math_verify") is None:
        raise MissingExtra("math-verify", "pip install 'agentgym-verifiers[math]'")
