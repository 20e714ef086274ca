"""Published results: a submission is a packed run that anyone can grade again; one that does not come out as it says is refused."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentgym.episode import Episode
from agentgym.errors import AgentGymError, BundleError, UsageError
from agentgym.evaluation.bundle import opened, pack
from agentgym.evaluation.regrade import episodes_of, replay, verify
from agentgym.evaluation.run import Plan, Result, summarise
from agentgym.registry import spec

MOST_INVALID = 0.05
"""Share of invalid episodes beyond which a result is refused: what broke may have been what was hard."""

FEWEST = 20
"""Valid episodes below which a result is refused, unless its split has fewer tasks."""


class Standing(Struct):
    """A row: who played what, how well, at what cost, and the digest of the file that proves it."""

    file: str
    digest: str
    bytes: int
    result: Result
    options: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    at: str = ""


class Examined(Struct):
    """What ``leaderboard verify --json`` prints: the row, or every reason why there is none."""

    file: str
    accepted: bool
    reasons: list[str]
    standing: Standing | None = None


def examine(path: Path, played_again: bool = True) -> Examined:
    """Grade a packed run again, offline, and look for every reason not to publish it.

    With ``played_again`` its actions are also played again: record and artefacts that fit each other, and were never those of these actions, show.
    """
    try:
        with opened(path) as folder:
            reasons, result, plan = _examined(folder, played_again)
            if result is None or reasons:
                return Examined(path.name, False, reasons or ["it holds no result"])
            provenance = _read(folder / "provenance.json", list[dict[str, Any]]) or [{}]
            data = path.read_bytes() if path.is_file() else b""
            about = provenance[-1]
            row = Standing(path.name, hashlib.sha256(data).hexdigest(), len(data), result, dict(plan.options), about.get("packages", {}), about.get("at", ""))
            return Examined(path.name, True, [], row)
    except (BundleError, UsageError) as error:
        return Examined(path.name, False, [str(error)])


def _examined(folder: Path, played_again: bool) -> tuple[list[str], Result | None, Plan]:
    """Reasons against a run, its result as recomputed, and its plan."""
    config, told = folder / "config.toml", _read(folder / "result.json", Result)
    if not config.is_file() or told is None:
        return ["it is no finished run: config.toml or result.json is missing"], None, Plan(env="")
    table = tomllib.loads(config.read_text())
    policy = str(table.pop("policy", ""))
    try:
        plan = msgspec.convert(table, Plan)
        known = spec(plan.env)
        env = plan.environment()
    except (AgentGymError, msgspec.ValidationError) as error:
        return [f"its plan cannot be made here: {error}"], None, Plan(env="")
    try:
        fewest = min(FEWEST, len(env.taskset.ids()))
        wanted = {j.key for j in plan.jobs(env.taskset.ids())}
    finally:
        env.close()
    episodes = episodes_of(folder)
    valid_keys = Counter((e.task, e.attempt) for e in episodes if e.status == "valid")
    played = {(e.task, e.attempt): e for e in episodes if e.status == "valid"}
    last: dict[tuple[str, int], Episode] = {(e.task, e.attempt): e for e in episodes} | played
    reasons = [*_regraded(folder), *_foreign(episodes, known.id, plan.split)]
    if played_again and not reasons:
        reasons += [f"{d.episode}: played again, {d.why} at turn {d.turn}" for d in replay(folder).diverged[:5]]
    if twice := sorted(key for key, n in valid_keys.items() if n > 1):
        reasons.append(f"{len(twice)} attempts are there more than once, such as {twice[0][0]} attempt {twice[0][1]}")
    if missing := sorted(wanted - set(last)):
        reasons.append(f"{len(missing)} of {len(wanted)} attempts are missing, such as {missing[0][0]} attempt {missing[0][1]}")
    if extra := sorted(set(last) - wanted):
        reasons.append(f"{len(extra)} attempts are not in its plan, such as {extra[0][0]} attempt {extra[0][1]}")
    chosen = [e for key, e in last.items() if key in wanted]
    found = summarise(plan, policy, chosen, len(episodes) - len(chosen))
    found.notes = told.notes
    reasons += _as_told(told, found)
    if found.invalid_share > MOST_INVALID:
        reasons.append(f"{found.invalid_share:.0%} of its episodes are invalid; at most {MOST_INVALID:.0%} may be")
    if found.valid < fewest:
        reasons.append(f"it has {found.valid} valid episodes; at least {fewest} are needed")
    if plan.split == "train" and len(known.splits) > 1:
        reasons.append("it was played on the split that is for training")
    reasons += [f"its policy was trained on tasks of this split ({n})" for n in told.notes if re.match(r"contamination: .* [1-9]\d* are among", n)]
    return reasons, found, plan


def _regraded(folder: Path) -> list[str]:
    """What does not come out as recorded when it is graded again. Invalid episodes count elsewhere."""
    found = verify(folder)
    out = [f"{m['episode']}: {m['why']}" for m in found.mismatched[:5]] + ([f"and {len(found.mismatched) - 5} more"] if len(found.mismatched) > 5 else [])
    unsure = [u for u in found.unverifiable if not u["why"].startswith("invalid:")]
    return out + ([f"{len(unsure)} episodes cannot be graded again, such as {unsure[0]['episode']}: {unsure[0]['why']}"] if unsure else [])


def _foreign(episodes: Sequence[Episode], env: str, split: str) -> list[str]:
    other = sorted({f"{e.env} {e.split}" for e in episodes} - {f"{env} {split}"})
    return [f"it holds episodes of {', '.join(other)}, not of {env} {split} alone"] if other else []


def _as_told(told: Result, found: Result) -> list[str]:
    """Numbers of its result that its own episodes do not give."""
    out = []
    for name in ("episodes", "valid", "invalid", "turns_mean", "tokens", "cost"):
        a, b = float(getattr(told, name)), float(getattr(found, name))
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9):
            out.append(f"its result says {name} {a:g}, its episodes {b:g}")
    for name in ("success", "reward"):
        a, b = getattr(told, name).mean, getattr(found, name).mean
        if not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9):
            out.append(f"its result says {name} {a:.4f}, its episodes {b:.4f}")
    if told.env != found.env or told.split != found.split or told.policy != found.policy:
        out.append(f"its result is of {told.policy} on {told.env} {told.split}, its plan of {found.policy} on {found.env} {found.split}")
    return out


def _read(path: Path, type: Any) -> Any:
    """A JSON file as that type; None where there is none, or it is something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type)
    except (OSError, msgspec.MsgspecError):
        return None


