"""``bring/domain-v0``: a service desk in tau-bench's form: a database, tools, a policy, a user who wants something, and tasks with gold calls.

A folder holds ``db.json`` (or ``data/*.json``, a table each), ``tools.py``, ``policy.md`` (or ``wiki.md``) and ``tasks.json`` (or ``.jsonl``). A tool is a
public function whose first parameter is the database, or a class with tau-bench's ``invoke`` and ``get_info``. The user has a seat of their own: a script
that says the whole wish at once (``told``), or any policy by name. Right is: the database is as the gold calls leave it, and the agent has said each output.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import seat_verdicts
from msgspec import Struct

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import CapabilityError, SandboxFault, ToolError, UsageError
from agentgym.game import MOST_SAID, Game, Player, Talk, TalkSeat
from agentgym.messages import Action, Tool, ToolCall, ToolSpec, answer, parse_action, print_action, tool

EXAMPLE = Path(__file__).with_name("library")
SPLITS = ("train", "dev", "test")
STOP = "###STOP###"
"""What the user says, by tau-bench's convention, when there is nothing more to say."""
TRANSFER = "transfer_to_human_agents"
"""The call that ends a conversation there."""


class Wanted(Struct, frozen=True):
    """A task as it is written: what the user wants, the calls that do it, and what must be said."""

    instruction: str
    calls: list[ToolCall] = []
    outputs: list[str] = []
    split: str = "test"
    name: str = ""


class Domain(Struct, frozen=True):
    """A folder, read. ``db`` is JSON; ``digest`` is of the folder's content, but for its tasks."""

    path: Path
    db: bytes
    policy: str
    tools: dict[str, Tool]
    tasks: dict[str, Wanted]
    digest: str


_KNOWN: dict[str, Domain] = {}
"""Domains by digest: a task holds the digest, not where the folder lies on this machine."""


def domain_of(task: Task) -> Domain:
    """The domain of a task. Raises ``SandboxFault`` where it has not been read in this process."""
    if task.data["domain"] not in _KNOWN:
        raise SandboxFault(f"the domain of {task.id} is not here, or was changed")
    return _KNOWN[task.data["domain"]]


def read(path: str) -> Domain:
    """The domain in a folder.

    Raises:
        UsageError: something is missing or odd; the message names the file, and the task.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(f"there is no folder {path}")
    return _read(root.resolve(), max(p.stat().st_mtime for p in (root, *root.rglob("*"))))


@lru_cache(64)
def _read(root: Path, stamp: float) -> Domain:
    db = _database(root)
    policy = next((p.read_text() for p in (root / "policy.md", root / "wiki.md") if p.is_file()), "").strip()
    if not (root / "tools.py").is_file():
        raise UsageError(f"{root} has no tools.py")
    tools = _tools(root / "tools.py")
    content = hashlib.sha256(b"\0".join((db, policy.encode(), (root / "tools.py").read_bytes()))).hexdigest()[:24]
    tasks = dict(_tasks(root, tools))
    if not tasks:
        raise UsageError(f"{root} has no tasks.json, or none is in it")
    _KNOWN[content] = Domain(root, db, policy, tools, tasks, content)
    return _KNOWN[content]


def _decoded(path: Path) -> Any:
    try:
        if path.suffix == ".jsonl":
            return [msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line.strip()]
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def _database(root: Path) -> bytes:
    whole, parts = root / "db.json", sorted((root / "data").glob("*.json"))
    if not whole.is_file() and not parts:
        raise UsageError(f"{root} has no db.json, and no data/*.json")
    found = _decoded(whole) if whole.is_file() else {p.stem: _decoded(p) for p in parts}
    if not isinstance(found, dict):
        raise UsageError(f"{whole} must hold an object: tables by name")
    return msgspec.json.encode(found, order="sorted")


def _tools(path: Path) -> dict[str, Tool]:
    """The public functions of a module, and its classes with ``invoke``. Raises ``UsageError`` if it cannot be imported, or has neither."""
    spec = importlib.util.spec_from_file_location(f"agentgym_domain_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        own = [v for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__]
        found = [_classic(v) for v in own if inspect.isclass(v) and hasattr(v, "invoke") and hasattr(v, "get_info")]
        found += [tool(v) for v in own if inspect.isfunction(v)]
    except Exception as error:  # whatever somebody's module raises
        raise UsageError(f"{path}: {type(error).__name__}: {error}") from None
    if not found:
        raise UsageError(f"{path} has no public function, and no class with invoke and get_info")
    return {t.spec.name: t for t in found}


def _classic(cls: Any) -> Tool:
    """A tool in tau-bench's form."""
    made, about = tool(cls.invoke), cls.get_info()["function"]
    return msgspec.structs.replace(made, spec=ToolSpec(about["name"], about.get("description", ""), about["parameters"]))


