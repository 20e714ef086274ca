"""How good a verifier is: against what the rules said, on probes that change nothing or everything, and as a guide to the best of n."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agentgym.core import EpisodeView, Task
from agentgym.episode import Episode, encode, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.bundle import seal
from agentgym.evaluation.run import settler_for
from agentgym.evaluation.stats import Interval, bootstrap, share
from agentgym.policies import resolve
from agentgym.registry import installed, verifier
from agentgym.rewards.sources import Late
from agentgym.rewards.spec import Spec, World
from agentgym.rewards.table import Column, Table
from agentgym.rewards.text import load as load_spec

Floats = NDArray[np.float64]
VERDICTS = "verdicts.jsonl"
LEVELS = (1, 2, 4, 8, 16, 32, 64)
"""The n of best-of-n."""


class Judged(Struct, frozen=True):
    """What a verifier made of one episode of a set: its number (NaN: none), its numbers by turn, the rule's label, which probe it is and of what."""

    episode: Episode
    value: float
    turns: list[float]
    label: float
    probe: str
    of: str

    @property
    def first_wrong(self) -> int | None:
        """The first wrong turn, where the set knows it; −1 where nothing was wrong."""
        known: Any = self.episode.provenance.get("probe", {})
        found: int | None = known.get("first_wrong", -1 if self.label == 1.0 else None)
        return found


class VerifierResult(Struct):
    """What ``eval --verifier --json`` prints. Shares in [0, 1], intervals 95%; None where the set says nothing of it.

    ``accuracy`` of values against 1/2; ``pairs`` right of a task's success against a failure (a tie is wrong); ``one_vs_many``: the success above
    every failure of its task. ``kappa`` agreement beyond chance, ``calibration`` the expected calibration error, ``brier`` the squared one.
    ``probes``: by probe, accuracy, the share of verdicts that it turned round, and how far it moved values. ``bias``: correlations of values
    with length and format among equals, and the share of pairs in which a judge stuck to a place. ``best_of``: the rule's success of what the
    verifier likes best of n; ``over_optimisation``: the same beside its own value of it
    (``proxy``) and the divergence ``kl`` in nats. ``last_lowest``: the share of episodes whose least turn is the last.
    """

    verifier: str
    on: str
    episodes: int
    valid: int
    invalid: int
    accuracy: Interval | None
    pairs: Interval | None
    one_vs_many: Interval | None
    kappa: float | None
    calibration: float | None
    brier: float | None
    first_error: dict[str, float]
    last_lowest: float | None
    probes: dict[str, dict[str, float]]
    kinds: dict[str, float]
    bias: dict[str, float]
    best_of: dict[str, Interval]
    over_optimisation: list[dict[str, Any]]
    calls: dict[str, int]
    wall_s: float
    out: str | None = None


def spec_of(text: str) -> Spec:
    """A verifier's name, with its argument, or a whole reward spec over such names (an ensemble, say), as a spec.

    Raises:
        UnknownName, SpecError, UsageError: it names nothing, or makes no sense.
    """
    if "(" in text and not text.partition("(")[0].count(":"):
        return load_spec(text, World({}, dict.fromkeys(installed("verifiers"), "")))
    found = verifier(text)
    if found.level == "action":
        raise UsageError(f"{text} judges actions before they are done; it has no verdict on episodes")
    return Late(text, found.level)


async def judged(spec: Spec, episodes: Sequence[Episode]) -> tuple[list[Judged], dict[str, int]]:
    """What a spec makes of the episodes of a set, and what its sources counted. Late verdicts in the records are not read, but asked for again.

    Sources see no outcome: that is what is to be found out.

    Raises:
        UsageError: it gives numbers of turns and others of whole episodes.
    """
    bare = [_bare(e) for e in episodes]
    settler = settler_for(spec)
    await settler.settle([view_of(e) for e in bare], resolve("noop"))
    for e, whole in zip(bare, episodes, strict=True):
        e.verdicts, e.provenance = whole.verdicts, whole.provenance
    columns = spec.columns(Table(bare))
    whole_E = np.zeros(len(bare))
    turns_ET = None
    if len({_of_turns(c) for c in columns}) > 1:
        raise UsageError("this spec gives numbers of turns and of whole episodes; a verifier gives one or the other")
    for column in columns:
        if _of_turns(column):
            turns_ET = column.value_ET if turns_ET is None else turns_ET + column.value_ET
        else:
            whole_E = whole_E + column.value_ET[:, 0]
    out = []
    for i, e in enumerate(bare):
        turns = [] if turns_ET is None else [float(x) for x in turns_ET[i, : len(e.turns)]]
        out.append(of_set(e, float(whole_E[i]) if turns_ET is None else _whole(turns), turns))
    calls: dict[str, int] = defaultdict(int)
    for source in settler.sources.values():
        for name, n in getattr(source, "counts", {}).items():
            calls[name] += n
    return out, dict(calls)


