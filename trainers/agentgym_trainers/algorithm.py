"""An algorithm is data: names of primitives and their options. Rows of ``algorithms.toml``, or of any installed package's table."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentgym.errors import UnknownName, UsageError
from agentgym.registry import installed, load
from agentgym_trainers.lesson import lessons


class Algorithm(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is sampled, what of it is learned from, and how. Every part is chosen by name; ``options`` go to the parts that have them.

    Attributes:
        reward: the reward spec it is meant for, where that is not the environment's ``outcome``.
        curriculum, sampler, choose: which tasks, how many episodes of each, which of them are learned from.
        pairs: make pairs of a group's episodes, for objective ``preference``.
        hint: further attempts at tasks that failed, told a ``critique`` or the ``answer``, which is stripped before training.
        condition: learn each pair under either score, the score told in the prompt.
        splice: learn failed episodes up to where a successful sibling shares their state, and that one's way from there.
        budget: limits that move over the updates, as ``{max_tokens = [from, to, updates]}``, also ``max_turns``.
        advantage, objective, aggregation: how returns become a loss.
        weights: factors of the loss (see ``regulariser.Weights``).
        confidence, guide: how sure a pair is, and which of its tokens count.
        correction: for samples of older weights; ratios are then against the policy at the start of the update.
        kl, divergence, kl_in, refresh: distance to the reference, in the loss or the reward; updates between refreshes of the reference.
        entropy, band, entropy_of: weight of the entropy, whether it is held in a band around its own history, and of which episodes it is: of those that
            an advantage moves (``decided``), or of ``all``. Where it is all that pulls, an optimiser that scales its
            steps takes whole ones along it.
        occupancy: weight of the chi-squared distance of visited states to the starting policy's.
        auxiliary: weights of further losses: ``imitation`` and ``next_token`` on oracle episodes, ``stay`` (distance to the reference there).
        mix: rate at which the share of ``imitation`` is learned, 0 leaves it.
        roles: learned beside the policy: ``process``, ``reward_model``; a critic comes with the advantage that needs it.
    """

    name: str
    paper: str = ""
    reward: str = ""
    curriculum: Literal["shuffle", "difficulty", "regret", "growing"] = "shuffle"
    sampler: str = "fixed"
    choose: str = "all"
    pairs: Literal["", "best_worst", "all"] = ""
    hint: Literal["", "critique", "answer"] = ""
    condition: bool = False
    splice: bool = False
    budget: dict[str, tuple[int, int, int]] = {}
    advantage: str = "grpo"
    objective: str = "clipped"
    aggregation: str = "sequence"
    weights: dict[str, float] = {}
    confidence: Literal["", "ranking", "agreement"] = ""
    guide: Literal["", "reference", "implicit", "contrast"] = ""
    correction: str = ""
    kl: float = 0.0
    divergence: str = "k3"
    kl_in: Literal["loss", "reward"] = "loss"
    refresh: int = 0
    entropy: float = 0.0
    band: bool = False
    entropy_of: Literal["decided", "all"] = "decided"
    occupancy: float = 0.0
    auxiliary: dict[str, float] = {}
    mix: float = 0.0
    roles: tuple[Literal["process", "reward_model"], ...] = ()
    options: dict[str, Any] = {}


ABOUT = ("id", "kind", "formula", "summary", "primitives", "needs")
"""What a row says of itself beside the settings: it is then a row of ``agentgym methods`` too."""


def rows() -> dict[str, dict[str, Any]]:
    """The rows of ``algorithms.toml``, by name."""
    return {name: {"name": name, **row} for name, row in tomllib.loads(Path(__file__).with_name("algorithms.toml").read_text()).items()}


PRIMITIVES = {
    "group_baseline": "advantage:ADVANTAGES", "anchor_group_advantage": "advantage:gigpo", "turn_advantage": "advantage:turn",
    "term_normaliser": "advantage:bnpo",
    "clipped_ratio": "objective:clipped", "truncated_is": "regulariser:CORRECTIONS", "advantage_weighted": "objective:weighted",
    "bellman_backup": "objective:bellman", "loss_weight": "regulariser:Weights", "divergence_penalty": "objective:DIVERGENCES",
    "entropy_band": "regulariser:EntropyBand", "auxiliary_loss": "update:Part", "successive_elimination_sampler": "sampler:Eliminate",
    "variance_filter": "sampler:Refill", "rejection_sampling": "sampler:CHOICES", "task_curriculum": "sampler:Growing",
    "preference_loss": "objective:preference",
    "reward_conditioning": "rewrite:retold", "refine_loop": "rewrite:Hinted", "implicit_process_reward": "roles:Process", "outcome_critic": "roles:Critic",
    "sibling_pairs": "rewrite:spliced", "reward_model_update": "roles:RewardModel", "label_confidence": "fitting:strengths",
    "demonstration_reward": "teach:labels",
}  # fmt: skip
"""Published primitives that are here, and where."""


def methods() -> dict[str, Any]:
    """What ``agentgym methods`` shows of this package: its primitives, and every row that is a published method."""
    shown = [
        {**{k: row[k] for k in ("id", "paper", "kind", "primitives", "formula", "summary")}, "recipe": described(row), "algo": name}
        for name, row in rows().items()
        if "id" in row
    ]
    shown += [
        {**{k: row[k] for k in ("id", "paper", "kind", "primitives", "formula", "summary")}, "recipe": described(row), "algo": name, "role": "verifier"}
        for name, row in lessons().items()
        if "id" in row
    ]
    return {"primitives": {name: f"agentgym_trainers.{where}" for name, where in PRIMITIVES.items()}, "method": shown}


