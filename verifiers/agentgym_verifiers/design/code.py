"""A reward that a model wrote, as code: what it may read, what is refused before it runs, and how it is run, in a sandbox, over recorded episodes."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import AgentEnv, EpisodeView, Policy
from agentgym.episode import Episode
from agentgym.errors import Fault, UsageError
from agentgym.sandbox import Image, Resources, start
from agentgym.verdict import Json, Verdict
from agentgym_verifiers.intrinsic.answers import Stateless

INSIDE = Path(__file__).with_name("inside.py")
CALLS = frozenset(
    "abs min max len sum round float int bool str sorted any all range enumerate zip list dict set tuple sqrt exp log".split()  # noqa: SIM905  # words
)
METHODS = frozenset("get items keys values lower upper strip split startswith endswith count append join replace index".split())  # noqa: SIM905
LONGEST, LARGEST, MOST_POWER = 8_000, 100.0, 8


class Refused(UsageError):
    """A written reward is refused, with the reason and the line."""


class Field(Struct, frozen=True):
    """One thing that a reward may read of a turn: its type, what it means, and an example."""

    name: str
    type: str
    about: str
    example: Json = None


def describe(env: AgentEnv, episodes: Sequence[Episode]) -> list[Field]:
    """The typed view of an environment for a designer: what each recorded turn offers. Verdicts of outcomes are not among it: they are what is aimed at."""
    fields = [
        Field("action", "str", "what the agent wrote"),
        Field("calls", "list[dict]", f"its calls, each with name and arguments; tools: {', '.join(env.tools) or 'none'}"),
        Field("seen", "str", "what it saw after it"),
        Field("turn", "int", "the number of the turn, from 0"),
        Field("turns_left", "int", "how many it may still take"),
    ]
    turns = [t for e in episodes for t in e.turns]
    facts: dict[str, Json] = {}
    for t in turns:
        facts = {**t.facts, **facts}
    fields += [Field(f"fact_{k}", _type(v), "a fact of the world after the turn", v) for k, v in sorted(facts.items()) if k.isidentifier() and _type(v)]
    levels = sorted({n for t in turns for n, v in t.verdicts.items() if v.value is not None})
    return fields + [Field(f"verdict_{n}", "float", f"the environment's own verdict {n!r} of the turn") for n in levels if n.isidentifier()]


def _type(value: Json) -> str:
    return {bool: "bool", int: "int", float: "float", str: "str"}.get(type(value), "")


def prompt_of(fields: Sequence[Field], goal: str) -> str:
    """The view as a designer is shown it."""
    listed = "\n".join(f"    {f.name}: {f.type}  # {f.about}" + (f", e.g. {f.example!r:.60}" if f.example is not None else "") for f in fields)
    return (
        f"Write a dense reward for an agent whose goal is: {goal}\n\nOne Python function, no imports, nothing but its arguments:\n\n"
        f"def reward(\n{listed}\n) -> float\n\nUse only these arguments, arithmetic, comparisons, if, for over a list, and {', '.join(sorted(CALLS))}. It"
        " is called once per turn, and returns a number between -1 and 1. Answer with the code alone."
    )


def arguments_of(episode: Episode, fields: Sequence[Field]) -> list[dict[str, Json]]:
    """What a reward is given, turn by turn."""
    out = []
    most = int(episode.limits.get("max_turns") or len(episode.turns))
    for n, turn in enumerate(episode.turns):
        after = episode.turns[n + 1].observation if n + 1 < len(episode.turns) else episode.closing
        known: dict[str, Json] = {
            "action": turn.action, "calls": [{"name": c.name, "arguments": c.arguments} for c in turn.calls],
            "seen": "\n".join(str(m["content"]) for m in after), "turn": n, "turns_left": most - n - 1,
            **{f"fact_{k}": v for k, v in turn.facts.items()}, **{f"verdict_{k}": v.value for k, v in turn.verdicts.items()},
        }  # fmt: skip
        out.append({f.name: known.get(f.name, _NOTHING.get(f.type)) for f in fields})
    return out


_NOTHING: Mapping[str, Json] = {"bool": False, "int": 0, "float": 0.0, "str": "", "list[dict]": []}


def criticise(code: str, fields: Sequence[Field]) -> ast.FunctionDef:
    """The static critic: one function ``reward`` of the described arguments, and nothing in it but what it may use.

    Raises:
        Refused: with what and where.
    """
    if len(code) > LONGEST:
        raise Refused(f"the code has {len(code)} characters; at most {LONGEST}")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"it is no Python: {error}") from None
    functions = [n for n in tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if len(functions) != 1 or not isinstance(functions[0], ast.FunctionDef) or functions[0].name != "reward":
        raise Refused("it is not one function called reward")
    function = functions[0]
    given = function.args
    if given.vararg or given.kwarg or given.posonlyargs or given.defaults or any(given.kw_defaults) or function.decorator_list:
        raise Refused("reward takes the described arguments by name, without defaults")
    names = {a.arg for a in (*given.args, *given.kwonlyargs)}
    if names != {f.name for f in fields}:
        raise Refused(f"reward takes {', '.join(f.name for f in fields)}; it has {', '.join(sorted(names))}")
    local = names | {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(function):
        _look(node, local, function)
    return function


_NODES = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.For, ast.Pass, ast.Expr, ast.Break, ast.Continue,
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.List, ast.Tuple,
    ast.Dict, ast.Set, ast.ListComp, ast.GeneratorExp, ast.comprehension, ast.keyword, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip


def _look(node: ast.AST, local: set[str], function: ast.FunctionDef) -> None:
    line = f"line {getattr(node, 'lineno', function.lineno)}"
    if not isinstance(node, _NODES):
        raise Refused(f"{line}: {type(node).__name__} may not be used")
    if isinstance(node, ast.FunctionDef) and node is not function:
        raise Refused(f"{line}: no function within it")
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in local | CALLS:
        raise Refused(f"{line}: {node.id!r} is not described")
    if isinstance(node, ast.Attribute) and node.attr not in METHODS:
        raise Refused(f"{line}: .{node.attr} may not be used")
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Pow) and not _small(node.right if isinstance(node, ast.BinOp) else node.value):
        raise Refused(f"{line}: powers up to {MOST_POWER} alone")
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and abs(node.value) > 1e6:
        raise Refused(f"{line}: the number {node.value!r:.20} is too large")


def _small(power: ast.expr) -> bool:
    return isinstance(power, ast.Constant) and isinstance(power.value, (int, float)) and 0 <= power.value <= MOST_POWER


def dry_run(code: str, fields: Sequence[Field], episodes: Sequence[Episode], seconds: float = 10.0) -> list[list[float]]:
    """A written reward on recorded episodes, in an empty sandbox: a number per turn.

    Raises:
        Refused: the static critic refuses it, it raises, it does not end, or gives what is no number within ±100.
        SandboxFault: the sandbox failed.
    """
    rows = tried(code, fields, episodes, seconds)
    if broken := next((row for row in rows if isinstance(row, Refused)), None):
        raise broken
    return [row for row in rows if not isinstance(row, Refused)]


def tried(code: str, fields: Sequence[Field], episodes: Sequence[Episode], seconds: float = 10.0) -> list[list[float] | Refused]:
    """As ``dry_run``, but what is refused on one episode alone is said in its place."""
    criticise(code, fields)
    given = json.dumps({"names": sorted(CALLS), "episodes": [arguments_of(e, fields) for e in episodes]})
    with start(Image(), Resources(memory=256 << 20, seconds=seconds, pids=32)) as sandbox:
        sandbox.write({"/work/code.py": code.encode(), "/work/turns.json": given.encode(), "/work/inside.py": INSIDE.read_bytes()})
        done = sandbox.exec(["python3", "-I", "-S", "inside.py"], timeout=seconds)
        if done.timed_out:
            raise Refused(f"it did not end within {seconds:g} s")
        if done.code:
            raise Refused(f"it ended with code {done.code}{' (out of memory)' if done.oom else ''}")
        try:
            said: Any = json.loads(sandbox.read("/work/rewards.json", 1 << 24))
        except (OSError, ValueError) as error:
            raise Refused(f"what it gave cannot be read: {error}") from None
    return [_row(row, len(e.turns)) for row, e in zip(said, episodes, strict=True)]


def _row(said: Json, turns: int) -> list[float] | Refused:
    """The rewards of an episode, or why there are none."""
    if isinstance(said, str):
        return Refused(f"it raised {said}")
    try:
        row = [_number(x) for x in said] if isinstance(said, list) else []
    except Refused as error:
        return error
    return row if len(row) == turns else Refused("it gave another number of rewards than there are turns")


def _number(x: Json) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) or abs(x) > LARGEST:
        raise Refused(f"{x!r:.40} is no reward: a number within ±{LARGEST:g}")
    return float(x)


class Written(Stateless):
    """A written reward as a source: ``late('written:FILE.json')``, a file that ``design`` wrote. It never runs in this process."""

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, path: str = "", *, code: str = "", fields: Sequence[Field] = ()) -> None:
        if path:
            try:
                found: Any = msgspec.json.decode(Path(path).read_bytes())
                code, fields = found["code"], msgspec.convert(found["fields"], list[Field])
            except (OSError, KeyError, msgspec.MsgspecError) as error:
                raise UsageError(f"{path} holds no written reward: {error}") from None
        if not code:
            raise UsageError("written needs a file: written:FILE.json")
        criticise(code, fields)
        self.code, self.fields = code, list(fields)

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn; ``invalid`` those of an episode on which it fails, and all where it does not end."""
        try:
            rows = await anyio.to_thread.run_sync(tried, self.code, self.fields, [v.episode for v in views])
        except (Refused, Fault) as error:
            return [[Verdict.invalid(str(error))] * len(v.episode.turns) for v in views]
        return [
            [Verdict.invalid(str(row))] * len(v.episode.turns) if isinstance(row, Refused) else [Verdict.scored(x) for x in row]
            for row, v in zip(rows, views, strict=True)
        ]


def save(path: Path, code: str, fields: Sequence[Field], **about: Json) -> None:
    """Write a reward down, for ``late('written:…')``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"code": code, "fields": list(fields), **about}), indent=1))
