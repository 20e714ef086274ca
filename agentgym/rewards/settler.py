"""What the rollout settles after an episode: verdicts of stateful sources, terms that need a group, numbers of the run.

The record keeps what was used (verdicts of sources, dials), so that ``settle`` stays a pure function of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import anyio
import msgspec

from agentgym.core import EpisodeView, Policy
from agentgym.episode import Episode
from agentgym.errors import AgentGymError, CapabilityError
from agentgym.grading import checked
from agentgym.rewards.spec import Spec
from agentgym.rewards.table import Table
from agentgym.verdict import Verdict

Scope = Literal["episode", "group", "batch"]


class Source(Protocol):
    """Gives verdicts that need more than one record: state (novelty), a model (a judge), other episodes (a vote).

    ``level``: a verdict for each turn (``step``) or one for the episode (``outcome``). ``scope``: how much it must see at once. One that
    asks for the policy's own probabilities has a true attribute ``scores``.
    """

    @property
    def level(self) -> Literal["step", "outcome"]: ...

    @property
    def scope(self) -> Scope: ...

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """For each valid episode, in order, its verdicts: one per turn, or a single one."""
        ...

    def state(self) -> bytes:
        """What a checkpoint keeps."""
        ...

    def load_state(self, state: bytes, /) -> None: ...


class Settler:
    """The late side of a spec, and its state: sources by name, and the dials (training step, multipliers, running means)."""

    def __init__(self, spec: Spec, sources: Mapping[str, Source], limit_s: float = 600.0) -> None:
        self.spec, self.sources, self.limit_s = spec, dict(sources), limit_s
        self.dials: dict[str, float] = {"step": 0.0}
        self.needs = {n.needs for n in spec.nodes()}

    @property
    def scope(self) -> Scope:
        """What must be complete before anything can be settled."""
        wide: tuple[Scope, ...] = ("episode", "group", "batch")
        found = [wide.index(s.scope) for s in self.sources.values()]
        return wide[max([int("group" in self.needs), *found])]

    def fit(self, policy: Policy) -> None:
        """Raise ``CapabilityError`` if a source needs what the policy cannot give."""
        for name, source in self.sources.items():
            if getattr(source, "scores", False) and not hasattr(policy, "score"):
                raise CapabilityError(f"late({name!r}) asks for probabilities that {policy.name} does not have; take one that owns weights (hf:PATH)")

    async def settle(self, views: Sequence[EpisodeView], policy: Policy) -> None:
        """Write the sources' verdicts, the dials and all terms into the records of valid episodes."""
        valid = [v.episode for v in views]
        for name, source in self.sources.items():
            for episode, verdicts in zip(valid, await self._ask(source, views, policy), strict=True):
                if source.level == "outcome":
                    episode.late[name] = verdicts[0]
                else:
                    for turn, verdict in zip(episode.turns, verdicts, strict=True):
                        turn.late[name] = verdict
        for episode in valid:
            episode.dials = dict(self.dials) if "run" in self.needs else {}
        for episode, terms in zip(valid, self.spec.settle(valid), strict=True):
            episode.terms = terms

    async def _ask(self, source: Source, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A source's verdicts, each checked; all ``invalid`` where it raises, gives too few, or waits for longer than ``limit_s``."""
        wanted = [1 if source.level == "outcome" else len(v.episode.turns) for v in views]
        try:
            with anyio.fail_after(self.limit_s):
                given = [[checked(verdict) for verdict in row] for row in await source.judge(views, policy)]
        except AgentGymError:
            raise
        except Exception as error:
            given, why = [], f"{type(error).__name__}: {str(error)[:500]}"
        else:
            why = "it gave another number of verdicts than there are turns"
        fits = [len(row) for row in given] == wanted
        return given if fits else [[Verdict.invalid(why)] * n for n in wanted]

    def advance(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn from a batch what the run learns (dual ascent, running statistics); return the dials from now on."""
        table = Table([e for e in episodes if e.status == "valid" and not self.spec.lacking(e)])
        if table.episodes:
            for node in self.spec.nodes():
                self.dials |= node.tune(table, self.dials)
        self.dials["step"] = float(step)
        return self.dials

    def notes(self) -> list[str]:
        """What sources that have ``notes`` say at the end of a run."""
        return [note for source in self.sources.values() for note in getattr(source, "notes", list)()]

    def state(self) -> bytes:
        """Everything a resumed run needs."""
        return msgspec.msgpack.encode({"dials": self.dials, "sources": {n: s.state() for n, s in self.sources.items()}})

    def load_state(self, state: bytes) -> None:
        """Continue from ``state``."""
        found = msgspec.msgpack.decode(state)
        self.dials = found["dials"]
        for name, source in self.sources.items():
            source.load_state(found["sources"][name])