def _tasks(root: Path, tools: Mapping[str, Tool]) -> Iterator[tuple[str, Wanted]]:
    for path in sorted(p for p in root.glob("tasks*.json*") if p.suffix in (".json", ".jsonl")):
        split = path.stem.removeprefix("tasks").strip("_-")
        rows = _decoded(path)
        for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
            try:
                found = _wanted(row, split if split in SPLITS else "test")
            except (KeyError, TypeError, AttributeError, msgspec.MsgspecError) as error:
                raise UsageError(f"{path}: task {number} has no {error}") from None
            if unknown := [c.name for c in found.calls if c.name not in tools and c.name != TRANSFER]:
                raise UsageError(f"{path}: task {number} calls {unknown[0]}, which is no tool; there are {', '.join(tools)}")
            try:
                found = msgspec.structs.replace(found, calls=[_checked(c, tools) for c in found.calls])
            except msgspec.ValidationError as error:
                raise UsageError(f"{path}: task {number} has a gold call that does not fit its tool: {error}") from None
            if found.split not in SPLITS:
                raise UsageError(f"{path}: task {number} is in split {found.split!r}; there are {', '.join(SPLITS)}")
            yield f"{found.split}/{found.name or number}", found


def _checked(made: ToolCall, tools: Mapping[str, Tool]) -> ToolCall:
    """A gold call with the arguments that its tool gets, as an agent's are checked. Raises ``msgspec.ValidationError``."""
    if made.name not in tools:
        return made
    found = tools[made.name]
    checked = msgspec.convert(made.arguments, found.arguments)
    return ToolCall(made.name, {n: msgspec.to_builtins(getattr(checked, n)) for n in found.names})


def _wanted(row: dict[str, Any], split: str) -> Wanted:
    """A task of tau-bench's, or of tau2-bench's."""
    if "evaluation_criteria" in row:
        ends, scenario = row["evaluation_criteria"] or {}, row["user_scenario"]["instructions"]
        said = scenario if isinstance(scenario, str) else "\n".join(str(v) for v in scenario.values() if v)
        calls, outputs = ends.get("actions") or [], ends.get("communicate_info") or []
    else:
        said, calls, outputs = row["instruction"], row.get("actions", []), row.get("outputs", [])
    made = [ToolCall(c["name"], dict(c["kwargs"] if "kwargs" in c else c["arguments"])) for c in calls]
    return Wanted(str(said), made, [str(o) for o in outputs], row.get("split", split), str(row.get("id", "")))


