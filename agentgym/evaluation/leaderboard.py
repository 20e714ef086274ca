"""Published results: a submission is a packed run that anyone can grade again; one that does not come out as it says is refused."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import msgspec
from msgspec import Struct

from agentgym.episode import Episode
from agentgym.errors import AgentGymError, UsageError
from agentgym.evaluation.bundle import opened, pack, thinned
from agentgym.evaluation.probes import SAME
from agentgym.evaluation.regrade import episodes_of, played, restore, verify
from agentgym.evaluation.run import Plan, Result, summarise
from agentgym.evaluation.stats import Interval
from agentgym.evaluation.verifiers import VERDICTS, Judged, VerifierResult, judged, of_set, spec_of, summed_up
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


class VerifierStanding(Struct):
    """A row of a verifier: how far it agrees with the rules on a set of that digest, and whether it was asked again (else: taken as recorded)."""

    file: str
    digest: str
    bytes: int
    result: VerifierResult
    on: str
    asked_again: bool = False


class Examined(Struct):
    """What ``leaderboard verify --json`` prints: the row, or every reason why there is none."""

    file: str
    accepted: bool
    reasons: list[str]
    standing: Standing | VerifierStanding | None = None


def examine(path: Path, played_again: bool = True) -> Examined:
    """Grade a packed run again, offline, and look for every reason not to publish it.

    With ``played_again`` its actions are also played again: record and artefacts that fit each other, and were never those of these actions, show.
    A thin bundle, which names its artefacts by digest alone, is played again in any case: they are made anew.
    """
    try:
        with opened(path) as folder:
            if (folder / VERDICTS).is_file():
                return _examined_verifier(folder, path, played_again)
            if path.is_file() and not (folder / "artefacts").exists():
                restore(folder)
            reasons, result, plan = _examined(folder, played_again)
            if result is None or reasons:
                return Examined(path.name, False, reasons or ["it holds no result"])
            provenance = _read(folder / "provenance.json", list[dict[str, Any]]) or [{}]
            data = path.read_bytes() if path.is_file() else b""
            about = provenance[-1]
            row = Standing(path.name, hashlib.sha256(data).hexdigest(), len(data), result, dict(plan.options), about.get("packages", {}), about.get("at", ""))
            return Examined(path.name, True, [], row)
    except AgentGymError as error:
        return Examined(path.name, False, [str(error)])
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # somebody else wrote these files: what they hold may be of any shape
        return Examined(path.name, False, [f"it cannot be read: {type(error).__name__}: {error!s:.200}"])


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
    valid_keys = Counter((e.task, e.attempt) for e in episodes if e.decided)
    played = {(e.task, e.attempt): e for e in episodes if e.decided}
    last: dict[tuple[str, int], Episode] = {(e.task, e.attempt): e for e in episodes} | played
    reasons = [*_regraded(folder), *_foreign(episodes, known.id, plan.split)]
    if played_again and not reasons:
        reasons += _diverged(e for e in episodes if e.decided)
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


def _examined_verifier(folder: Path, path: Path, played_again: bool) -> Examined:
    """A verifier's result: labels by playing the episodes again, its numbers from its verdicts, and its verdicts by asking it again where it is at hand."""
    told, rows = _read(folder / "result.json", VerifierResult), _rows(folder / VERDICTS)
    episodes = episodes_of(folder)
    if told is None or [r.episode for r in rows] != [e.id for e in episodes]:
        return Examined(path.name, False, ["it holds no result, or its verdicts are not those of its episodes"])
    found = [of_set(e, _or_nan(r.value), [_or_nan(x) for x in r.turns]) for e, r in zip(episodes, rows, strict=True)]
    reasons = _mislabelled(found)
    if played_again and not reasons:
        reasons += _diverged(j.episode for j in found if j.probe in ("plain", "mistake"))
    mine = summed_up(told.verifier, told.on, found, {}, told.wall_s)
    for name in ("episodes", "valid", "invalid", "accuracy", "pairs", "one_vs_many", "kappa", "calibration", "brier", "first_error", "probes", "best_of"):
        a, b = (msgspec.to_builtins(getattr(r, name)) for r in (told, mine))
        if not _same(a, b):
            reasons.append(f"its result says {name} {a!s:.60}, its verdicts {b!s:.60}")
    if mine.invalid > MOST_INVALID * mine.episodes:
        reasons.append(f"{mine.invalid} of {mine.episodes} verdicts are invalid; at most {MOST_INVALID:.0%} may be")
    if len({j.episode.task for j in found}) < FEWEST // 2:
        reasons.append(f"its set has {len({j.episode.task for j in found})} tasks; at least {FEWEST // 2} are needed")
    again = None if reasons else _asked_again(told.verifier, episodes)
    if again is not None and not _same([j.value for j in again], [j.value for j in found], 1e-4):
        reasons.append(f"asked again, {told.verifier} gives other verdicts")
    if reasons:
        return Examined(path.name, False, reasons)
    data = path.read_bytes() if path.is_file() else b""
    on = hashlib.sha256((folder / "episodes.jsonl").read_bytes()).hexdigest()[:12]
    return Examined(path.name, True, [], VerifierStanding(path.name, hashlib.sha256(data).hexdigest(), len(data), told, on, again is not None))


