"""``text/world-v0``: games of TextWorld, generated offline and kept beside each other on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from agentgym_verifiers.rules import Noted

from agentgym.core import Capabilities, Limits, StopReason, Task, TaskSet, Verifier
from agentgym.errors import EnvironmentFault, UnknownName
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym.sandbox.owner import state_folder
from agentgym_text.base import End, LineEnv, Said

LEVELS: dict[int, tuple[int, int, int]] = {
    1: (1, 3, 1), 2: (2, 5, 2), 3: (3, 8, 3), 4: (4, 10, 4), 5: (6, 12, 6), 6: (8, 16, 8), 7: (10, 20, 10), 8: (12, 24, 12),
}  # fmt: skip
"""Rooms, things, and steps of the quest, by level."""
FIRST_SEED = {"train": 1, "dev": 1_000_001, "test": 2_000_001}
COUNT = {"train": 1000, "dev": 100, "test": 200}
MAKER, SEAL = 1, "game.sha256"
"""The version of how games are made; another makes them anew."""
DRAFTS, SHORTEST = 12, 0.7
"""So many games are drafted for a task, until one has no way to win that is shorter than this share of its quest."""
UNKNOWN = re.compile(r"that's not a verb i recogni[sz]e|i didn't understand|you can't see any such thing|i only understood|what do you want|nothing to", re.I)
COMMAND = re.compile(r"[A-Za-z0-9 ,.'\"!?-]{0,199}[A-Za-z0-9.!?'\"]")
"""What the interpreter gets to read: others hang it."""
META = frozenset(
    [
        "again",
        "g",
        "oops",
        "quit",
        "q",
        "recording",
        "replay",
        "restart",
        "restore",
        "save",
        "script",
        "transcript",
        "undo",
        "unscript",
        "unundo",
        "verify",
        "version",
    ]
)
"""Words to the interpreter, not to the game: they would ask for files, or go back in time."""
_PROMPT = re.compile(r"\n\s*>\s*(?:-=[^\n]*)?\s*\Z|\s*\*\*\* The End \*\*\*.*\Z", re.S)


class WorldEnv(LineEnv):
    """A TextWorld game. Options: ``levels`` (one or several of 1 to 8), ``facts`` (record the hidden state of every turn: a third slower)."""

    id = "text/world-v0"
    capabilities = Capabilities(snapshot=True)
    system = "You play a game in a world of text. Answer with one command, such as: go north, open chest, take key, put key on table, look, inventory."
    verifiers: ClassVar[Mapping[str, Verifier]] = {"understood": Noted(fact="understood"), "progress": Noted(fact="progress", kept=True), "won": End()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("won"), 0.01 * step("understood") + 0.2 * delta(step("progress")), step("progress"))

    def __init__(self, *, levels: int | Iterable[int] = (), facts: bool = False, **base: Any) -> None:
        self._levels = (levels,) if isinstance(levels, int) else tuple(levels) or tuple(LEVELS)
        for level in self._levels:
            if level not in LEVELS:
                raise UnknownName("level", str(level), map(str, LEVELS))
        self._facts = facts
        self._game: Any = None
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Games by number, the levels in turn."""
        every = list(LEVELS)
        ids = [f"{split}/{i:04d}-{every[i % len(every)]}" for i in range(COUNT[split]) if every[i % len(every)] in self._levels]
        return TaskSet(ids, lambda name: _task(split, name))

    def _open(self, task: Task) -> Said:
        self._shut()
        self._game = start(task, facts=self._facts)
        state = self._game.reset()
        self._steps = max(1, len(state["_winning_policy"] or ()))
        self._state, self._moved = state, False
        text = f"{state['objective'].strip()}\n\n{_clean(state['description'])}"
        return Said(text, _clean(state["description"]), facts=self._noted(True))

    def _say(self, line: str) -> Said:
        if not COMMAND.fullmatch(line):
            return Said("error: a command is one line of plain letters, at most 200", self._anchor(), malformed=True)
        if line.split()[0].lower() in META:
            return Said("That is not possible here.", self._anchor(), facts=self._noted(False))
        self._state, _, done = self._game.step(line)
        text = _clean(self._state.feedback)
        understood = not UNKNOWN.search(text)
        end = StopReason.DONE if done else None
        return Said(text, "", end, facts=self._noted(understood))

    def _anchor(self) -> str:
        return _clean(self._state.feedback)

    def _noted(self, understood: bool) -> dict[str, Any]:
        state = self._state
        left = len(state["_winning_policy"] or ()) if not state["won"] else 0
        progress = 0.0 if state["lost"] else max(0.0, 1 - left / self._steps)
        facts = {"understood": float(understood), "progress": progress, "score": state["score"], "moves": state["moves"]}
        return {**facts, "world": sorted(map(str, state["facts"]))} if self._facts else facts

    def _artefacts(self) -> Mapping[str, bytes]:
        state = self._state
        told = {"value": float(bool(state["won"])), "lost": bool(state["lost"]), "score": state["score"], "of": state["max_score"], "moves": state["moves"]}
        return {"end.json": msgspec.json.encode(told)}

    def choices(self) -> Sequence[str]:
        """The commands that do something now."""
        return tuple(self._commands(self._state["_valid_actions"]))

    def oracle(self) -> Iterator[str]:
        """The generator's walkthrough from here: its shortest way to win."""
        self._require_running()
        while self._status == "running":
            yield self._commands(self._state["_winning_policy"])[0]

    def _commands(self, actions: Any) -> list[str]:
        return list(_tracker(self._game)._inform7.gen_commands_from_actions(actions or ()))

    def _shut(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None

    def close(self) -> None:
        """End the game; idempotent."""
        self._shut()
        super().close()


def _tracker(game: Any) -> Any:
    """The wrapper that knows how actions are said."""
    while not hasattr(game, "_inform7"):
        game = game._wrapped_env
    return game


def _clean(text: str | None) -> str:
    """A text without the prompt and the status line that an interpreter puts behind it."""
    return re.sub(r"\n\s*\n\s*", "\n\n", _PROMPT.sub("", (text or "").strip())).strip()


def _task(split: str, name: str) -> Task:
    number, level = (int(x) for x in name.partition("/")[2].split("-"))
    rooms, things, steps = LEVELS[level]
    data = {"seed": FIRST_SEED[split] + number, "rooms": rooms, "things": things, "steps": steps, "maker": MAKER}
    said = "Reach the goal that is told at the start, by commands to a world of text."
    return Task(name, said, split, data, Limits(max_turns=max(20, 6 * steps + 2 * rooms)), kind=f"level-{level}")


def folder() -> Path:
    """Where generated games are kept."""
    return state_folder() / "text" / "world"


def game_file(data: Mapping[str, Any]) -> Path:
    """The game of a task's data, made if it is not there.

    Raises:
        EnvironmentFault: a file that is there has been damaged; it is removed, so that the next attempt makes it anew.
    """
    here = folder() / hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:20]
    if not here.exists():
        _make(data, here)
    try:
        sound = _digest(here) == (here / SEAL).read_text()
    except OSError:
        sound = False
    if not sound:
        shutil.rmtree(here, ignore_errors=True)
        raise EnvironmentFault(f"the generated game {here.name} has been damaged; it was removed, and is made anew next time")
    return here / "game.z8"


