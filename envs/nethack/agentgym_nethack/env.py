"""NetHack as text: ``nethack/score-v0`` and its kin over the whole dungeon, and families of MiniHack levels such as ``nethack/room-v0``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal
from zlib import crc32

import msgspec
from msgspec import Meta, Struct

from agentgym.core import Action, AgentEnv, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import ToolError, UnknownName
from agentgym.messages import Tool, answer, tool
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_nethack import GAMES, PER_LEVEL, words
from agentgym_nethack.bot import Bot, solve
from agentgym_nethack.commands import MOVES, keys_of, read
from agentgym_nethack.engine import BUFFERS, NEEDED, OPTIONS, Game, Setup
from agentgym_nethack.goals import ENOUGH, TELLS, Measure
from agentgym_nethack.hands import act, opened, question, raw
from agentgym_nethack.levels import FAMILIES, GOALS, level
from agentgym_nethack.pixels import SHAPE, draw

SYSTEM = (
    "You play NetHack. Say one short action a turn, and nothing else: a direction (north, far east, down), search 10, or a command with an item or a "
    "direction, such as eat d, wear c, throw b west, open east, pick up all, inventory, look, pray, travel stairs down. If NetHack asks something, say "
    "answer and the key."
)
RAW = "You play NetHack by its own keys: say the keys to press and nothing else, such as j, 20s, or <esc>."
DUNGEON = {"score": "score", "staircase": "stairs", "staircase-pet": "pet", "oracle": "oracle", "gold": "gold", "eat": "eat a lot", "scout": "scout"}
DUNGEON_TURNS = {"staircase": 1000, "staircase-pet": 1000}
DUNGEON_OPTIONS = ("autopickup", "pickup_types:$?!/", "pickup_burden:unencumbered")
STYLES = ("full", "compact", "pixels")


class Progress(Struct, frozen=True):
    """A step verdict: the measure of the task as it stands, between 0 and 1; a level."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(view.episode.turns[-1].facts.get("progress", 0.0))


class Reached(Struct, frozen=True):
    """The outcome: 1 if the goal was reached, else 0; for tasks without an end, how far they got. Score, depth and level are in the evidence."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        facts = next((t.facts for t in reversed(view.episode.turns) if t.facts), {})
        goal = view.task.data["goal"]
        value = facts.get("progress", 0.0) if goal == "score" or goal in ENOUGH else float(bool(facts.get("done")))
        return Verdict.scored(value, **{k: v for k, v in facts.items() if k not in ("done", "caption")})


class Move(Struct):
    """What the tool acts on."""

    env: NetHackEnv
    pages: list[str] = []


EXAMPLES = [
    *MOVES, "search 5", "search 20", "pick up all", "look", "inventory", "kick east", "kick north",
    "open north", "open west", "eat d", "fight south", "fight west", "travel stairs down",
]  # fmt: skip


@tool
def play(move: Move, action: Annotated[str, Meta(max_length=120, examples=EXAMPLES)]) -> str:
    """Do one short action, such as north, far east, search 10, eat d, throw b west."""
    move.env.do(action, move)
    return move.env.describe(move)


def seeds_of(task_id: str) -> tuple[int, int, int]:
    """The seeds of a task's game: of the core, the display, the level generator."""
    digest = hashlib.blake2b(task_id.encode(), digest_size=24).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") >> 2 for i in (0, 8, 16))  # type: ignore[return-value]  # three of them


@cache
def tasks_of(name: str, split: str, kinds: tuple[str, ...] = ()) -> TaskSet:
    """The tasks of an environment: games by number, or its levels (those of ``kinds``, if any) in turn, each with seeds of its own."""
    known = [name] if name in DUNGEON else FAMILIES[name]
    for kind in kinds:
        if kind not in known:
            raise UnknownName(f"level of nethack/{name}", kind, known)
    each = GAMES[split] if name in DUNGEON else PER_LEVEL[split]
    return TaskSet([f"{kind}.{split}.{n}" for n in range(each) for kind in known if not kinds or kind in kinds], _task)


def _task(task_id: str) -> Task:
    name, split, _ = task_id.rsplit(".", 2)
    if name in DUNGEON:
        goal, turns = DUNGEON[name], DUNGEON_TURNS.get(name, 5000)
    else:
        goal, turns = GOALS.get(name, "stairs"), level(name).turns
    data = {"name": name, "goal": goal, "seeds": [str(s) for s in seeds_of(task_id)]}
    return Task(task_id, TELLS[goal], split, data, Limits(max_turns=turns, max_malformed=10), name)


def setup_of(task: Task) -> Setup:
    """The game of a task."""
    name, (core, display, levels) = task.data["name"], map(int, task.data["seeds"])
    if name in DUNGEON:
        options = (*OPTIONS, *((o if o != DUNGEON_OPTIONS[1] or name != "gold" else "pickup_types:$") for o in DUNGEON_OPTIONS))
        return Setup((core, display, levels), options=options)
    found = level(name)
    options = (*OPTIONS, "autopickup" if found.autopickup else "!autopickup", "pettype:none")
    return Setup((core, display, levels), found.character, options, False, name)


