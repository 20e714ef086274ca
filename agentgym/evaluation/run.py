"""One evaluation: a run folder that can be resumed, re-graded and replayed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agentgym.budget import Bounds, Meter, Prices
from agentgym.core import AgentEnv, Policy
from agentgym.episode import ArtefactStore, Episode, EpisodeStore, read_episodes
from agentgym.errors import UsageError
from agentgym.evaluation.bundle import check, seal, unseal
from agentgym.evaluation.overlap import of_run, of_tasks, overlap, training_run_of
from agentgym.evaluation.stats import Interval, bootstrap, could_move, pass_at, pass_hat, share
from agentgym.quarantine import Quarantine
from agentgym.registry import make, resolve, verifier
from agentgym.rewards.settler import Settler
from agentgym.rewards.spec import Spec, late_names
from agentgym.rewards.text import to_table
from agentgym.rollout import Elsewhere, Job, Keep, Rollout
from agentgym.secrets import Redactor


class Result(Struct, kw_only=True):
    """What ``eval --json`` prints. Shares are in [0, 1]."""

    env: str
    policy: str
    split: str
    episodes: int
    valid: int
    invalid: int
    success: Interval
    reward: Interval
    metrics: dict[str, Interval]
    pass_at: dict[str, float]
    turns_mean: float
    tokens: int
    model_calls: int
    wall_s: float
    out: str | None = None
    retries: int = 0
    stop_reasons: dict[str, int] = {}
    notes: list[str] = []
    pass_hat: dict[str, float] = {}
    invalid_share: float = 0.0
    retry_rate: float = 0.0
    unplayed: int = 0
    cost: float = 0.0


class Plan(Struct, kw_only=True, frozen=True):
    """What is to be played. ``tasks`` distinct tasks, ``episodes`` in all (default: one per task)."""

    env: str
    split: str = "test"
    reward: str = "outcome"
    options: dict[str, Any] = {}
    tasks: int | None = None
    episodes: int | None = None
    seed: int = 0
    concurrency: int = 64
    retries: int = 2
    max_tokens: int | None = None
    episode: Bounds = Bounds()
    run: Bounds = Bounds()
    prices: Prices = Prices()
    grade: Literal["inline", "deferred"] = "inline"

    def environment(self) -> AgentEnv:
        """A new environment."""
        return make(self.env, split=self.split, reward=self.reward, **self.options)

    def jobs(self, ids: Sequence[str]) -> list[Job]:
        """Attempts, task by task in rounds, so that the first ``tasks`` jobs are distinct tasks."""
        tasks = min(self.tasks or self.episodes or min(100, len(ids)), len(ids))
        if (self.tasks or 0) > len(ids):
            raise UsageError(f"{self.env} split {self.split} has {len(ids)} tasks, not {self.tasks}")
        total = self.episodes or tasks
        return [Job(ids[i % tasks], i // tasks, self.seed + i, ids[i % tasks]) for i in range(total)]


def settler_of(env: AgentEnv) -> Settler | None:
    """The late side of an environment's reward with fresh sources; None where nothing is late.

    Raises:
        UsageError: what is named judges actions, not records, or another level than the spec says.
    """
    if not env.reward.late:
        return None
    return settler_for(env.reward)


def settler_for(spec: Spec) -> Settler:
    """The late side of a spec, with fresh sources. Raises ``UsageError`` as ``settler_of`` does."""
    sources = {name: verifier(name) for name in late_names(spec)}
    for node in spec.nodes():
        if node.needs != "source":
            continue
        name, level = str(getattr(node, "name")), getattr(node, "level")  # noqa: B009  # a Late has both
        if (gives := sources[name].level) == "action":
            raise UsageError(f"{name} is a critic before the act (--option critic={name}); late({name!r}) needs a verifier of turns or outcomes")
        if gives != ("step" if level == "span" else level):
            raise UsageError(f"{name} judges {'whole episodes' if gives == 'outcome' else 'turns'}: write late({name!r}, level={gives!r})")
    return Settler(spec, sources)


def write_reward(env: AgentEnv, out: Path) -> None:
    """Keep the reward spec of a run: as an expression, as a table, and its digest."""
    spec = env.reward
    about = {"name": env.reward_name, "expression": str(spec), "digest": spec.digest, "table": to_table(spec)}
    (out / "reward.toml").write_bytes(msgspec.toml.encode(about))


@contextmanager
def stores(out: Path | None) -> Iterator[Keep]:
    """The stores of a run folder; none without one."""
    if out is None:
        yield Keep()
        return
    with EpisodeStore(out / "episodes.jsonl") as episodes:
        yield Keep(episodes, ArtefactStore(out / "artefacts"))


@cache
def provenance() -> dict[str, str]:
    """Versions of what makes episodes in this process; read once, since that takes a tenth of a second."""
    names = [d.metadata["Name"] for d in metadata.distributions() if (d.metadata["Name"] or "").startswith("agentgym-")]
    return {"python": sys.version.split()[0], **{n: metadata.version(n) for n in sorted(set(names))}}


def write_provenance(out: Path, policy: str) -> None:
    """Where and with what a run was made, one entry for each time it was begun or continued."""
    path = out / "provenance.json"
    entries = msgspec.json.decode(path.read_bytes()) if path.exists() else []
    source = Path(__file__).parent
    found = [shutil.which("git") or "", "-C", str(source), "rev-parse", "HEAD"]
    commit = subprocess.run(found, capture_output=True, text=True, check=False).stdout.strip() if found[0] else ""
    packages = {n: metadata.version(n) for n in ("gymnasium", "numpy", "scipy", "msgspec", "anyio")}
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "policy": policy, "commit": commit or None, "packages": {**packages, **provenance()},
        "platform": platform.platform(), "cpus": os.cpu_count(), "command": sys.argv,
    }  # fmt: skip
    path.write_bytes(Redactor()(msgspec.json.format(msgspec.json.encode([*entries, entry]), indent=1)))


async def evaluate(
    plan: Plan, policy: Policy, out: Path | None = None, on_episode: Callable[[Episode, int, int], None] | None = None, elsewhere: Elsewhere | None = None,
    make: Callable[[], AgentEnv] | None = None,
) -> Result:  # fmt: skip
    """Play what is still to be played and sum up everything. ``out`` is resumed by (task, attempt) if it is there.

    ``on_episode`` gets each episode, how many are done, and how many there are to do. ``elsewhere`` plays them, if not this process; ``make`` gives an
    environment of the plan's kind, if it is not to be made here.

    Raises:
        UsageError: ``out`` holds a run of another plan or policy.
        BundleError: ``out`` was sealed and has been changed since.
    """
    began = time.perf_counter()
    env = plan.environment()
    jobs = plan.jobs(env.taskset.ids())
    tried = [] if out is None else _resumed(out, plan, policy.name, env)
    done = {(e.task, e.attempt): e for e in tried if e.decided}
    todo = [j for j in jobs if j.key not in done]

    def tell(episode: Episode) -> None:
        tried.append(episode)
        done[episode.task, episode.attempt] = episode
        if on_episode:
            on_episode(episode, len(done), len(jobs))

    quarantine, late = Quarantine(), settler_of(env)
    with stores(out) as keep:
        await Rollout(
            make=make or plan.environment, policy=policy, concurrency=plan.concurrency, retries=plan.retries, max_tokens=plan.max_tokens,
            bounds=plan.episode, prices=plan.prices, run_meter=_used(plan.run, tried) if plan.run != Bounds() else None, grade=plan.grade, late=late,
            quarantine=quarantine, keep=keep, provenance=provenance(), on_episode=tell,
            elsewhere=elsewhere,
        ).run(todo)  # fmt: skip
    played = [done[j.key] for j in jobs if j.key in done]
    missed = unpaid(env.reward, played)
    result = summarise(plan, policy.name, played, len(tried) - len(played), {id(e) for e in missed})
    result.unplayed = len(jobs) - len(played)
    said = [*unpaid_notes(env.reward, missed), *quarantine.notes(), *(late.notes() if late else ())]
    result.notes = [*said, *_warnings(result), *_contamination(env, [j.task for j in jobs], policy.name)]
    result.wall_s, result.out = round(time.perf_counter() - began, 3), str(out) if out else None
    if out is not None:
        (out / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
        seal(out)
    return result


def _resumed(out: Path, plan: Plan, policy: str, env: AgentEnv) -> list[Episode]:
    """Make a folder this run's, and read what was played there before."""
    check(out)
    _claim(out, plan, policy)
    unseal(out)
    write_reward(env, out)
    write_provenance(out, policy)
    path = out / "episodes.jsonl"
    return list(read_episodes(path)) if path.exists() else []