def _digest(here: Path) -> str:
    return hashlib.sha256((here / "game.z8").read_bytes() + (here / "game.json").read_bytes()).hexdigest()


def _make(data: Mapping[str, Any], here: Path) -> None:
    """Make a game beside its place and put it there at once; of two processes that do, the first is kept."""
    import textworld
    from textworld.generator import compile_game

    here.parent.mkdir(parents=True, exist_ok=True)
    options = textworld.GameOptions()
    options.nb_rooms, options.nb_objects, options.quest_length = int(data["rooms"]), int(data["things"]), int(data["steps"])
    options.grammar.only_last_action = True
    scratch = Path(tempfile.mkdtemp(dir=here.parent))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            options.path, options.force_recompile = str(scratch / "game.z8"), True
            compile_game(_long_enough(options, int(data["seed"]), int(data["steps"])), options)
        (scratch / SEAL).write_text(_digest(scratch))
        with contextlib.suppress(OSError):
            scratch.rename(here)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _long_enough(options: Any, seed: int, steps: int) -> Any:
    """The first game, from a seed on, that has no way to win much shorter than its quest; of several the longest, if there is none."""
    from textworld.generator import make_game
    from textworld.generator.game import GameProgression

    best: tuple[int, Any] = (0, None)
    for attempt in range(DRAFTS):
        options.seeds = seed + attempt * 10_000_000
        game = make_game(options)
        length = len(GameProgression(game).winning_policy or ())
        best = max(best, (length, game), key=lambda each: each[0])
        if length >= SHORTEST * steps:
            break
    return best[1]


def start(task: Task, facts: bool = False) -> Any:
    """TextWorld's own environment of a task's game, with what is asked for here."""
    import textworld

    asked = textworld.EnvInfos(
        feedback=True, description=True, objective=True, score=True, max_score=True, won=True, lost=True, moves=True, intermediate_reward=True, facts=facts
    )
    path = str(game_file(task.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jericho warns of every game that is not one of the classics
        return textworld.start(path, request_infos=asked)