def of_set(episode: Episode, value: float, turns: list[float]) -> Judged:
    """A verifier's numbers for an episode, beside what the set says of it."""
    about: Any = episode.provenance.get("probe", {})
    return Judged(episode, value, turns, float(about.get("label", episode.success)), str(about.get("name", "plain")), str(about.get("of", episode.id)))


def _of_turns(column: Column) -> bool:
    return column.value_ET.shape[1] > 1 or column.level in ("turn", "span", "token")


def _bare(episode: Episode) -> Episode:
    turns = [msgspec.structs.replace(t, late={}) for t in episode.turns]
    return msgspec.structs.replace(episode, late={}, verdicts={}, terms=[], provenance={}, turns=turns)


def _whole(turns: Sequence[float]) -> float:
    """One number of an episode from those of its turns: the least, as a chain is judged by its weakest link."""
    return min(turns) if turns and not any(math.isnan(t) for t in turns) else math.nan


def view_of(episode: Episode) -> EpisodeView:
    """An episode as a verifier sees it whose environment is not at hand: the task is known by its instruction alone."""
    first = episode.turns[0].observation if episode.turns else []
    told = next((str(m["content"]) for m in first if m["role"] == "user"), "")
    return EpisodeView(Task(episode.task, told, episode.split, kind=episode.kind), episode)


