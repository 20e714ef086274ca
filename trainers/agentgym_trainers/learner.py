"""A run's learning side: episodes → what they were paid → streams → one or more updates of the policy and the other roles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgym.core import AgentEnv
from agentgym.episode import Episode
from agentgym.errors import TrainingStopped
from agentgym.rewards import groups
from agentgym_trainers.advantage import ADVANTAGES, streams
from agentgym_trainers.algorithm import Algorithm, options_of, parts
from agentgym_trainers.objective import OBJECTIVES
from agentgym_trainers.paid import Paid, paid, reward_stream, spread
from agentgym_trainers.pairs import pair_batch
from agentgym_trainers.regulariser import EntropyBand, Occupancy, charged, corrected, kl_cost, pass_rate, reweighted, weights_of
from agentgym_trainers.renderer import ChatRenderer
from agentgym_trainers.rewrite import retold
from agentgym_trainers.roles import Critic, Process, Reference, RewardModel, Role
from agentgym_trainers.streams import Batch, make_batch, outside, summed, turn_of, weigh
from agentgym_trainers.update import Part, gradient, score, update

BAD_STEPS = 3
"""So many updates in a row that are not finite stop a run."""


@dataclass(frozen=True)
class Pace:
    """How an update is made: optimiser updates per batch, learning rate now, largest gradient norm, longest action, share of the run done."""

    updates: int = 1
    lr: float = 1e-4
    max_norm: float = 1.0
    longest: int = 64
    done: float = 0.0
    version: int = 0


class Learner:
    """Everything that learns, and what it must remember. ``demonstrate`` gives oracle episodes with tokens, for auxiliary losses."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        renderer: ChatRenderer,
        env: AgentEnv,
        algorithm: Algorithm,
        demonstrate: Callable[[int], list[Episode]] | None = None,
    ) -> None:
        self.model, self.optimizer, self.renderer, self.env, self.algorithm = model, optimizer, renderer, env, algorithm
        self.demonstrate = demonstrate
        self.chosen = parts(algorithm)
        self.restart()

    def restart(self) -> None:
        """Make every role from the policy as it is now, and forget what was learned beside it."""
        algorithm, model = self.algorithm, self.model
        self.roles: dict[str, Role] = {}
        if algorithm.kl or algorithm.auxiliary.get("stay") or algorithm.guide or algorithm.confidence or self._against_reference:
            self.roles["reference"] = Reference(model, algorithm.refresh)
        if ADVANTAGES[algorithm.advantage].values:
            self.roles["value"] = Critic(model, **options_of(algorithm, Critic))
        made: dict[str, Callable[..., Role]] = {"process": Process, "reward_model": RewardModel}
        self.roles |= {name: made[name](model, **options_of(algorithm, made[name])) for name in algorithm.roles}
        self.band = EntropyBand(**options_of(algorithm, EntropyBand)) if algorithm.band else None
        self.occupancy = Occupancy() if algorithm.occupancy else None
        self.mix = algorithm.auxiliary.get("imitation", 0.0)
        self.bad = 0

    @property
    def _against_reference(self) -> bool:
        a = self.algorithm
        return a.objective == "preference" and a.options.get("against", "reference") == "reference"

    # One step

    def learn(self, episodes: Sequence[Episode], pace: Pace) -> dict[str, float]:
        """Update on the episodes of one step. Returns what was measured.

        Raises:
            TrainingStopped: the third update in a row whose loss or gradient is not finite.
        """
        ledger = paid(episodes, self.env.reward, self.renderer.tokenizer.decode)
        row = _summary(episodes, ledger)
        keep = np.flatnonzero(~np.isnan(ledger.whole_B))
        if self.occupancy is not None and len(keep):
            ledger = self._charge_states(list(episodes), ledger, row)
        made = self.batch([episodes[int(i)] for i in keep], ledger.take(keep), pace)
        if made is None:
            return {**row, "trained": 0.0}
        batch, whole = made
        row["trained"] = len(torch.unique(batch.episode_N)) / len(episodes)
        age_N = (pace.version - whole.version_N[(whole.mask_N > 0) & (whole.version_N >= 0)]).clamp(min=0).float()
        row |= {"staleness": float(age_N.mean()), "staleness_max": float(age_N.max())} if len(age_N) else {}
        for group in self.optimizer.param_groups:
            group["lr"] = pace.lr
        rows = []
        unit_N = batch.pair_N if self.algorithm.pairs else batch.episode_N
        for k in range(pace.updates):
            index_M = torch.nonzero(unit_N % pace.updates == k)[:, 0]
            if len(index_M) or self.algorithm.auxiliary:
                rows.append(self._step(batch.take(index_M), pace, len(episodes)))
        learned = {name: sum(r[name] for r in rows) / len(rows) for name in (rows[0] if rows else ())}
        for role in self.roles.values():
            learned |= role.update(whole)
        row["tokens_trained"] = float(batch.mask_N.sum())
        return {**row, **learned}

    def _step(self, batch: Batch, pace: Pace, count: int) -> dict[str, float]:
        """One optimiser update of the policy."""
        main = Part(
            batch, self.algorithm.objective, options_of(self.algorithm, self.chosen["objective"]), float(pace.updates),
            self.algorithm.kl if self.algorithm.kl_in == "loss" else 0.0, self.algorithm.divergence, self.algorithm.entropy,
            self.band.now(pace.done) if self.band else None,
        )  # fmt: skip
        summands = [main, *self._auxiliary(count)]
        if self.algorithm.mix:
            self._learn_mix(main, summands[1])
            summands[:2] = [replace(main, scale=main.scale * (1 - self.mix)), replace(summands[1], scale=self.mix)]
        row = update(self.model, self.optimizer, summands, max_norm=pace.max_norm)
        if self.band is not None:
            self.band.learn(row["entropy_by_turn"])
        self.bad = self.bad + 1 if row["skipped"] else 0
        if self.bad >= BAD_STEPS:
            raise TrainingStopped(f"{BAD_STEPS} updates in a row were not finite; lower --lr, or look at the episodes of this step")
        return {**row, **({"mix": self.mix} if self.algorithm.mix else {})}

    def _auxiliary(self, count: int) -> list[Part]:
        """The further losses, on oracle episodes."""
        wanted = {k: w for k, w in self.algorithm.auxiliary.items() if w}
        if not wanted:
            return []
        assert self.demonstrate is not None
        shown = self.demonstrate(max(2, count // 4))
        made = []
        for name in ("imitation", "next_token", "stay"):
            if name not in wanted:
                continue
            batch = make_batch(shown, [1.0] * len(shown), "token")
            if name == "next_token":
                batch = weigh(replace(batch, mask_N=torch.ones_like(batch.mask_N)), "token")
            if name == "stay":
                batch = replace(batch.having(reference=self.roles["reference"].score(batch)), advantage_N=torch.zeros_like(batch.advantage_N))
            made.append(Part(batch, "reinforce", scale=1.0 if name == "stay" else wanted[name], kl=wanted[name] if name == "stay" else 0.0))
        return made

    def _learn_mix(self, main: Part, imitation: Part) -> None:
        """Move the share of imitation by what one step of either loss would do to the return on the other half of the batch (a meta-gradient).

        Source: "AMFT: Aligning LLM Reasoners by Meta-Learning the Optimal Imitation-Exploration Balance"; one step and cosines are ours.
        """
        odd_N = main.batch.episode_N % 2 == 1
        halves = [replace(main, batch=main.batch.take(torch.nonzero(half_N)[:, 0])) for half_N in (odd_N, ~odd_N)]
        if any(not len(h.batch) for h in halves):
            return
        ahead, explore, imitate = (gradient(self.model, [p]) for p in (halves[0], halves[1], imitation))
        self.mix = moved_mix(self.mix, self.algorithm.mix, ahead, explore, imitate)

    # From episodes to a batch

    def batch(self, episodes: list[Episode], ledger: Paid, pace: Pace) -> tuple[Batch, Batch] | None:
        """The policy's batch (it may be empty), and the whole one that other roles learn from; None where no episode may teach anything."""
        if not episodes:
            return None
        a = self.algorithm
        whole = make_batch(episodes, [0.0] * len(episodes), "sequence" if a.aggregation == "pair" else a.aggregation, constant=pace.longest)
        whole = self._scored(whole, [e.success for e in episodes])
        ledger = self._process_terms(whole, ledger)
        if a.kl and a.kl_in == "reward":
            whole = kl_cost(whole, a.kl, a.divergence)
            if not ADVANTAGES[a.advantage].values:
                ledger = charged(ledger, _by_turn(whole, whole.scored["kl_cost"], ledger))
        if a.pairs:
            return pair_batch(episodes, ledger, a, self.model, self.roles.get("reference"), self.tell) or whole.take(torch.zeros(0, dtype=torch.long)), whole
        advantage_N, return_N = streams(a.advantage, whole, ledger, **options_of(a, self.chosen["advantage"]))
        whole = replace(whole, advantage_N=advantage_N, return_N=return_N)
        whole = whole.having(rate=spread(whole, pass_rate(ledger)[:, None]), reward=reward_stream(whole, ledger))
        if a.correction:
            whole = corrected(whole.having(proximal=score(self.model, whole)), a.correction, float(a.options.get("correction_most", 2.0)))
        whole = reweighted(whole, weights_of(a.weights), ledger, pace.version)
        return whole.take(torch.nonzero(self._used(whole))[:, 0]), whole

    def tell(self, episode: Episode, text: str) -> Episode:
        """An episode again, as if its prompt had held ``text`` too."""
        return retold(episode, self.renderer, [t.spec for t in self.env.tools.values()], text)

    def _used(self, batch: Batch) -> Tensor:
        """The tokens of episodes that move anything; groups whose advantages are all 0 need no forward."""
        a, everywhere = self.algorithm, OBJECTIVES[self.algorithm.objective].everywhere
        beside = a.kl + (a.entropy if a.entropy_of == "all" else 0.0)
        if beside or (a.options.get(everywhere) if isinstance(everywhere, str) else everywhere):
            moves_N = batch.weight_N.abs() + beside
        else:
            moves_N = (batch.advantage_N * batch.weight_N).abs()
        return summed(moves_N * batch.mask_N, batch.episode_N) > 1e-9

    def _scored(self, batch: Batch, success: list[bool]) -> Batch:
        """Every role's stream beside it, and each episode's outcome."""
        batch = batch.having(outcome=torch.tensor(success).float()[batch.episode_N], share=torch.full((len(batch),), 1 / len(success)))
        for name, role in self.roles.items():
            batch = batch.having(**{name: role.score(batch)})
        return batch

    def _process_terms(self, batch: Batch, ledger: Paid) -> Paid:
        """What learned roles pay: an implicit reward to each turn, a reward model's number to the episode."""
        if "process" in self.roles:
            ledger = charged(ledger, -_by_turn(batch, batch.scored["process"], ledger))
        if "reward_model" in self.roles and getattr(self.roles["reward_model"], "trusted", True):
            paid_BT = _by_turn(batch, batch.scored["reward_model"], ledger)
            ledger = replace(ledger, whole_B=ledger.whole_B + np.nansum(paid_BT, axis=1))
        return ledger

    def _charge_states(self, episodes: list[Episode], ledger: Paid, row: dict[str, float]) -> Paid:
        """Pay for states that the starting policy met less often; the first batch is the starting policy's."""
        assert self.occupancy is not None
        anchors = [[e.start_anchor, *(t.anchor for t in e.turns[:-1])] for e in episodes]
        if not self.occupancy.base:
            self.occupancy.learn(anchors)
        row["chi2"] = self.occupancy.divergence(anchors)
        return charged(ledger, self.occupancy.cost(anchors, ledger.turn_BT.shape[1], self.algorithm.occupancy))

    # What a checkpoint keeps

    def state(self) -> dict[str, Any]:
        """Everything beside the policy and its optimiser."""
        return {
            "roles": {name: role.state() for name, role in self.roles.items()}, "mix": self.mix, "bad": self.bad,
            "band": self.band.history if self.band else [], "base": dict(self.occupancy.base) if self.occupancy else {},
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        for name, role in self.roles.items():
            role.load_state(state["roles"][name])
        self.mix, self.bad = state["mix"], state["bad"]
        if self.band is not None:
            self.band.history = list(state["band"])
        if self.occupancy is not None:
            self.occupancy.base.update(state["base"])


def moved_mix(mix: float, rate: float, ahead: Tensor, explore: Tensor, imitate: Tensor) -> float:
    """The share of imitation after one step of its controller, in [0, 1]: up if imitation's gradient serves the return better than exploring's."""

    def agrees(x: Tensor) -> float:
        scale = float(ahead.norm() * x.norm())
        return float(ahead @ x) / scale if scale > 0 and math.isfinite(scale) else 0.0

    return min(1.0, max(0.0, mix + rate * (agrees(imitate) - agrees(explore))))


def _by_turn(batch: Batch, x_N: Tensor, ledger: Paid) -> Any:
    """``[B, T]``: the sum of a stream over each turn's tokens."""
    out_BT = np.zeros(ledger.turn_BT.shape)
    np.add.at(out_BT, (batch.episode_N.numpy(), turn_of(batch).numpy()), x_N.double().numpy())
    return out_BT


def _summary(episodes: Sequence[Episode], ledger: Paid) -> dict[str, float]:
    """What the policy's own episodes of a step were like: reward, its terms by source, success, length."""
    own_B = np.array([not outside(e) for e in episodes], dtype=bool)
    n, total_B = int(own_B.sum()), ledger.total_B
    known_B = ~np.isnan(total_B) & own_B
    mine = [e for e, own in zip(episodes, own_B, strict=True) if own]
    deviation = groups.std(np.where(own_B, total_B, np.nan), ledger.group_B)
    return {
        "reward": float(total_B[known_B].mean()) if known_B.any() else 0.0,
        "reward_std": float(np.nanmean(deviation)) if (~np.isnan(deviation)).any() else 0.0,
        "success": sum(e.success for e in mine) / max(1, sum(e.decided for e in mine)),
        "invalid": sum(e.status != "valid" for e in mine) / max(1, n), "unpaid": 1 - int(known_B.sum()) / n if n else 0.0,
        "turns": sum(len(e.turns) for e in mine) / max(1, n),
        **{f"term:{name}": float(x_B[known_B].mean()) if known_B.any() else 0.0 for name, x_B in ledger.source_B.items()},
    }  # fmt: skip