class Service(Talk):
    """The conversation: the user speaks first; the agent calls, or speaks. What a tool raises is its answer, and changes nothing."""

    seats = ("agent", "user")

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.current = "user"
        self.domain, self.wanted = domain_of(task), msgspec.convert(task.data["wanted"], Wanted)
        self.db: dict[str, Any] = msgspec.json.decode(self.domain.db)
        self.spoken: list[tuple[str, str]] = []
        self.made: list[ToolCall] = []

    def rules(self, seat: str) -> str:
        """The agent's policy; or who the user is."""
        if seat == "agent":
            return self.domain.policy
        return (
            f"You are a user who talks with an agent. This is what you want:\n{self.wanted.instruction}\n\nSay one thing at a time, in your own words, as such"
            f" a person would; tell what you know when it is asked for, and make up nothing. When you have what you want, or cannot have it, say {STOP}."
        )

    def view(self, seat: str) -> str:
        """What is new; the user, who speaks first, is asked for it."""
        return "How can I help you?" if seat == "user" and not self.spoken else super().view(seat)

    def play(self, action: str) -> None:
        """Calls of the agent's, or speech."""
        mover, parsed = str(self.current), parse_action(action)
        if not parsed.calls or mover == "user":
            if not parsed.prose:
                raise ToolError("say something" if mover == "user" else "say something, or call a tool", malformed=True)
            self.spoken.append((mover, parsed.prose))
            self.tell(parsed.prose[:MOST_SAID], but=mover)
            self.current = None if mover == "user" and STOP in parsed.prose else "user" if mover == "agent" else "agent"
            return
        given = answer(self._guarded, self, Action("", parsed.calls), 0, lambda: self.current is None)
        self.answers[mover] = [(c.name[:80], m["content"]) for c, m in zip(parsed.calls, given.messages, strict=True)]
        self.slip = mover if given.malformed else None

    @cached_property
    def _guarded(self) -> dict[str, Tool]:
        """The domain's tools over this conversation."""
        return {name: _over(found) for name, found in self.domain.tools.items()}

    def run(self, found: Tool, arguments: Mapping[str, Any]) -> str:
        """One call. What raises is undone."""
        before = msgspec.json.encode(self.db)
        self.made.append(ToolCall(found.spec.name, dict(arguments)))
        try:
            said = str(found.function(self.db, **arguments))
        except Exception as error:  # whatever a tool makes of its arguments
            self.db = msgspec.json.decode(before)
            said = f"error: {str(error) or type(error).__name__}"
        if found.spec.name == TRANSFER:
            self.current = None
        return said

    def value(self, seat: str) -> float:
        """1 for both if it came out as it must."""
        return float(not self.measures(seat)["wrong"])

    def measures(self, seat: str) -> Mapping[str, Any]:
        """What is not as it must be: tables, outputs that were not said, and, where nothing was to be changed, calls that were not made."""
        gold = after(self.domain, self.wanted)
        wrong = sorted(k for k in {*gold, *self.db} if gold.get(k) != _canonical(self.db.get(k)))
        said = " ".join(text for who, text in self.spoken if who == "agent").lower().replace(",", "")
        wrong += [f"not said: {o}" for o in self.wanted.outputs if o.lower().replace(",", "") not in said]
        if idle(self.domain, self.wanted):
            wrong += [f"not called: {name}" for name in sorted(Counter(c.name for c in self.wanted.calls) - Counter(c.name for c in self.made))]
        return {"wrong": wrong[:20], "calls": len(self.made), "speeches": len(self.spoken)}

    def standing(self, seat: str) -> float:
        """The share of the gold calls that were made."""
        left = list(self.made)
        hits = 0
        for wanted in self.wanted.calls:
            if wanted in left:
                left.remove(wanted)
                hits += 1
        return hits / len(self.wanted.calls) if self.wanted.calls else 0.5

    def leave(self, seat: str) -> None:
        """Without one of the two it is over."""
        self.current = None


def _over(found: Tool) -> Tool:
    return msgspec.structs.replace(found, function=lambda game, **arguments: game.run(found, arguments))


def _canonical(table: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(table))


