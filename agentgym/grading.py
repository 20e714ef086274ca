"""Asking verifiers: whatever goes wrong in one is an ``invalid`` verdict, never an exception, never a number, never a hang."""

from __future__ import annotations

import ctypes
import math
import os
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
        self.ready: set[int] = set()
        self.striking = threading.Lock()
        self.main = threading.main_thread().ident

    def prepare(self, me: int) -> None:
        """Before the first limited call of a thread: start watching, and on the main thread be ready for the signal."""
        if not self.ready:
            threading.Thread(target=self._run, name="agentgym-watch", daemon=True).start()
        if me == self.main:
            signal.signal(SIGNAL, _on_signal)
        self.ready.add(me)

    def forget(self) -> None:
        """In a forked child there is no watching thread."""
        self.__init__()  # type: ignore[misc]  # as new

    def _run(self) -> None:
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            for ident, deadline in list(self.deadlines.items()):
                with self.striking:
                    if now > deadline and self.deadlines.pop(ident, None) is not None:
                        self._interrupt(ident)

    def _interrupt(self, ident: int) -> None:
        if ident == self.main:
            signal.pthread_kill(ident, SIGNAL)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(_TookTooLong))


_watch = _Watch()
os.register_at_fork(after_in_child=lambda: _watch.forget())


def _on_signal(number: int, frame: object) -> None:
    raise _TookTooLong


def limited(call: Callable[[Any], Any], argument: Any, seconds: float) -> Any:
    """The result of ``call(argument)``. Raises ``TimeoutError`` once it has taken ``seconds``."""
    me, deadlines = threading.get_ident(), _watch.deadlines
    if me in deadlines:
        return call(argument)
    if me not in _watch.ready:
        _watch.prepare(me)
    deadlines[me] = time.monotonic() + seconds
    try:
        try:
            return call(argument)
        finally:
            if deadlines.pop(me, None) is None:
                with _watch.striking:  # once the interrupt is sent, let it come here and nowhere else
                    time.sleep(0.2)
    except _TookTooLong:
        raise TimeoutError(f"took longer than {seconds:g} s") from None


def judge(verifier: Callable[[Any], Any], view: Any, seconds: float | None = None) -> Verdict:
    """Ask a verifier for its verdict, within a time (its own ``limit_s`` if it has one), a size and the rules of ``Verdict``."""
    try:
        return checked(limited(verifier, view, seconds or float(getattr(verifier, "limit_s", LIMIT_S))))
    except Exception as error:
        return Verdict.invalid(f"{type(error).__name__}: {str(error)[:500]}")


def checked(verdict: Any) -> Verdict:
    """A verdict as it is, if it keeps the rules of ``Verdict``; else an ``invalid`` one that says what was wrong."""
    if type(verdict) is not Verdict:
        return Verdict.invalid(f"a verifier must return a Verdict, not {type(verdict).__name__}")
    if verdict.evidence or verdict.critique:
        try:
            size(verdict.evidence, LIMIT_BYTES - size(verdict.critique or "", LIMIT_BYTES))
        except ValueError as error:
            return Verdict.invalid(f"the evidence or critique {error}")
    if verdict.status == "scored":
        if type(verdict.value) is float and math.isfinite(verdict.value):
            return verdict
        return Verdict.invalid(f"a verifier's value must be a finite number, not {reprlib.repr(verdict.value)}")
    if verdict.status not in ("tampered", "invalid"):
        return Verdict.invalid(f"a verdict's status cannot be {reprlib.repr(verdict.status)}")
    return verdict if verdict.value is None else Verdict.invalid(f"a verdict that is {verdict.status} carries no value")


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
    """The outcome verdicts of a finished episode, from its record and artefacts alone; none of a match that a fault of another seat ended."""
    return {} if view.episode.fault else {name: judge(v, view) for name, v in verifiers.items() if v.level == "outcome"}


def grade_turn(verifiers: Mapping[str, Any], view: Any) -> dict[str, Verdict]:
    """The step verdicts of the view's last turn."""
    return {name: judge(v, view) for name, v in verifiers.items() if v.level == "step"}


def require_valid(verdicts: Mapping[str, Verdict]) -> None:
    """Raise ``VerifierFault`` (or ``EnvironmentFault``) if an outcome verdict is invalid."""
    for name, verdict in verdicts.items():
        if verdict.status == "invalid":
            kind = VerifierFault if verdict.culprit == "verifier" else EnvironmentFault
            raise kind(f"verifier {name}: {verdict.critique}")
