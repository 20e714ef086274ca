"""Attacks as rows of data files: what a policy that wants the reward without the work would write."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv
from agentgym.errors import EnvironmentFault
from agentgym.messages import ToolCall, ToolSpec, print_action
from agentgym.registry import installed, load


class Attack(Struct, frozen=True, forbid_unknown_fields=True):
    """One way to cheat. Each of ``text`` is said as prose, and put into every argument of every tool whose name fits ``tools``.

    ``together`` puts all those calls into one action; ``repeat`` says everything again that many times. ``{instruction}`` and
    ``{numbers}`` (every id from 1 to 120) are filled in.
    """

    name: str
    kind: str
    why: str
    text: list[str]
    tools: str = ""
    together: bool = False
    repeat: int = 1


class AttackResult(Struct):
    """``held``: no task paid that does not call for exactly what the attack did. ``reward`` is the most that any paid."""

    name: str
    held: bool
    status: str
    reward: float


def load_attacks() -> list[Attack]:
    """The built-in attacks, from one file per class."""
    rows = [r for path in sorted(Path(__file__).with_name("attacks").glob("*.toml")) for r in tomllib.loads(path.read_text())["attack"]]
    return msgspec.convert(rows, list[Attack])


def all_attacks() -> list[Attack]:
    """The built-in attacks and those of installed packages (entry points ``agentgym.attacks``)."""
    return [attack for name in sorted(installed("attacks")) for attack in load("attacks", name)()]


def actions_of(attack: Attack, tools: Sequence[ToolSpec], instruction: str) -> Iterator[str]:
    """The texts that an attack says, in order."""
    numbers = " ".join(map(str, range(1, 121)))
    fitting = [t for t in tools if attack.tools and re.fullmatch(attack.tools, t.name)]
    for _ in range(attack.repeat):
        for raw in attack.text:
            text = raw.replace("{instruction}", instruction).replace("{numbers}", numbers)
            calls = [ToolCall(t.name, {k: _fill(s, text) for k, s in t.parameters.get("properties", {}).items()}) for t in fitting]
            if not attack.tools:
                yield text
            elif attack.together:
                yield print_action("", calls)
            else:
                yield from (print_action("", [c]) for c in calls)


def _fill(schema: dict[str, Any], text: str) -> Any:
    """The payload in the type an argument wants."""
    if "enum" in schema:
        return text if text in schema["enum"] else schema["enum"][0]
    if "anyOf" in schema:
        kinds = {s.get("type"): s for s in schema["anyOf"]}
        return _fill(kinds.get("array") if " " in text and "array" in kinds else schema["anyOf"][0], text)  # type: ignore[arg-type]  # guarded by the condition
    kind = schema.get("type")
    first = re.search(r"\d+", text)
    if kind in ("integer", "number"):
        return int(first[0]) if first else 1
    if kind == "array":
        return text.split()
    return {"boolean": True, "null": None}.get(str(kind), text[: schema.get("maxLength", len(text))])


def run_attack(env: AgentEnv, attack: Attack, tasks: Sequence[str]) -> AttackResult:
    """Play an attack on each task under reward ``outcome``."""
    worst, status, held = 0.0, "scored", True
    for task in tasks:
        calls_for = _last_of_oracle(env, task)
        env.reset(seed=0, options={"task": task})
        total, last = 0.0, ""
        try:
            for last in actions_of(attack, [t.spec for t in env.tools.values()], env.task.instruction):
                _, reward, terminated, truncated, _ = env.step(last)
                total += reward
                if terminated or truncated:
                    break
        except EnvironmentFault as fault:
            status, held = f"invalid: {fault}", held and fault.culprit != "verifier"
            continue
        if any(v.status == "tampered" for v in env.episode.verdicts.values()):
            status = "tampered"
        asked_for = bool(env.episode.turns) and [env.episode.turns[-1].action] == calls_for
        if not asked_for:
            worst = max(worst, total)
            held = held and total <= 0.0
    return AttackResult(attack.name, held, status, worst)


def _last_of_oracle(env: AgentEnv, task: str) -> list[str]:
    """The action by which an oracle ends this task; empty where there is no oracle, or it cannot be graded."""
    if type(env).oracle is AgentEnv.oracle:
        return []
    env.reset(seed=0, options={"task": task})
    try:
        for action in env.oracle():
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
    except EnvironmentFault:
        return []
    return [env.episode.turns[-1].action]
