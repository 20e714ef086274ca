"""Online distilled annotation: a model labels what the agent itself has met, beside the run, and a small fast model learns the labels.

Stepping never waits for the annotator: captions go into a bounded queue (a full one drops), a thread asks the annotator and learns, and a
reward is read from what has been distilled so far. Where the annotator is down, slow, or answers garbage, the last distilled model goes on
paying; how much was missed is counted, and said at the end of the run.

Source: "Online Intrinsic Rewards for Decision Making Agents from Large Language Model Feedback" (hashing, classification, ranking).
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, get_args

import anyio
import msgspec
import numpy as np

from agentgym.core import Conversation, EpisodeView, Policy
from agentgym.errors import AgentGymError, UsageError, nearest
from agentgym.policies import resolve
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.features import SIZE, arrays, captions, hashed, unarrays
from agentgym_verifiers.intrinsic.nets import Net

VARIABLE = "AGENTGYM_ANNOTATOR"
QUEUE, BATCH = 512, 8
"""Captions that may wait, and that are asked about at a time."""
PAUSE = 0.5
"""Seconds without a question after an annotator failed."""
_NUMBER = re.compile(r"\d+")

Form = Literal["hash", "classify", "rank"]


class Annotator(Protocol):
    """Whoever labels. An answer of None is no label: it was not understood."""

    def labels(self, captions: Sequence[str]) -> Sequence[float | None]:
        """For each caption 1 if what happened is a step forward, else 0."""
        ...

    def better(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float | None]:
        """For each pair 1 if the first is the better thing to happen, 0 if the second is, 1/2 if they are alike."""
        ...


class Words:
    """A scripted annotator: what holds one of its words is good. For tests, and for runs without a model."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [w.casefold() for w in words if w]

    def labels(self, captions: Sequence[str]) -> list[float | None]:
        """1 where a word occurs."""
        return [float(any(w in c.casefold() for w in self.words)) for c in captions]

    def better(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """By their labels."""
        return [0.5 + ((self.labels([a])[0] or 0.0) - (self.labels([b])[0] or 0.0)) / 2 for a, b in pairs]


class Model:
    """An annotator behind any policy, such as ``openai:MODEL@URL``."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._runner: asyncio.Runner | None = None

    def labels(self, captions: Sequence[str]) -> list[float | None]:
        """Asks of each caption whether it is progress."""
        asked = "An agent explores a world. It met this:\n\n{}\n\nDoes it show progress or something worth seeking? Answer yes or no."
        return [_read(a, ("no", "yes"), (0.0, 1.0)) for a in self._ask([asked.format(c) for c in captions])]

    def better(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        """Asks which of two is the better."""
        asked = "An agent explores a world. It met two things.\n\n1: {}\n\n2: {}\n\nWhich is the better thing to happen? Answer 1, 2 or tie."
        return [_read(a, ("1", "2", "tie"), (1.0, 0.0, 0.5)) for a in self._ask([asked.format(a, b) for a, b in pairs])]

    def _ask(self, prompts: Sequence[str]) -> list[str]:
        async def everything() -> list[str]:
            said = [""] * len(prompts)

            async def one(i: int) -> None:
                said[i] = (await self.policy.act(Conversation(f"annotation-{i}", [{"role": "user", "content": prompts[i]}], max_tokens=8))).action

            async with anyio.create_task_group() as group:
                for i in range(len(prompts)):
                    group.start_soon(one, i)
            return said

        if self._runner is None:  # connections belong to one event loop: that of the thread that asks
            self._runner = asyncio.Runner()
        return self._runner.run(everything())


def _read(answer: str, known: Sequence[str], values: Sequence[float]) -> float | None:
    """The value of the first known word of an answer."""
    found = next((w for w in re.findall(r"\w+", answer.casefold()) if w in known), None)
    return None if found is None else values[known.index(found)]


def annotator_of(text: str) -> Annotator:
    """``words:gold,stairs``, or any policy (``openai:MODEL@URL``). Raises ``UsageError`` if it is empty."""
    if not text:
        raise UsageError(f"late('annotation') needs an annotator: set {VARIABLE}=openai:MODEL@URL, or words:gold,stairs")
    kind, _, rest = text.partition(":")
    return Words(rest.split(",")) if kind == "words" else Model(resolve(text))


class Annotation:
    """Pays for captions that an annotator found good, as far as that has been distilled, divided by √n at the n-th time in an episode.

    Which time it is is counted numbers aside: a counter on the screen makes nothing new.
    A turn's caption is its fact ``caption``, else the beginning of what was seen after it. The form is the source's argument:
    ``late('annotation')`` (``hash``) looks labels up, so what was never labelled pays 0, and it is for worlds that say the same again;
    ``annotation:classify`` gives the probability of a label, ``annotation:rank`` the place among captions (0 to 1) by a model of pairs.
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, form: str = "hash", annotator: Annotator | None = None, waiting: int = QUEUE, seed: int = 0) -> None:
        if form not in get_args(Form):
            raise UsageError(f"annotation has no form {form!r}: {', '.join(get_args(Form))}{nearest(form, get_args(Form))}")
        self.annotator = annotator or annotator_of(os.environ.get(VARIABLE, ""))
        self.form, self.known = form, dict[str, float]()
        self.net = Net((SIZE, 32, 1), seed, rate=3e-3)
        self.counts = Counter[str]()
        self.middle, self.spread = 0.0, 1.0
        self._queue: queue.Queue[str] = queue.Queue(waiting)
        self._asked, self._lock = set[str](), threading.Lock()
        self._thread: threading.Thread | None = None
        self._random = np.random.default_rng(seed)
        self._pool: list[str] = []
        self._last = ""

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn, at once; what is new is put before the annotator."""
        await anyio.lowlevel.checkpoint()
        out = []
        for view in views:
            said = captions(view.episode)
            self._offer(said)
            times = Counter[str]()
            row = []
            for caption, value in zip(said, self.values(said), strict=True):
                times[same := _NUMBER.sub("#", caption)] += 1
                row.append(Verdict("scored", float(value) / times[same] ** 0.5 if caption else 0.0))
            out.append(row)
        return out

    def values(self, said: Sequence[str]) -> np.ndarray[Any, Any]:
        """``[B]`` of what was distilled so far; 0 before anything was."""
        with self._lock:
            if self.form == "hash":
                self.counts["met again"] += sum(c in self.known for c in said)
                return np.array([self.known.get(c, 0.0) for c in said])
            if not self.net.steps or not said:
                return np.zeros(len(said))
            raw_B = self.net.forward(hashed(list(said)))[:, 0].astype(np.float64)
        if self.form == "rank":
            raw_B = (raw_B - self.middle) / max(self.spread, 1e-6)
        return 0.5 * (1.0 + np.tanh(0.5 * raw_B))

    def _offer(self, said: Sequence[str]) -> None:
        """Put new captions into the queue; never wait."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="agentgym-annotator", daemon=True)
            self._thread.start()
        for caption in dict.fromkeys(said):
            if caption and caption not in self._asked:
                try:
                    self._queue.put_nowait(caption)
                except queue.Full:
                    self.counts["dropped"] += 1
                else:
                    self._asked.add(caption)

    # Beside the run

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                self._learn(batch)
            except Exception as error:
                self.counts["failed"] += len(batch)
                self._last = f"{type(error).__name__}: {error}"[:200]
                self._asked.difference_update(batch)
                time.sleep(PAUSE)
            for _ in batch:
                self._queue.task_done()

    def _learn(self, batch: list[str]) -> None:
        self.counts["asked"] += len(batch)
        if self.form == "rank":
            self._pool = [*self._pool, *batch][-4 * QUEUE :]
            pairs = [(c, self._pool[int(self._random.integers(len(self._pool)))]) for c in batch if len(self._pool) > 1]
            told = [(a, b, y) for (a, b), y in zip(pairs, self.annotator.better(pairs), strict=True) if y is not None and a != b]
            self.counts["unclear"] += len(pairs) - len(told)
            if told:
                self._fit_pairs(told)
            return
        labels = self.annotator.labels(batch)
        if len(labels) != len(batch):
            raise AgentGymError(f"{len(labels)} labels for {len(batch)} captions")
        found = {c: float(v) for c, v in zip(batch, labels, strict=True) if v is not None}
        self.counts["unclear"] += len(batch) - len(found)
        with self._lock:
            self.known |= found
        if self.form == "classify" and found:
            self._fit_labels()

    def _fit_labels(self) -> None:
        """A few steps of logistic regression on a sample of the labels, the newest among them."""
        captions = list(self.known)
        for _ in range(8):
            chosen = [captions[int(i)] for i in self._random.integers(len(captions), size=min(32, len(captions)))] + captions[-BATCH:]
            y_B1 = np.array([[self.known[c]] for c in chosen], dtype=np.float32)
            with self._lock:
                p_B1 = 0.5 * (1 + np.tanh(0.5 * self.net.forward(hashed(chosen))))
                self.net.backward((p_B1 - y_B1) / np.float32(len(chosen)))

    def _fit_pairs(self, told: Sequence[tuple[str, str, float]]) -> None:
        """Bradley and Terry: P(a before b) = σ(s(a) − s(b)). The scores' mean and deviation are kept for the reward's scale."""
        first, second = hashed([a for a, _, _ in told]), hashed([b for _, b, _ in told])
        y_B1 = np.array([[y] for _, _, y in told], dtype=np.float32)
        for _ in range(8):
            with self._lock:
                s_B1 = self.net.forward(np.concatenate([first, second]))
                n = len(told)
                p_B1 = 0.5 * (1 + np.tanh(0.5 * (s_B1[:n] - s_B1[n:])))
                grad_B1 = (p_B1 - y_B1) / np.float32(n)
                self.net.backward(np.concatenate([grad_B1, -grad_B1]))
        with self._lock:
            s_P = self.net.forward(hashed(self._pool[-QUEUE:]))[:, 0]
            self.middle, self.spread = float(s_P.mean()), float(s_P.std())

    def settle_down(self, seconds: float) -> bool:
        """Wait until everything that was offered has been asked about; False if that takes longer."""
        until = time.monotonic() + seconds
        while self._queue.unfinished_tasks:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def notes(self) -> list[str]:
        """What the annotator missed, for the end of a run."""
        missed = {k: self.counts[k] for k in ("failed", "unclear", "dropped") if self.counts[k]}
        if waiting := self._queue.unfinished_tasks:
            missed["without an answer yet"] = waiting
        said = ", ".join(f"{n} {k}" for k, n in missed.items())
        lost = f"annotation: {self.counts['asked']} captions asked, {said}" + (f" ({self._last})" if self._last else "") + "; the last distilled model paid"
        never = f"annotation: none of {len(self.known)} labelled captions was met again, so nothing was paid; annotation:classify reads what is new"
        return [lost] * bool(missed) + [never] * (self.form == "hash" and len(self.known) > 0 and not self.counts["met again"])

    def state(self) -> bytes:
        """Labels, model, and counts."""
        with self._lock:
            rest = {"known": self.known, "counts": dict(self.counts), "middle": self.middle, "spread": self.spread, "pool": self._pool}
            return arrays(self.net.arrays("net"), msgspec.to_builtins(rest))

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        found, rest = unarrays(state)
        self.net.load("net", found)
        self.known, self.counts = dict(rest["known"]), Counter(rest["counts"])
        self.middle, self.spread, self._pool = rest["middle"], rest["spread"], list(rest["pool"])
        self._asked |= self.known.keys()
