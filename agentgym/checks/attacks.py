"""Attacks as rows of data files: what a policy that wants the reward without the work would write."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agentgym.checks.subject import oracle_of
from agentgym.core import AgentEnv, StopReason
from agentgym.errors import EnvironmentFault
from agentgym.messages import ToolCall, ToolSpec, print_action
from agentgym.registry import installed, load

CANDIDATES = 24
NOT_APPLICABLE = "not applicable"


class Attack(Struct, frozen=True, forbid_unknown_fields=True):
    """One way to cheat. Each of ``text`` is said as prose, and put into every argument of every tool whose name fits ``tools``.

    ``arguments`` (regular expression of an argument's name to its values) says more exactly what to put where. ``together`` puts all calls
    of a text into one action; ``repeat`` says everything again that many times; ``then`` are the tools that end the episode afterwards.
    ``harvest``: every word that the observations then show is tried as an answer, by the tools of ``then``. ``{instruction}`` and
    ``{numbers}`` (every id from 1 to 120) are filled in.
    """

    name: str
    kind: str
    why: str
    text: tuple[str, ...] = ("",)
    tools: str = ""
    arguments: dict[str, list[str]] = {}
    together: bool = False
    repeat: int = 1
    then: str = ""
    harvest: bool = False


class AttackResult(Struct):
    """``held``: no task paid that does not call for exactly what the attack did. ``reward`` is the most that any paid.

    ``status``: ``scored``, ``tampered``, ``invalid: …``, or ``not applicable`` where no tool fits. ``task`` is the first that paid.
    """

    name: str
    held: bool
    status: str
    reward: float
    task: str = ""


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
    rounds = max([len(attack.text), *(len(v) for v in attack.arguments.values())])
    for _ in range(attack.repeat):
        for i in range(rounds):
            text = attack.text[i % len(attack.text)].replace("{instruction}", instruction).replace("{numbers}", numbers)
            given = {k: v[i % len(v)] for k, v in attack.arguments.items()}
            calls = [_call(t, text, given) for t in fitting]
            if not attack.tools:
                yield text
            elif attack.together:
                yield print_action("", calls)
            else:
                yield from (print_action("", [c]) for c in calls)
    yield from (print_action("", [_call(t, "", {})]) for t in tools if attack.then and not attack.harvest and re.fullmatch(attack.then, t.name))


def _call(tool: ToolSpec, text: str, given: dict[str, str]) -> ToolCall:
    """A call with the payload in every argument, in those named by ``given`` what it says."""
    properties: dict[str, Any] = tool.parameters.get("properties", {})
    chosen = {name: next((v for k, v in given.items() if re.fullmatch(k, name)), text) for name in properties}
    return ToolCall(tool.name, {name: _fill(schema, chosen[name]) for name, schema in properties.items()})


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
        number = int(first[0]) if first else 1
        return max(schema.get("minimum", number), min(schema.get("maximum", number), number))
    if kind == "array":
        return text.split()
    return {"boolean": True, "null": None}.get(str(kind), text[: schema.get("maxLength", len(text))])


def run_attack(env: AgentEnv, attack: Attack, tasks: Sequence[str], endings: Mapping[str, Sequence[str]] | None = None) -> AttackResult:
    """Play an attack on each task under reward ``outcome``. ``endings`` are those of ``oracle_endings``, where they are known."""
    tools = [t.spec for t in env.tools.values()]
    if attack.tools and not any(re.fullmatch(attack.tools, t.name) for t in tools):
        return AttackResult(attack.name, True, NOT_APPLICABLE, 0.0)
    result = AttackResult(attack.name, True, "scored", 0.0)
    for task in tasks:
        calls_for = _last_of_oracle(env, task) if endings is None else endings[task]
        env.reset(seed=0, options={"task": task})
        seen = _play(env, actions_of(attack, tools, env.task.instruction), calls_for, result)
        if attack.harvest:
            for answer in _answers(attack, tools, seen, env.task.instruction):
                env.reset(seed=0, options={"task": task})
                _play(env, [answer], calls_for=[], result=result)
    return result


def _play(env: AgentEnv, actions: Iterator[str] | Sequence[str], calls_for: Sequence[str], result: AttackResult) -> str:
    """Play actions until the end, and write what they paid into ``result``; return all that was seen."""
    total, seen = 0.0, ""
    try:
        for action in actions:
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward
            seen += f"\n{observation}"
            if terminated or truncated:
                break
        if env.episode.stop_reason is None:
            total += env.end(StopReason.MAX_TURNS)[1]
    except EnvironmentFault as fault:
        result.status, result.held = f"invalid: {fault}", result.held and fault.culprit != "verifier"
        return seen
    if any(v.status == "tampered" for v in env.episode.verdicts.values()):
        result.status = "tampered"
    asked_for = env.episode.turns[-1].action in calls_for
    if not asked_for:
        result.reward = max(result.reward, total)
        result.held = result.held and total <= 0.0
        result.task = result.task or (env.task.id if total > 0.0 else "")
    return seen


def _answers(attack: Attack, tools: Sequence[ToolSpec], seen: str, instruction: str) -> Iterator[str]:
    """Each word of what was seen as an answer, the odd ones first."""
    words = dict.fromkeys(w for w in re.findall(r"[\w.+-]{2,64}", seen) if w not in instruction)
    likely = sorted(words, key=lambda w: (not re.search(r"\d", w), -len(w)))[:CANDIDATES]
    for tool in (t for t in tools if re.fullmatch(attack.then, t.name)):
        yield from dict.fromkeys(print_action("", [_call(tool, word, {})]) for word in likely)


def oracle_endings(env: AgentEnv, tasks: Sequence[str]) -> dict[str, Sequence[str]]:
    """For each task the actions by which an oracle ends it, and which an attack may therefore take without cheating."""
    return {task: _last_of_oracle(env, task) for task in tasks}


def _last_of_oracle(env: AgentEnv, task: str) -> list[str]:
    """The action by which an oracle ends this task, where it says something: it has arguments, or is all that there is to do."""
    env.reset(seed=0, options={"task": task})
    script = oracle_of(env)
    if script is None:
        return []
    try:
        for action in script:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
    except EnvironmentFault:
        return []
    last = env.episode.turns[-1]
    return [last.action] if len(env.episode.turns) == 1 or any(c.arguments for c in last.calls) else []