def submit(path: Path, board: Path) -> Examined:
    """Examine a run (a folder is packed first) and put it into a board's folder, by environment, policy and digest."""
    board.mkdir(parents=True, exist_ok=True)
    packed = board / ".submission.zip"
    try:
        if path.is_dir():
            pack(path, packed)
        elif path.is_file():
            shutil.copyfile(path, packed)
        else:
            raise UsageError(f"{path} is not a run folder, nor a packed one")
        found = examine(packed)
        found.file = path.name
        if found.standing is not None:
            r = found.standing.result
            name = f"{_plain(r.env)}/{_plain(r.policy)}-{found.standing.digest[:8]}.zip"
            (board / name).parent.mkdir(parents=True, exist_ok=True)
            packed.replace(board / name)
            found.standing.file = name
        return found
    finally:
        packed.unlink(missing_ok=True)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:80] or "unnamed"


def examined(board: Path, played_again: bool = True) -> list[Examined]:
    """Every packed run of a board, graded again."""
    if not board.is_dir():
        raise UsageError(f"{board} is no board; submit to it first: agentgym leaderboard submit BUNDLE --board {board}")
    out = []
    for path in sorted(board.rglob("*.zip")):
        found = examine(path, played_again)
        found.file = path.relative_to(board).as_posix()
        if found.standing is not None:
            found.standing.file = found.file
        out.append(found)
    return out


PAGE = Path(__file__).with_name("board.html")


def page(standings: Sequence[Standing]) -> str:
    """A static page of all rows: tables by environment, sorted and filtered in the browser; it asks for nothing else."""
    rows = [
        {
            "env": s.result.env, "policy": s.result.policy, "split": s.result.split, "file": s.file, "digest": s.digest[:16],
            "success": [round(x, 4) for x in (s.result.success.mean, s.result.success.low, s.result.success.high)], "reward": round(s.result.reward.mean, 4),
            "pass_hat": max(((int(k), round(v, 4)) for k, v in s.result.pass_hat.items() if int(k) > 1), default=None), "turns": round(s.result.turns_mean, 2),
            "tokens": s.result.tokens, "cost": round(s.result.cost, 4), "valid": s.result.valid, "invalid": s.result.invalid,
            "options": " ".join(f"{k}={v}" for k, v in s.options.items()),
        }
        for s in standings
    ]  # fmt: skip
    text = msgspec.json.encode(rows).decode().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return PAGE.read_text().replace("ROWS</script>", f"{text}</script>", 1)