def _used(bounds: Bounds, tried: Sequence[Episode]) -> Meter:
    """The meter of a run, with what it used before it was interrupted."""
    meter = Meter(bounds)
    for e in tried:
        meter.add(sum(t.sampled for t in e.turns), sum(t.duration_s for t in e.turns), e.cost, len(e.turns))
    return meter


def unpaid(reward: Spec, episodes: Sequence[Episode]) -> list[Episode]:
    """The valid episodes whose reward uses a verdict that they lack."""
    return [e for e in episodes if e.decided and reward.lacking(e)]


def unpaid_notes(reward: Spec, episodes: Sequence[Episode]) -> list[str]:
    """What unpaid episodes lack, and the reason of the first; nothing where there are none."""
    if not episodes:
        return []
    names = sorted({n for e in episodes for n in reward.lacking(e)})
    first = episodes[0]
    said = [v.critique for told in (first.late, *(t.late for t in first.turns), *(t.verdicts for t in first.turns)) for n, v in told.items() if n in names]
    why = next((f" ({s})" for s in said if s), "")
    return [f"{len(episodes)} episodes have no reward: verdicts of {', '.join(names)} are invalid{why}"]


def _warnings(result: Result) -> list[str]:
    """What could move the result without being in its interval."""
    notes = [could_move(result.valid, result.invalid, result.success.mean, result.success)]
    if result.retry_rate > 0.05:
        notes.append(f"{result.retry_rate:.1%} of the attempts were retries after faults: episodes that break more often are under-represented")
    if result.unplayed:
        notes.append(f"the run's budget was spent: {result.unplayed} episodes were not begun; the same command with a larger budget continues (with --out)")
    return [n for n in notes if n]


