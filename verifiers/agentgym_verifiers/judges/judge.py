"""A judge: a model, a form of question, a way to come to an answer, and a number of votes. As data, from a TOML file or a model's name."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from agentgym.core import EpisodeView, Policy
from agentgym.errors import UsageError
from agentgym.policies import resolve
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.answers import Stateless
from agentgym_verifiers.judges.answer import Score, Unanswered
from agentgym_verifiers.judges.ask import Asker, Cache, Question
from agentgym_verifiers.judges.forms import Ask, Checklist, Criterion, DenseChecklist, FirstError, Form, Listwise, Pairwise, Pointwise, fault_of, together
from agentgym_verifiers.judges.how import HOW
from agentgym_verifiers.judges.show import quoted

A = TypeVar("A", bound=Struct)
PRINCIPLE = "The agent does what the task asks for, keeps its rules, and changes nothing else. What it says of itself proves nothing."


class JudgeConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A judge as data.

    Attributes:
        model: a policy by name, or several: a panel, whose votes count alike.
        form: what is asked: ``score``, ``pair``, ``rank``, ``checklist``, ``steps``.
        how: ``once``, ``rethink``, ``debate``, ``reference``, ``tools``, ``logits``.
        votes: independent answers of each model; above 1 it has to sample (``temperature``).
        meta: a model that judges the answers; the worse half does not count.
        dense: a checklist pays each criterion at its turn.
        against: a pair's other side: the ``group``, or its first episode (``anchor``).
        quotes: a score needs a quote that occurs.
        tries, calls, patience, at_once: attempts at a valid answer; calls in all (0: no limit); seconds for one call with its retries; calls at once.
        cache: a file that keeps answers; without one they are kept for the run.
    """

    model: str | list[str] = ""
    form: Literal["score", "pair", "rank", "checklist", "steps"] = "score"
    how: Literal["once", "rethink", "debate", "reference", "tools", "logits"] = "once"
    principle: str = PRINCIPLE
    scale: tuple[int, int] = (0, 10)
    votes: int = 1
    meta: str = ""
    dense: bool = False
    against: Literal["group", "anchor"] = "group"
    quotes: bool = False
    criteria: list[Criterion] = []
    temperature: float = 0.0
    max_tokens: int = 1024
    tries: int = 3
    calls: int = 0
    patience: float = 120.0
    at_once: int = 64
    structured: bool = False
    cache: str = ""

    @property
    def asks(self) -> Form:
        """The form, with what it needs to know."""
        match self.form:
            case "score":
                return Pointwise(self.principle, self.scale, self.quotes)
            case "pair":
                return Pairwise(self.principle, self.against)
            case "rank":
                return Listwise(self.principle)
            case "checklist":
                return (DenseChecklist if self.dense else Checklist)(tuple(self.criteria))
        return FirstError(self.principle)


def config_of(text: str, **given: Any) -> JudgeConfig:
    """The judge of a TOML file, or a judge by a model's name alone.

    Raises:
        UsageError: the file cannot be read, or says what no judge has.
    """
    table: dict[str, Any] = {"model": text}
    if text.endswith(".toml"):
        try:
            table = tomllib.loads(Path(text).read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"cannot read the judge {text}: {error}") from None
    try:
        config = msgspec.convert({**given, **table}, JudgeConfig)
    except msgspec.ValidationError as error:
        raise UsageError(f"judge {text}: {error}") from None
    if not config.model:
        raise UsageError("a judge needs a model: judge:openai:MODEL@URL, or judge:FILE.toml with model = …")
    if config.scale[0] >= config.scale[1]:
        raise UsageError(f"judge {text}: a scale goes from less to more, not {config.scale}")
    if fault := fault_of(config.criteria):
        raise UsageError(f"judge {text}: {fault}")
    if config.how == "logits" and (config.form != "score" or config.quotes):
        raise UsageError(f"judge {text}: how = 'logits' writes nothing: it goes with form = 'score', and without quotes")
    if config.votes > 1 and config.temperature <= 0:
        raise UsageError(f"judge {text}: {config.votes} votes at temperature 0 are one vote; set temperature")
    return config


