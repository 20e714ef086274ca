"""``check`` an environment; ``verify`` and ``replay`` a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from agentgym.checks import Report
from agentgym.checks import check as run_checks
from agentgym.checks.attacks import NOT_APPLICABLE
from agentgym.cli.command import Answer, Command
from agentgym.cli.play import with_sandbox
from agentgym.cli.screen import Screen
from agentgym.evaluation.bundle import looked_into
from agentgym.evaluation.regrade import explained, replay, verify
from agentgym.rewards.explain import lines as tree_lines


class CheckConfig(Struct, forbid_unknown_fields=True):
    """Which environment, and how thoroughly."""

    env: Annotated[str, Meta(description="environment id")]
    tasks: Annotated[int, Meta(description="tasks of each split that take part", ge=1)] = 40
    option: Annotated[dict[str, Any], Meta(description="environment options as key=value, repeatable; the declared sizes of splits are without them")] = {}
    sandbox: Annotated[str, Meta(description="kind of sandbox: bwrap, docker, runsc")] | None = None


class FolderConfig(Struct, forbid_unknown_fields=True):
    """A run folder."""

    folder: Annotated[str, Meta(description="run folder, or a packed one")]


def check(config: CheckConfig, screen: Screen) -> Answer:
    report = run_checks(
        config.env,
        config.tasks,
        options=with_sandbox(config.env, config.option, config.sandbox),
        on_check=lambda c: screen.say(f"{c.status:<5} {c.name}: {c.detail}"),
    )
    return Answer(report, _summary(report), 0 if report.passed else 1)


def _summary(report: Report) -> str:
    oracle = f"oracle {report.oracle.success:.3f} on {report.oracle.episodes} episodes" if report.oracle else "no oracle"
    used = [a for a in report.attacks if a.status != NOT_APPLICABLE]
    held = f"{sum(a.held for a in used)} of {len(used)} attacks held ({len(report.attacks) - len(used)} not applicable)"
    return f"{report.env} {'passed' if report.passed else 'FAILED'}: {oracle}, noop {report.noop.success:.3f}, {held}"


class VerifyConfig(FolderConfig, forbid_unknown_fields=True):
    """A run folder, and perhaps one episode of it."""

    explain: Annotated[str, Meta(description="print how the reward of this episode came about, as a tree, instead")] | None = None


def verify_folder(config: VerifyConfig, screen: Screen) -> Answer:
    with looked_into(Path(config.folder)) as (folder, broken):
        if config.explain is not None:
            tree = explained(folder, config.explain)
            return Answer(tree, "\n".join(tree_lines(tree)))
        result = verify(folder)
    result.broken = broken
    lines = [*broken, *(f"{m['episode']}: {m['why']}" for m in result.mismatched[:20])]
    lines.append(
        f"{result.reproduced} of {result.episodes} episodes reproduced; {len(result.mismatched)} differ, {len(result.unverifiable)} cannot be verified in full"
    )
    return Answer(result, "\n".join(lines), 1 if result.mismatched or broken else 0)


def replay_folder(config: FolderConfig, screen: Screen) -> Answer:
    with looked_into(Path(config.folder)) as (folder, broken):
        result = replay(folder)
    result.broken = broken
    lines = [*broken, *(f"{d.episode} turn {d.turn}: {d.why}" for d in result.diverged[:20])]
    lines.append(f"{result.identical} of {result.episodes} episodes are identical")
    return Answer(result, "\n".join(lines), 1 if result.diverged or broken else 0)


CHECK = Command("check", "Check an environment: conformance and the reward audit.", "agentgym check tools/desk", CheckConfig, check, ("env",))
VERIFY = Command("verify", "Derive every verdict and reward of a run again.", "agentgym verify runs/oracle", VerifyConfig, verify_folder, ("folder",))
REPLAY = Command("replay", "Play a run's actions again and compare the states.", "agentgym replay runs/oracle", FolderConfig, replay_folder, ("folder",))