def evaluate_verifier(text: str, on: Path, out: Path | None = None, most: int | None = None) -> VerifierResult:
    """A verifier on a set: a run folder, or one that ``export --format probes`` wrote. ``out`` holds the set beside what was made of it, sealed.

    Raises:
        UsageError: the set has no valid episode, or ``out`` is the set itself.
    """
    began = time.perf_counter()
    path = on / "episodes.jsonl"
    if not path.is_file():
        raise UsageError(f"{on} holds no episodes.jsonl; give a run's folder, or what agentgym export --format probes wrote")
    if out is not None and out.resolve() == on.resolve():
        raise UsageError(f"--out {out} is the set itself; choose another folder")
    episodes = [e for e in read_episodes(path) if e.status == "valid" and e.turns][:most]
    if not episodes:
        raise UsageError(f"{on} holds no valid episode")
    found, calls = anyio.run(judged, spec_of(text), episodes)
    result = summed_up(text, str(on), found, calls, round(time.perf_counter() - began, 2))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result.out = str(out)
        (out / "episodes.jsonl").write_bytes(b"".join(map(encode, episodes)))
        rows = [{"episode": j.episode.id, "probe": j.probe, "label": j.label, "value": j.value, "turns": j.turns} for j in found]
        (out / VERDICTS).write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
        (out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
        seal(out)
    return result


def summed_up(text: str, on: str, found: Sequence[Judged], calls: Mapping[str, int], seconds: float) -> VerifierResult:
    """All numbers of a verifier on a set."""
    known = [j for j in found if not math.isnan(j.value)]
    plain = [j for j in known if j.probe == "plain"]
    curve = best_of(plain)
    kinds: dict[str, list[bool]] = defaultdict(list)
    for j in plain:
        kinds[j.episode.kind or j.episode.env].append(_right(j))
    return VerifierResult(
        verifier=text, on=on, episodes=len(found), valid=len(known), invalid=len(found) - len(known),
        accuracy=share([_right(j) for j in plain], [j.episode.task for j in plain]) if plain else None,
        pairs=pair_accuracy(plain), one_vs_many=one_against_many(plain), kappa=kappa(plain), calibration=calibration(plain),
        brier=float(np.mean([(j.value - j.label) ** 2 for j in plain])) if plain else None,
        first_error=first_error([j for j in known if j.turns]), last_lowest=_last_lowest([j for j in plain if len(j.turns) > 1]),
        probes=probes(known), kinds={k: sum(v) / len(v) for k, v in sorted(kinds.items())}, bias=biases(plain),
        best_of={str(row["n"]): row["gold"] for row in curve}, over_optimisation=curve,
        calls=dict(calls), wall_s=seconds,
    )  # fmt: skip


def _right(j: Judged) -> bool:
    return j.value != 0.5 and (j.value > 0.5) == (j.label > 0.5)


def _by_task(found: Sequence[Judged]) -> dict[str, tuple[list[float], list[float]]]:
    """By task, the values of its successes and of its failures."""
    out: dict[str, tuple[list[float], list[float]]] = {}
    for j in found:
        out.setdefault(j.episode.task, ([], []))[int(j.label <= 0.5)].append(j.value)
    return out


def pair_accuracy(found: Sequence[Judged]) -> Interval | None:
    """The share of pairs of one task in which the success is above the failure."""
    rows = [(g > b, task) for task, (good, bad) in _by_task(found).items() for g in good for b in bad]
    return share([r for r, _ in rows], [t for _, t in rows]) if rows else None


def one_against_many(found: Sequence[Judged]) -> Interval | None:
    """The share of successes above every failure of their task, of tasks with at least two failures.

    Source: "Evaluating Robustness of Reward Models for Mathematical Reasoning".
    """
    rows = [(g > max(bad), task) for task, (good, bad) in _by_task(found).items() if len(bad) > 1 for g in good]
    return share([r for r, _ in rows], [t for _, t in rows]) if rows else None


def kappa(found: Sequence[Judged]) -> float | None:
    """Cohen's agreement beyond chance of thresholded values with labels."""
    if not found:
        return None
    said, told = (np.array([x > 0.5 for x in xs]) for xs in ([j.value for j in found], [j.label for j in found]))
    agree, chance = float((said == told).mean()), float(said.mean() * told.mean() + (1 - said.mean()) * (1 - told.mean()))
    return (agree - chance) / (1 - chance) if chance < 1 else None


def calibration(found: Sequence[Judged], bins: int = 10) -> float | None:
    """The expected calibration error: mean distance of values and labels over bins of like values, by their size. Values must be chances."""
    if not found or any(not 0 <= j.value <= 1 for j in found):
        return None
    value, label = np.array([j.value for j in found]), np.array([j.label for j in found])
    which = np.minimum((value * bins).astype(int), bins - 1)
    gaps = [abs(value[which == b].mean() - label[which == b].mean()) * (which == b).mean() for b in range(bins) if (which == b).any()]
    return float(sum(gaps))


def first_error(found: Sequence[Judged], bar: float = 0.5) -> dict[str, float]:
    """How well the first wrong turn is found: exact on wrong episodes, nothing found on right ones, and the harmonic mean of both (F1).

    Source: "ProcessBench: Identifying Process Errors in Mathematical Reasoning" (the two accuracies and their F1).
    """
    known = [(j, j.first_wrong) for j in found if j.first_wrong is not None]
    wrong = [next((t for t, x in enumerate(j.turns) if x < bar), -1) == at for j, at in known if at != -1]
    right = [all(x >= bar for x in j.turns) for j, at in known if at == -1]
    if not wrong or not right:
        return {}
    a, b = sum(wrong) / len(wrong), sum(right) / len(right)
    return {"wrong": a, "right": b, "f1": 2 * a * b / (a + b) if a + b else 0.0, "episodes": float(len(known))}


def _last_lowest(found: Sequence[Judged]) -> float | None:
    if not found:
        return None
    return sum(j.turns[-1] <= min(j.turns) for j in found) / len(found)


def probes(found: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """By probe: its accuracy, and against the episode it was made from the share of verdicts turned round and the mean distance of values."""
    plain = {(j.episode.id, j.episode.policy): j for j in found if j.probe == "plain"}
    groups: dict[str, list[Judged]] = defaultdict(list)
    for j in found:
        if j.probe != "plain":
            groups[j.probe].append(j)
    out = {}
    for name, rows in sorted(groups.items()):
        moved = [(j.value, plain[key].value) for j in rows if (key := (j.of, j.episode.policy)) in plain]
        out[name] = {"episodes": float(len(rows)), "accuracy": sum(map(_right, rows)) / len(rows)}
        if moved:
            out[name] |= {"flipped": sum((a > 0.5) != (b > 0.5) for a, b in moved) / len(moved), "moved": float(np.mean([abs(a - b) for a, b in moved]))}
            out[name]["above"] = sum(a > b for a, b in moved) / len(moved)
    return out


def biases(found: Sequence[Judged]) -> dict[str, float]:
    """Rank correlations of values with length and with formatting among episodes of one label; and how often a judge of pairs stuck to a place."""
    out: dict[str, float] = {}
    for name in ("length", "format"):
        sides = [[(_measured(name, j.episode), j.value) for j in found if j.label == label] for label in (0.0, 1.0)]
        known = [(r, len(side)) for side in sides if (r := rank_correlation(side)) is not None]
        if known:
            out[name] = sum(r * n for r, n in known) / sum(n for _, n in known)
    stuck = [v.evidence["position_bias"] for j in found for v in j.episode.late.values() if "position_bias" in v.evidence]
    if stuck:
        out["position"] = float(np.mean(stuck))
    return out


def _measured(name: str, episode: Episode) -> float:
    """Characters of what the agent wrote, or those of them that format."""
    actions = [t.action for t in episode.turns]
    return float(sum(map(len, actions)) if name == "length" else sum(a.count(c) for a in actions for c in "#*`"))


def rank_correlation(rows: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, ties at their mean rank; None where either side is constant."""
    if len(rows) < 3:
        return None
    a, b = (_ranks(np.array([row[k] for row in rows])) for k in (0, 1))
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


def _ranks(x_M: Floats) -> Floats:
    _, which, count = np.unique(x_M, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks: Floats = (ends - (count - 1) / 2)[which]
    return ranks


def best_of(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """``over_optimisation`` of a verifier's values against the rule's labels; n goes up to the fewest attempts at a task."""
    tasks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for j in found:
        tasks[j.episode.task].append((j.value, j.label))
    proxy, gold = ([np.array([row[k] for row in rows]) for rows in tasks.values()] for k in (0, 1))
    return over_optimisation(proxy, gold) if tasks else []


def best_of_n(value_M: Floats, worth_M: Floats, n: int) -> float:
    """The mean worth of the one of highest value among ``n`` of M, over all draws; of equal values their mean worth counts."""
    order = np.argsort(value_M, kind="stable")
    value, worth = value_M[order], worth_M[order].astype(np.float64)
    for v in np.unique(value):
        worth[value == v] = worth[value == v].mean()
    m = len(value)
    chance = np.array([math.comb(i, n - 1) for i in range(m)], dtype=np.float64) / math.comb(m, n)
    return float(chance @ worth)


def over_optimisation(proxy: Sequence[Floats], gold: Sequence[Floats], levels: Sequence[int] = LEVELS) -> list[dict[str, Any]]:
    """Best of n by a proxy: for each n, log n − (n − 1)/n nats of divergence, and the mean of proxy and gold with intervals over tasks.

    ``proxy`` and ``gold`` hold one array per task, an entry per attempt; draws are without replacement, and n = 1 is the mean.
    Source: "Scaling Laws for Reward Model Overoptimization".
    """
    most = min(map(len, proxy))
    names = [str(i) for i in range(len(proxy))]
    rows = []
    for n in [n for n in levels if n <= most]:
        by = {name: bootstrap([best_of_n(p, x, n) for p, x in zip(proxy, xs, strict=True)], names) for name, xs in (("proxy", proxy), ("gold", gold))}
        rows.append({"n": n, "kl": math.log(n) - (n - 1) / n, **by})
    return rows


def starc(first_SAS: Floats, second_SAS: Floats, chance_SAS: Floats, gamma: float) -> float:
    """The distance of two rewards r(s, a, s') of one world, in [0, 1]: shaped away, scaled to 1, half of what is left between them.

    Canonical form: r(s, a, s') + γ V(s') − V(s), V the value of the uniform policy, so that potentials cancel. Source: "STARC: A General
    Framework For Quantifying Differences Between Reward Functions" (value-adjusted form, L2).
    """

    def standard(r_SAS: Floats) -> Floats:
        mean_S = (chance_SAS * r_SAS).sum(-1).mean(-1)
        move_SS = chance_SAS.mean(1)
        value_S = np.linalg.solve(np.eye(len(mean_S)) - gamma * move_SS, mean_S)
        c_SAS = r_SAS + gamma * value_S[None, None, :] - value_S[:, None, None]
        c_SAS = np.where(chance_SAS > 0, c_SAS, 0.0)
        size = float(np.linalg.norm(c_SAS))
        scaled: Floats = c_SAS / size if size > 1e-9 else c_SAS * 0.0
        return scaled

    return float(np.linalg.norm(standard(first_SAS) - standard(second_SAS))) / 2