class _Verdict(Struct):
    episode: str
    value: float | None
    turns: list[float | None] = []


def _rows(path: Path) -> list[_Verdict]:
    try:
        return [msgspec.json.decode(line, type=_Verdict) for line in path.read_bytes().splitlines()]
    except msgspec.MsgspecError:
        return []


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x


def _mislabelled(found: Sequence[Judged]) -> list[str]:
    """Labels that are not what the set's episodes say."""
    plain = {(j.episode.id, j.episode.policy): j.label for j in found if j.probe == "plain"}
    wrong = [
        j.episode.id for j in found
        if j.label != (float(j.episode.success) if j.probe == "plain" else plain.get((j.of, j.episode.policy)) if j.probe in SAME else 0.0)
        or (j.probe == "mistake" and j.episode.success)
    ]  # fmt: skip
    return [f"{len(wrong)} labels are not those of their episodes, such as that of {wrong[0]}"] if wrong else []


def _same(a: Any, b: Any, within: float = 1e-6) -> bool:
    """Alike, floats within rounding."""
    if isinstance(a, (dict, list, tuple)):
        keys = a if isinstance(a, dict) else range(len(a))
        return type(a) is type(b) and len(a) == len(b) and all((k in b if isinstance(b, dict) else True) and _same(a[k], b[k], within) for k in keys)
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=within, abs_tol=within) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _asked_again(verifier: str, episodes: Sequence[Episode]) -> list[Judged] | None:
    """What a verifier says of the episodes now; None where it is not at hand: a submission makes nobody call an endpoint, or fetch a model."""
    named = re.findall(r"[\w-]+:([^'\",|()\s]+)", verifier)
    if "://" in verifier or not all(Path(argument).exists() for argument in named):
        return None
    try:
        return anyio.run(judged, spec_of(verifier), episodes)[0]
    except AgentGymError:
        return None


def _regraded(folder: Path) -> list[str]:
    """What does not come out as recorded when it is graded again. Invalid episodes count elsewhere."""
    found = verify(folder)
    out = [f"{m['episode']}: {m['why']}" for m in found.mismatched[:5]] + ([f"and {len(found.mismatched) - 5} more"] if len(found.mismatched) > 5 else [])
    unsure = [u for u in found.unverifiable if not u["why"].startswith("invalid:")]
    return out + ([f"{len(unsure)} episodes cannot be graded again, such as {unsure[0]['episode']}: {unsure[0]['why']}"] if unsure else [])


def _diverged(episodes: Iterable[Episode]) -> list[str]:
    """Whose actions do not lead to their verdicts when they are played again. States are not compared: on a busy machine a screen may be drawn later."""
    found = played(list(episodes), states=False).diverged
    return [f"{d.episode}: played again, {d.why}" for d in found[:5]] + ([f"and {len(found) - 5} more"] if len(found) > 5 else [])


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