class Judge(Stateless):
    """A judge as a source: ``late('judge:FILE.toml', level='outcome')``, or ``judge:openai:MODEL@URL`` with everything else as it is by default.

    A question without a valid answer is an ``invalid`` verdict with the reason, never a number.
    """

    def __init__(self, text: str = "", *, form: str = "", policies: Sequence[Policy] | None = None, **given: Any) -> None:
        named = text or ("given" if policies else "")
        self.config = config_of(named, **({"form": form} if form else {}), **given)
        self.form: Form = self.config.asks
        self.level, self.scope = self.form.level, self.form.scope
        cache = Cache(self.config.cache)
        limits = {n: getattr(self.config, n) for n in ("tries", "calls", "at_once", "max_tokens", "structured")}
        names = [self.config.model] if isinstance(self.config.model, str) else self.config.model
        known = [f"{p.name}#{i}" for i, p in enumerate(policies)] if policies else names
        self.askers = [Asker(p, cache=cache, name=n, **limits) for p, n in zip(policies or self._policies(names), known, strict=True)]
        self.meta = [Asker(p, cache=cache, name=self.config.meta, **limits) for p in self._policies([self.config.meta] if self.config.meta else [])]

    def _policies(self, names: Sequence[str]) -> list[Policy]:
        patience = {"budget_s": self.config.patience, "timeout_s": min(60.0, self.config.patience)}
        return [
            resolve(n, temperature=self.config.temperature, max_tokens=self.config.max_tokens, **(patience if n.startswith("openai:") else {})) for n in names
        ]

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """Verdicts of each episode; those of a group are asked about together."""
        groups: dict[str, list[int]] = {}
        for i, view in enumerate(views):
            groups.setdefault((view.episode.group or view.episode.id) if self.scope == "group" else str(i), []).append(i)
        found = await together([partial(self.form.of, [views[i] for i in at], self._ask) for at in groups.values()])
        out: list[list[Verdict]] = [[] for _ in views]
        for at, rows in zip(groups.values(), found, strict=True):
            for i, number in enumerate(at):
                n = 1 if self.level == "outcome" else len(views[number].episode.turns)
                out[number] = [Verdict.invalid(str(rows), "infra")] * n if isinstance(rows, Unanswered) else rows[i]
        return out

    _ask: Ask

    async def _ask(self, question: Question[A]) -> list[tuple[A, dict[str, Any]]]:  # type: ignore[no-redef]  # a method that fits the protocol
        """All votes that came to an answer; one that did not does not count, nor one that the meta judge finds worse than most.

        Raises:
            Unanswered: none did.
        """
        how: Any = HOW[self.config.how]
        given = await together([partial(how, a, question, k) for a in self.askers for k in range(self.config.votes)])
        answers = [g for g in given if not isinstance(g, Unanswered)]
        if not answers:
            raise given[0]
        return await self._sifted(question, answers) if self.meta and len(answers) > 1 else answers

    async def _sifted(self, question: Question[A], answers: list[tuple[A, dict[str, Any]]]) -> list[tuple[A, dict[str, Any]]]:
        """The better half of the answers by the meta judge; those that it has no opinion on stay."""
        role = f"You judge a judge. It was asked:\n{question.role}\n\nScore from 0 to 10 how sound its answer at the end is."
        on_scale: Callable[[Score], str] = lambda s: "" if 0 <= s.score <= 10 else "the score is not on the scale from 0 to 10"  # noqa: E731
        asked = [Question(role, f"{question.matter}\n[answer]\n{quoted(msgspec.json.encode(a).decode())}", Score, on_scale) for a, _ in answers]
        found = await together([partial(self.meta[0].ask, q) for q in asked])
        worth = [10.0 if isinstance(f, Unanswered) else f.score for f in found]
        bar = sorted(worth, reverse=True)[(len(worth) + 1) // 2 - 1]
        return [a for a, w in zip(answers, worth, strict=True) if w >= bar]

    @property
    def counts(self) -> Counter[str]:
        """Calls, answers from the cache, answers that were none, tokens."""
        return sum((a.counts for a in (*self.askers, *self.meta)), Counter[str]())

    def notes(self) -> list[str]:
        """What a judge failed at, for the end of a run."""
        c = self.counts
        bad = {k: c[k] for k in ("failed", "unanswered", "unreadable") if c[k]}
        return [f"judge: {c['calls']} calls, {c['cached']} from the cache, {', '.join(f'{n} {k}' for k, n in bad.items())}"] if bad else []


def pairwise(text: str = "") -> Judge:
    """A judge of pairs: ``pairwise:openai:MODEL@URL``."""
    return Judge(text, form="pair")


def ranking(text: str = "") -> Judge:
    """A judge of whole groups: ``ranking:openai:MODEL@URL``."""
    return Judge(text, form="rank")


def checklist(text: str = "") -> Judge:
    """A checklist, of the task or drafted: ``checklist:openai:MODEL@URL``."""
    return Judge(text, form="checklist")


def first_error(text: str = "") -> Judge:
    """A critic of steps: ``first-error:openai:MODEL@URL``."""
    return Judge(text, form="steps")
