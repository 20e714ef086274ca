"""Asking verifiers: whatever goes wrong in one is an ``invalid`` verdict, never an exception, never a number, never a hang."""

from __future__ import annotations

import ctypes
import math
import reprlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentgym.errors import EnvironmentFault, VerifierFault
from agentgym.verdict import Json, Verdict

LIMIT_S = 30.0
LIMIT_BYTES = 1 << 20
SIGNAL = signal.SIGVTALRM


class _TookTooLong(BaseException):
    """Raised inside a verifier that has used up its time."""


class _Watch:
    """One thread that interrupts calls past their deadline, whichever thread they run on.

    On the main thread a signal ends them, also in a sleep; on others an asynchronous exception does, at their next bytecode. C code
    that never returns to the interpreter can only be stopped with its process: such verifiers run in one of their own.
    """

    def __init__(self) -> None:
        self.deadlines: dict[int, float] = {}
        self.thread: threading.Thread | None = None
        self.main = threading.main_thread().ident

    def arm(self, seconds: float) -> int:
        me = threading.get_ident()
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self._run, name="agentgym-watch", daemon=True)
            self.thread.start()
        if me == self.main and signal.getsignal(SIGNAL) is not _on_signal:
            signal.signal(SIGNAL, _on_signal)
        self.deadlines[me] = time.monotonic() + seconds
        return me

    def _run(self) -> None:
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            for ident, deadline in list(self.deadlines.items()):
                if now > deadline and self.deadlines.pop(ident, None) is not None:
                    self._interrupt(ident)

    def _interrupt(self, ident: int) -> None:
        if ident == self.main:
            signal.pthread_kill(ident, SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(_TookTooLong))


_watch = _Watch()


def _on_signal(number: int, frame: object) -> None:
    raise _TookTooLong


def limited(call: Callable[[], Any], seconds: float) -> Any:
    """The result of ``call``. Raises ``TimeoutError`` once it has taken ``seconds``."""
    if threading.get_ident() in _watch.deadlines:
        return call()
    ident = _watch.arm(seconds)
    try:
        try:
            return call()
        finally:
            if _watch.deadlines.pop(ident, None) is None:
                time.sleep(0.2)  # the interrupt is on its way: let it come here and nowhere else
    except _TookTooLong:
        raise TimeoutError(f"took longer than {seconds:g} s") from None


def judge(verifier: Callable[[Any], Any], view: Any, seconds: float = LIMIT_S) -> Verdict:
    """Ask a verifier for its verdict, within a time, a size and the rules of ``Verdict``."""
    try:
        verdict = limited(lambda: verifier(view), seconds)
    except Exception as error:
        return Verdict.invalid(f"{type(error).__name__}: {str(error)[:500]}")
    if type(verdict) is not Verdict:
        return Verdict.invalid(f"a verifier must return a Verdict, not {type(verdict).__name__}")
    if verdict.status not in ("scored", "tampered", "invalid"):
        return Verdict.invalid(f"a verdict's status cannot be {reprlib.repr(verdict.status)}")
    try:
        size(verdict.evidence, LIMIT_BYTES - size(verdict.critique or "", LIMIT_BYTES))
    except ValueError as error:
        return Verdict.invalid(f"the evidence or critique {error}")
    if verdict.status != "scored":
        return verdict if verdict.value is None else Verdict.invalid(f"a verdict that is {verdict.status} carries no value")
    if type(verdict.value) is float and math.isfinite(verdict.value):
        return verdict
    return Verdict.invalid(f"a verifier's value must be a finite number, not {reprlib.repr(verdict.value)}")


def size(value: Json, most: int) -> int:
    """About how many bytes a JSON value takes. Raises ``ValueError`` past ``most``, or if it is none; reads no more than it must."""
    used, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            used += len(each)
        elif isinstance(each, Mapping):
            used += 2 * len(each)
            if used <= most:
                waiting += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple)):
            used += 2 * len(each)
            if used <= most:
                waiting += each
        elif each is None or isinstance(each, bool) or (isinstance(each, float) and math.isfinite(each)):
            used += 4
        elif isinstance(each, int) and abs(each) < 1 << 63:
            used += 8
        else:
            raise ValueError(f"holds {reprlib.repr(each)}, which is no JSON value")
        if used > most:
            raise ValueError(f"is larger than {LIMIT_BYTES} bytes")
    return used


def grade(verifiers: Mapping[str, Any], view: Any) -> dict[str, Verdict]:
    """The outcome verdicts of a finished episode, from its record and artefacts alone."""
    return {name: judge(v, view) for name, v in verifiers.items() if v.level == "outcome"}


def grade_turn(verifiers: Mapping[str, Any], view: Any) -> dict[str, Verdict]:
    """The step verdicts of the view's last turn."""
    return {name: judge(v, view) for name, v in verifiers.items() if v.level == "step"}


def require_valid(verdicts: Mapping[str, Verdict]) -> None:
    """Raise ``VerifierFault`` (or ``EnvironmentFault``) if an outcome verdict is invalid."""
    for name, verdict in verdicts.items():
        if verdict.status == "invalid":
            kind = VerifierFault if verdict.culprit == "verifier" else EnvironmentFault
            raise kind(f"verifier {name}: {verdict.critique}")
