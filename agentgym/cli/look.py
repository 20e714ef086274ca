"""``list``, ``info`` and ``methods``: what is installed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from rich.table import Table

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import UnknownName
from agentgym.methods import known_methods
from agentgym.registry import EnvSpec, make, spec, specs


class ListConfig(Struct, forbid_unknown_fields=True):
    """Nothing to set."""


class InfoConfig(Struct, forbid_unknown_fields=True):
    """One environment."""

    env: Annotated[str, Meta(description="environment id")]
    task: Annotated[str, Meta(description="show this task instead of the first")] | None = None
    split: Annotated[str, Meta(description="split of the task")] | None = None


class MethodsConfig(Struct, forbid_unknown_fields=True):
    """Which methods to show."""

    method: Annotated[str, Meta(description="id of one method, shown whole")] | None = None
    kind: Annotated[str, Meta(description="only methods of this kind")] | None = None


def row(found: EnvSpec) -> dict[str, Any]:
    """An environment in the shape of ``list --json``."""
    missing = found.missing()
    return {
        "id": found.id, "package": found.entry_point.partition(".")[0].partition(":")[0], "version": int(found.id.rpartition("-v")[2]),
        "domain": found.domain, "summary": found.summary, "splits": found.splits, "capabilities": msgspec.to_builtins(found.capabilities),
        "rewards": list(found.rewards), "available": not missing, "missing": missing,
    }  # fmt: skip


def list_environments(config: ListConfig, screen: Screen) -> Answer:
    rows = [row(s) for s in specs()]
    table = Table(box=None, pad_edge=False)
    for title in ("id", "domain", "tasks", "summary"):
        table.add_column(title)
    for r in rows:
        tasks = " ".join(f"{k}:{n}" if n else k for k, n in r["splits"].items())
        table.add_row(r["id"], r["domain"], tasks, r["summary"] if r["available"] else f"not available: {', '.join(r['missing'])}")
    return Answer(rows, table if rows else "no environment is installed")


def info(config: InfoConfig, screen: Screen) -> Answer:
    found = spec(config.env)
    env = make(found.id, split=config.split or next(iter(found.splits)))
    env.reset(seed=0, options={"task": config.task or env.taskset.ids()[0]})
    tools = [t.spec for t in env.tools.values()]
    rewards = {name: str(reward) for name, reward in env.rewards.items()}
    data = {
        **row(found), "tools": tools, "reward_specs": rewards, "verifiers": {n: v.level for n, v in env.verifiers.items()},
        "task": {"id": env.task.id, "instruction": env.task.instruction, "limits": env.limits},
    }  # fmt: skip
    lines = [
        f"{found.id}  {found.summary}",
        "",
        "splits    " + ", ".join(f"{k} {n or len(make(found.id, split=k).taskset)}" for k, n in found.splits.items()),
        "rewards",
    ]
    lines += [f"  {n:<10} {text}" for n, text in rewards.items()]
    lines += ["tools", *(f"  {t.name:<16} {t.description}" for t in tools)]
    lines += ["", f"task {env.task.id}", f"  {env.task.instruction}"]
    env.close()
    return Answer(data, "\n".join(lines))


def methods(config: MethodsConfig, screen: Screen) -> Answer:
    rows = known_methods()
    if config.kind:
        kinds = {m["kind"] for m in rows}
        if config.kind not in kinds:
            raise UnknownName("kind", config.kind, kinds)
        rows = [m for m in rows if m["kind"] == config.kind]
    if config.method:
        chosen = [m for m in rows if m["id"] == config.method]
        if not chosen:
            raise UnknownName("method", config.method, [m["id"] for m in rows])
        return Answer(chosen, "\n".join(f"{k:<11}{v}" for k, v in chosen[0].items()))
    table = Table(box=None, pad_edge=False)
    for title in ("id", "kind", "recipe", "paper"):
        table.add_column(title)
    for m in rows:
        table.add_row(m["id"] + (" (partial)" if m["partial"] else ""), m["kind"], m["recipe"], m["paper"])
    return Answer(rows, table)


LIST = Command("list", "List the installed environments.", "agentgym list", ListConfig, list_environments)
INFO = Command("info", "Show an environment: splits, rewards, tools, a task.", "agentgym info tools/desk", InfoConfig, info, ("env",))
METHODS = Command(
    "methods", "List the published methods that recipes of primitives make up.", "agentgym methods --kind gate", MethodsConfig, methods, ("method",)
)