def submit(path: Path, board: Path, thin: bool = False) -> Examined:
    """Examine a run (a folder is packed first) and put it into a board's folder, by environment, policy and digest.

    ``thin`` leaves artefacts and token ids out: a tenth of the size, and whoever examines it must be able to play its episodes again.
    """
    if thin and not path.is_dir():
        raise UsageError(f"{path} is packed already; only a run folder can be submitted thin")
    board.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=board, prefix=".", suffix=".part")  # of its own: others may submit at the same time
    os.close(number)
    packed = Path(name)
    try:
        if path.is_dir():
            with thinned(path) if thin else nullcontext(path) as folder:
                pack(folder, packed)
        elif path.is_file():
            shutil.copyfile(path, packed)
        else:
            raise UsageError(f"{path} is not a run folder, nor a packed one")
        found = examine(packed)
        found.file = path.name
        if found.standing is not None:
            s = found.standing
            where, who = (f"verifiers-{s.on}", s.result.verifier) if isinstance(s, VerifierStanding) else (s.result.env, s.result.policy)
            name = f"{_plain(where)}/{_plain(who)}-{s.digest[:8]}.zip"
            (board / name).parent.mkdir(parents=True, exist_ok=True)
            packed.chmod(0o644)
            packed.replace(board / name)
            found.standing.file = name
        return found
    finally:
        packed.unlink(missing_ok=True)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:80] or "unnamed"


def examined(board: Path, played_again: bool = True) -> list[Examined]:
    """Every packed run of a board, graded again. A board inside a board is one of its own."""
    if not board.is_dir():
        raise UsageError(f"{board} is no board; submit to it first: agentgym leaderboard submit BUNDLE --board {board}")
    out = []
    for path in sorted([*board.glob("*.zip"), *board.glob("*/*.zip")]):
        found = examine(path, played_again)
        found.file = path.relative_to(board).as_posix()
        if found.standing is not None:
            found.standing.file = found.file
        out.append(found)
    return out


PAGE = Path(__file__).with_name("board.html")


def page(standings: Sequence[Standing | VerifierStanding]) -> str:
    """A static page of all rows: tables by environment or policy, and of verifiers by set, sorted and filtered in the browser; it asks for nothing else."""
    told = {
        "policies": [_of_policy(s) for s in standings if isinstance(s, Standing)],
        "verifiers": [_of_verifier(s) for s in standings if isinstance(s, VerifierStanding)],
    }
    text = msgspec.json.encode(told).decode().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return PAGE.read_text().replace("ROWS</script>", f"{text}</script>", 1)


def _of_policy(s: Standing) -> dict[str, Any]:
    r = s.result
    return {
        "env": r.env, "policy": r.policy, "split": r.split, "file": s.file, "digest": s.digest[:16],
        "success": _three(r.success), "reward": round(r.reward.mean, 4),
        "pass_hat": max(((int(k), round(v, 4)) for k, v in r.pass_hat.items() if int(k) > 1), default=None), "turns": round(r.turns_mean, 2),
        "tokens": r.tokens, "cost": round(r.cost, 4), "valid": r.valid, "invalid": r.invalid, "options": " ".join(f"{k}={v}" for k, v in s.options.items()),
    }  # fmt: skip


def _of_verifier(s: VerifierStanding) -> dict[str, Any]:
    r = s.result
    return {
        "verifier": r.verifier, "on": f"{Path(r.on).name} {s.on}", "file": s.file, "digest": s.digest[:16],
        "accuracy": _three(r.accuracy), "pairs": _three(r.pairs),
        "kappa": r.kappa, "calibration": r.calibration, "turned": max((p.get("flipped", 0.0) for n, p in r.probes.items() if n in SAME), default=None),
        "caught": min((p["accuracy"] for n, p in r.probes.items() if n not in SAME), default=None), "valid": r.valid, "invalid": r.invalid,
        "best_of": {n: _three(i) for n, i in r.best_of.items()}, "again": s.asked_again,
    }  # fmt: skip


def _three(x: Interval | None) -> list[float] | None:
    return None if x is None else [round(v, 4) for v in (x.mean, x.low, x.high)]