@lru_cache(512)
def _after(digest: str, calls: bytes) -> dict[str, Any]:
    domain = _KNOWN[digest]
    db: dict[str, Any] = msgspec.json.decode(domain.db)
    for made in msgspec.json.decode(calls, type=list[ToolCall]):
        if made.name in domain.tools:
            before = msgspec.json.encode(db)
            try:
                domain.tools[made.name].function(db, **made.arguments)
            except Exception:  # a gold call may be one that is refused
                db = msgspec.json.decode(before)
    return {k: _canonical(v) for k, v in db.items()}


def after(domain: Domain, wanted: Wanted) -> dict[str, Any]:
    """The tables as the gold calls leave them."""
    return _after(domain.digest, msgspec.json.encode(wanted.calls))


def idle(domain: Domain, wanted: Wanted) -> bool:
    """Whether nothing was to be changed."""
    return after(domain, wanted) == {k: _canonical(v) for k, v in msgspec.json.decode(domain.db).items()}


def told(game: Game, seat: str, dice: random.Random) -> str:
    """The user says the whole wish, and after the agent's next word that it is all; the agent does it by the gold calls."""
    assert isinstance(game, Service)
    if seat == "user":
        return STOP if game.spoken else game.wanted.instruction
    left = game.wanted.calls[len(game.made) :]
    return print_action("", left[:1]) if left else f"Done. {' '.join(game.wanted.outputs)}".strip()


def by_chance(game: Game, seat: str, dice: random.Random) -> str:
    """A user who says parts of the wish; an agent who says hello."""
    assert isinstance(game, Service)
    if seat == "agent":
        return "Hello. What can I do for you?"
    return STOP if len(game.spoken) > 6 else dice.choice(game.wanted.instruction.split(". "))


PLAYERS: Mapping[str, Player] = {"told": told, "random": by_chance}


def play(task: Task) -> Game:
    """The conversation of a task."""
    return Service(task)


class DomainEnv(TalkSeat):
    """Options: ``path`` (the folder), ``opponents`` (who is the user: ``told``, ``random``, or a policy such as ``openai:MODEL@URL``), ``inaction`` (also play
    tasks in which nothing is to be done or said: who does nothing is right there)."""

    id = "bring/domain-v0"
    capabilities = Capabilities(snapshot=True, seats=("agent", "user"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    usual: ClassVar[str] = "told"

    def __init__(self, *, path: str = "", inaction: bool = False, **base: Any) -> None:
        self._domain, self._inaction = read(path or str(EXAMPLE)), inaction
        self.seat_tools = {"agent": self._domain.tools, "user": {}}
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        domain = self._domain
        found = {n: w for n, w in domain.tasks.items() if w.split == split and (self._inaction or w.calls or w.outputs)}
        if not found:
            raise UsageError(f"no task of {domain.path} is in split {split}; there are {', '.join(sorted({w.split for w in domain.tasks.values()}))}")

        def make(name: str) -> Task:
            wanted = found[name]
            data = {"domain": domain.digest, "wanted": msgspec.to_builtins(wanted)}
            return Task(name, wanted.instruction, split, data, Limits(max_turns=30 + 2 * len(wanted.calls)))

        return TaskSet(found, make)

    def oracle(self) -> Iterator[str]:
        """The gold calls, then what must be said."""
        self._require_running()
        if self.seat != "agent" or self.opponents["user"] != "told":
            raise CapabilityError(f"{self.id} has an oracle for the agent alone, with a user who is told")
        return self._script()

    def player(self) -> Iterator[str]:
        """The user as a script; the agent has none that does not know the gold calls."""
        self._require_running()
        if self.seat != "user":
            raise CapabilityError(f"{self.id} has a player for the user alone")
        return self._script()

    def _script(self) -> Iterator[str]:
        while not self.match.over:
            yield told(self.match.game, self.seat, random.Random(0))

    def _artefacts(self) -> Mapping[str, bytes]:
        game = self.match.game
        assert isinstance(game, Service)
        return {**super()._artefacts(), "db.json": msgspec.json.encode(game.db, order="sorted")}