def described(row: Mapping[str, Any]) -> str:
    """The settings of a row in a line."""
    told = {k: v for k, v in row.items() if k not in (*ABOUT, "name", "paper", "options")}
    return "; ".join(f"{k} = {v!r}" for k, v in {**told, **row.get("options", {})}.items()) or "advantage = 'grpo'; objective = 'clipped'"


def known() -> dict[str, dict[str, Any]]:
    """Every installed algorithm by name: each entry point of ``agentgym.algorithms`` gives a table of rows."""
    return {name: row for table in sorted(installed("algorithms")) for name, row in load("algorithms", table)().items()}


def resolve(name: str, given: Mapping[str, Any] | None = None) -> Algorithm:
    """The algorithm of that name, with settings of your own over its: a field of ``Algorithm``, ``weights.positive``, or an option of a part.

    Raises:
        UnknownName: no such algorithm, or no part of it has that option.
        UsageError: a setting has the wrong type.
    """
    table = known()
    if name not in table:
        raise UnknownName("algorithm", name, table)
    row = {k: v for k, v in table[name].items() if k not in ABOUT}
    options = dict(row.pop("options", {}))
    for key, value in (given or {}).items():
        head, _, tail = key.partition(".")
        if tail and head in ("weights", "auxiliary", "budget"):
            row[head] = {**row.get(head, {}), tail: value}
        elif key in Algorithm.__struct_fields__ and key not in ("name", "options", "paper"):
            row[key] = value
        else:
            options[key] = value
    try:
        found = msgspec.convert({**row, "options": options}, Algorithm)
    except msgspec.ValidationError as error:
        raise UsageError(f"algorithm {name}: {error}") from None
    check(found)
    return found


def check(algorithm: Algorithm) -> None:
    """Every name is known, and every option belongs to a part.

    Raises:
        UnknownName, UsageError: with the nearest name, or what does not fit.
    """
    from agentgym_trainers.objective import DIVERGENCES
    from agentgym_trainers.regulariser import CORRECTIONS, weights_of
    from agentgym_trainers.streams import AGGREGATIONS

    chosen = parts(algorithm)
    for what, name, table in (
        ("aggregation", algorithm.aggregation, AGGREGATIONS), ("divergence", algorithm.divergence, DIVERGENCES),
        ("correction", algorithm.correction or next(iter(CORRECTIONS)), CORRECTIONS),
    ):  # fmt: skip
        if name not in table:
            raise UnknownName(what, name, table)
    weights_of(algorithm.weights)
    for name in algorithm.auxiliary:
        if name not in ("imitation", "next_token", "stay"):
            raise UnknownName("auxiliary loss", name, ("imitation", "next_token", "stay"))
    for name in algorithm.budget:
        if name not in ("max_tokens", "max_turns"):
            raise UnknownName("budget", name, ("max_tokens", "max_turns"))
    had = sorted({option for part in chosen.values() for option in accepts(part)} | {"correction_most"})
    for option in algorithm.options:
        if option not in had:
            raise UnknownName(f"option of algorithm {algorithm.name}", option, [*had, *Algorithm.__struct_fields__])
    if algorithm.objective == "preference" and not algorithm.pairs:
        raise UsageError(f"algorithm {algorithm.name}: objective preference needs pairs = best_worst or all")


def parts(algorithm: Algorithm) -> dict[str, Callable[..., Any]]:
    """The chosen functions and classes, by what they are for.

    Raises:
        UnknownName: one of them does not exist.
    """
    from agentgym_trainers import sampler
    from agentgym_trainers.advantage import ADVANTAGES
    from agentgym_trainers.objective import OBJECTIVES
    from agentgym_trainers.regulariser import EntropyBand
    from agentgym_trainers.roles import Critic, Process, RewardModel

    def pick(what: str, name: str, table: Mapping[str, Any]) -> Any:
        if name not in table:
            raise UnknownName(what, name, table)
        return table[name]

    advantage = pick("advantage", algorithm.advantage, ADVANTAGES)
    curricula = {"shuffle": sampler.Shuffle, "growing": sampler.Growing}
    found: dict[str, Callable[..., Any]] = {
        "advantage": advantage.of,
        "objective": pick("objective", algorithm.objective, OBJECTIVES).loss,
        "sampler": pick("sampler", algorithm.sampler, sampler.SAMPLERS),
        "choose": pick("choice", algorithm.choose, sampler.CHOICES),
        "curriculum": curricula.get(algorithm.curriculum, sampler.Prioritised),
    }
    if algorithm.pairs:
        found["pairs"] = sampler.pairs_of
    if algorithm.band:
        found["band"] = EntropyBand
    if advantage.values:
        found["critic"] = Critic
    return found | {name: {"process": Process, "reward_model": RewardModel}[name] for name in algorithm.roles}


_OURS = {"paid", "batch", "now", "group", "groups", "size", "ids", "seed", "by", "how", "length", "model", "self"}


def accepts(part: Callable[..., Any]) -> set[str]:
    """The options of a part: its parameters that have a default, but for those that the trainer gives."""
    found = inspect.signature(part).parameters.values()
    return {p.name for p in found if p.default is not p.empty and (p.name not in _OURS or p.kind is p.KEYWORD_ONLY)}


def options_of(algorithm: Algorithm, part: Callable[..., Any]) -> dict[str, Any]:
    """Those of the algorithm's options that a part has. Lists become tuples."""
    mine = accepts(part)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in algorithm.options.items() if k in mine}