def _contamination(env: AgentEnv, tasks: Sequence[str], policy: str) -> list[str]:
    """Whether the checkpoint that is evaluated was trained on these tasks, or on others much like them."""
    trained = training_run_of(policy)
    if trained is None:
        return []
    note = overlap(of_tasks(env.taskset, list(dict.fromkeys(tasks))), of_run(trained)).says("evaluated", f"those that {trained} trained on")
    return [note] if note else []


def _claim(out: Path, plan: Plan, policy: str) -> None:
    """Write the resolved plan into a new folder, or check that the folder's is the same but for what does not change its episodes."""
    text = {"policy": policy, **_without_none(msgspec.to_builtins(plan)), "env": resolve(plan.env)}
    path = out / "config.toml"
    if path.exists():
        before = tomllib.loads(path.read_text())
        if any(before.get(k) != text.get(k) for k in (before.keys() | text.keys()) - PACE):
            raise UsageError(f"{out} holds another run; choose another --out, or repeat its config ({path})")
    out.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.toml.encode(text))


PACE = {"run", "concurrency", "grade", "retries"}
"""Settings that a continued run may change."""


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """A table as TOML can hold it."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def summarise(plan: Plan, policy: str, episodes: Sequence[Episode], retries: int, unpaid: Collection[int] = ()) -> Result:
    """The numbers of a set of episodes; invalid ones are counted and take no part in any mean, nor ``unpaid`` ones (by ``id``) in the reward's."""
    good = [e for e in episodes if e.decided]
    paid = [e for e in good if id(e) not in unpaid]
    tasks = [e.task for e in good]
    per_task: dict[str, list[bool]] = defaultdict(list)
    for e in good:
        per_task[e.task].append(e.success)
    most = min((len(v) for v in per_task.values()), default=0)
    ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= most]
    n, attempts = max(1, len(episodes)), max(1, len(episodes) + retries)
    return Result(
        env=resolve(plan.env), policy=policy, split=plan.split, episodes=len(episodes), valid=len(good), invalid=len(episodes) - len(good),
        success=share([e.success for e in good], tasks),
        reward=bootstrap([e.total for e in paid], [e.task for e in paid]), metrics=_metrics(good),
        pass_at={str(k): sum(pass_at(k, len(v), sum(v)) for v in per_task.values()) / len(per_task) for k in ks},
        pass_hat={str(k): sum(pass_hat(k, len(v), sum(v)) for v in per_task.values()) / len(per_task) for k in ks},
        invalid_share=(len(episodes) - len(good)) / n, retry_rate=retries / attempts, cost=sum(e.cost for e in episodes),
        turns_mean=sum(len(e.turns) for e in good) / max(1, len(good)),
        tokens=sum(t.sampled for e in good for t in e.turns), model_calls=sum(len(e.turns) for e in episodes),
        wall_s=0.0, retries=retries, stop_reasons=dict(Counter(e.stop_reason.value for e in episodes if e.stop_reason)),
    )  # fmt: skip


def _metrics(good: Sequence[Episode]) -> dict[str, Interval]:
    """The mean over episodes of each verdict's value (step verdicts: their mean over turns), and of the numbers in an outcome's evidence."""
    values: dict[str, tuple[list[float], list[str]]] = defaultdict(lambda: ([], []))
    for e in good:
        seen: dict[str, list[float]] = defaultdict(list)
        for verdicts in (*(t.verdicts for t in e.turns), e.verdicts):
            for name, verdict in verdicts.items():
                if verdict.value is not None:
                    seen[name].append(verdict.value)
        for name, verdict in e.verdicts.items():
            seen.update({f"{name}.{k}": [float(x)] for k, x in verdict.evidence.items() if isinstance(x, (int, float))})
        for name, each in seen.items():
            values[name][0].append(sum(each) / len(each))
            values[name][1].append(e.task)
    return {name: bootstrap(*pair) for name, pair in sorted(values.items())}