class NetHackEnv(AgentEnv):
    """A game of NetHack. Options: ``style`` (``full``: the screen, ``compact``: in words, with the map around, ``pixels``: a picture beside the
    screen), ``actions`` (``names``, or the ``keys`` of the game itself), ``kinds`` (one or several) to play some levels of a family only.
    """

    id = "nethack/score-v0"
    tools: Mapping[str, Tool] = {"play": play}
    verifiers: ClassVar[Mapping[str, Verifier]] = {"progress": Progress(), "task": Reached()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("task"), delta(step("progress")), step("progress"))
    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}

    def __init__(self, *, style: str = "full", actions: str = "names", kinds: str | Iterable[str] = (), **base: Any) -> None:
        if style not in STYLES:
            raise UnknownName("style", style, STYLES)
        if actions not in ("names", "keys"):
            raise UnknownName("kind of actions", actions, ("names", "keys"))
        self._compact, self._raw = style == "compact", actions == "keys"
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        self._game = Game()
        self._painted = style == "pixels" or base.get("render_mode") == "rgb_array"
        if style == "pixels":
            self.screen = SHAPE
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(self.id.partition("/")[2].rpartition("-v")[0], split, self._kinds)

    @property
    def game(self) -> Game:
        """The running game."""
        return self._game

    def _buffers(self, task: Task) -> tuple[str, ...]:
        return NEEDED if task.data["goal"] in ("score", "gold", "eat a lot", "eat") and not (self._compact or self._painted) else BUFFERS

    def _begin(self, task: Task) -> Scene:
        self._game.start(setup_of(task), self._buffers(task))
        pages = self._pages = [] if self._raw else opened(self._game)
        self._measure = Measure(task.data["goal"], self._game)
        told = f"{task.instruction}\n\n{self.describe(Move(self, pages))}"
        return self._scene([{"role": "system", "content": RAW if self._raw else SYSTEM}, {"role": "user", "content": told}], told)

    def _advance(self, action: Action) -> Scene:
        if action.calls:
            move = Move(self)
            done = answer(self.tools, move, action, len(self.episode.turns) - 1, self._over)
            return self._scene(done.messages, "\n".join(m["content"] for m in done.messages), done.malformed)
        move, malformed = Move(self), False
        try:
            self.do(action.prose, move)
        except ToolError as error:
            malformed, self._pages = error.malformed, []
            move.pages = [f"error: {error}"]
        text = self.describe(move)
        return self._scene([{"role": "user", "content": text}], text, malformed)

    def do(self, line: str, move: Move) -> None:
        """Do one action by its name, or by its keys."""
        plan = keys_of(line) if self._raw else read(line)
        move.pages = self._pages = (raw if self._raw else act)(self._game, plan)
        self._measure.take(plan.name)

    def describe(self, move: Move) -> str:
        """The observation after an action."""
        game = self._game
        if self._compact:
            return words.compact(game, move.pages, question(game))
        if not move.pages:
            return game.text()
        return "\n".join([*move.pages, game.text()])

    def _over(self) -> bool:
        return self._measure.done or self._game.over()

    def _scene(self, messages: list[Message], text: str, malformed: bool = False) -> Scene:
        measure, game = self._measure, self._game
        seen = text if self._compact else f"{crc32(game.screen[80:1760]):08x}"
        picture = draw(game.arrays["glyphs"]) if self._painted else None
        end = StopReason.DONE if measure.done or game.over() else None
        facts = measure.state()
        if caption := " ".join([*self._pages, game.message()]).strip():
            facts["caption"] = caption
        return Scene(messages, game.digest, seen, end, malformed, facts, picture)

    def _artefacts(self) -> Mapping[str, bytes]:
        """The game itself: its setup and every key, by which anyone can play it again."""
        game = self._game
        return {"game.json": msgspec.json.encode({"setup": game.setup, "keys": list(game.keys), "digest": game.digest})}

    def oracle(self) -> Iterator[str]:
        """The actions that win a level, found by a search; for the families that it can solve (``bot.SOLVED``)."""
        self._require_running()
        return iter(solve(self))

    def player(self) -> Iterator[str]:
        """An honest bot: explores, fights, eats, prays, goes down."""
        self._require_running()
        if self._game.buffers != BUFFERS:  # the bot reads the map and the inventory: the same game, with more of it to be seen
            self._game.replay(self._game.setup, bytes(self._game.keys), self._game.digest)
        return Bot(self._game, self.task.data["goal"], random.Random(0)).actions()

    def _save(self) -> bytes:
        game, measure = self._game, self._measure
        return msgspec.msgpack.encode((game.setup, bytes(game.keys), game.digest, measure.state_to_keep()))

    def _load(self, payload: bytes) -> None:
        setup, keys, digest, kept = msgspec.msgpack.decode(payload, type=tuple[Setup, bytes, str, dict[str, Any]])
        buffers = self._buffers(self.task)
        self._game.start(setup, buffers)
        self._measure = Measure(self.task.data["goal"], self._game)
        self._game.replay(setup, keys, digest, buffers)
        self._measure.keep(kept)

    def close(self) -> None:
        """End the engine; idempotent."""
        self._game.close()
        super().close()


def again(data: bytes) -> Game:
    """The game of a ``game.json``, played again to where it was. Raises ``EnvironmentFault`` if it comes out differently."""
    kept = msgspec.json.decode(data)
    game = Game()
    game.replay(msgspec.convert(kept["setup"], Setup), bytes(kept["keys"]), kept["digest"])
    return game
