"""The environment of one seat of a game."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, ClassVar

import anyio
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentgym.core import AgentEnv, Conversation, Message, Obs, Policy, Scene, StepResult, StopReason, Task
from agentgym.episode import Episode, Turn
from agentgym.errors import ContextOverflow, EnvironmentFault, Fault, ToolError, UnknownName
from agentgym.game.match import Game, Match, Move, Player, by_chance
from agentgym.game.verdicts import remember
from agentgym.messages import Action, assistant_message, parse_action
from agentgym.policies import attach, resolve
from agentgym.registry import installed
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym.verdict import Json

FRESH_STARTS = 8
"""So often a match that opponents end before this seat has moved is begun again: nobody passes a task by doing nothing."""


@cache
def _policy(text: str) -> Policy:
    return resolve(text)


@cache
def _portal() -> BlockingPortal:
    """The loop on which opponents that are policies think, where the caller has none."""
    return _OPEN.enter_context(start_blocking_portal("asyncio"))


_OPEN = ExitStack()


class GameEnv(AgentEnv):
    """One seat of a game. ``seat`` names it (default: the first), ``opponents`` who plays the others: a name for all, or one by
    seat (default: ``usual``, at a game ``random``).

    An opponent is a scripted player of the game (``random`` and others) or any policy by name. Seats in ``match.open`` are played by others who
    sit at the same match. The author writes ``tasks`` and ``game``, and names ``Result`` among the verifiers, for the usual rewards as
    ``result``, beside ``legal`` and ``standing``, which every scene tells.
    """

    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("result"), 0.02 * step("legal") + 0.2 * delta(step("standing")), step("standing"))
    plays: ClassVar[Mapping[str, Player]] = {}
    usual: ClassVar[str] = "random"

    def __init__(self, *, seat: str = "", opponents: str | Mapping[str, str] = "", **base: Any) -> None:
        super().__init__(**base)
        seats = self.capabilities.seats
        self.seat = seat or seats[0]
        if self.seat not in seats:
            raise UnknownName("seat", self.seat, seats)
        given = dict.fromkeys(seats, opponents or self.usual) if isinstance(opponents, str) else {**dict.fromkeys(seats, self.usual), **opponents}
        for name, text in given.items():
            if name not in seats:
                raise UnknownName("seat", name, seats)
            known = {"random", *self.plays, *installed("policies")}
            if text.partition(":")[0] not in known:
                raise UnknownName("opponent", text, known)
        self.opponents = {s: text for s, text in given.items() if s != self.seat}
        self._match: Match | None = None
        self._seated: Match | None = None
        self._leads, self._name, self._view = True, "", ""
        self._told: list[Move] | None = None
        self._chairs: dict[str, tuple[GameEnv, Policy, list[Message]]] = {}
        self._ready: tuple[str | None] | None = None
        self._awaits = False
        self._noted = 0

    @abstractmethod
    def game(self, task: Task) -> Game:
        """The game of a task, at its start: what an author writes."""

    @property
    def match(self) -> Match:
        """The match of this episode."""
        assert self._match is not None
        return self._match

    # A seat at somebody's match, and a match as it was recorded

    def sit(self, match: Match, *, leads: bool = True) -> None:
        """Take part in ``match`` at the next reset. With ``leads`` its seats that are not open are played by ``opponents``; else nobody is waited for."""
        self._seated, self._leads = match, leads

    def at(self, seat: str) -> GameEnv:
        """A new environment like this one, at another seat."""
        return type(self)(**{**self._options, "seat": seat})

    def new_match(self, task: Task, seed: int, name: str) -> Match:
        """A match for environments of several seats to sit at."""
        return Match(self.game(task), seed, name)

    def follow(self, episode: Episode) -> None:
        """Let the other seats move, from the next reset on, as they did in a record; scripted ones do so by themselves."""
        told = [(str(seat), str(what), str(text)) for t in episode.turns for seat, what, text in t.facts.get("moves", [])]
        self._told = told if episode.match or not self.scripted else None
        self._name = episode.match or ""

    # The template

    async def areset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """``reset``, where opponents may take their time."""
        self._awaits = True
        try:
            self.reset(seed=seed, options=options)
        finally:
            self._awaits = False
        await self._others()
        self._show(self._scene(first=True))
        self.episode.start_hash, self.episode.start_anchor = self._hash, self._shown.anchor
        return self._observation(), self._info([], {})

    async def astep(self, action: str) -> StepResult:
        """``step``, where opponents may take their time."""
        waited = 0.0
        if self._status == "running" and isinstance(action, str):
            parsed = parse_action(action, max_chars=self.limits.max_action_chars, max_calls=self.limits.max_calls)
            if parsed.problem is None:
                self._ready = (self._said(parsed),)
                began = anyio.current_time()
                if self._ready == (None,):
                    await self._others()
                waited = anyio.current_time() - began
        result = self.step(action)
        self.graded_s += waited
        return result

    def _begin(self, task: Task) -> Scene:
        self._noted, self._ready, self._chairs = 0, None, {}
        if self._seated is not None:
            self._match, self._seated = self._seated, None
        else:
            if self.episode.seed is None:
                self.episode.seed = int(self.np_random.integers(1 << 31))
            self._match = Match(self.game(task), self.episode.seed, self._name)
            if self._told is None and self.scripted:
                self._until_it_begins()
        self.episode.seat, self.episode.match = self.capabilities.seats.index(self.seat), self.match.name or None
        if self._awaits:
            return Scene([], "", "")
        self._others_now()
        return self._scene(first=True)

    def _until_it_begins(self) -> None:
        """Let scripted opponents move first; a game that they end before this seat has moved is begun again, with other luck."""
        for _ in range(FRESH_STARTS):
            self._others_now()
            if not self.match.over:
                break
            self._match = Match(self.game(self.task), self.match.luck + 1, self.match.name)

    def _advance(self, action: Action) -> Scene:
        if self._ready is not None:
            (said,), self._ready = self._ready, None
            return self._scene(said)
        said = self._said(action)
        if said is None:
            self._others_now()
        return self._scene(said)

    def _said(self, action: Action) -> str | None:
        """Make the own move; what was wrong with it."""
        if self.match.over:
            return None
        try:
            self.match.act(self.seat, self.said(action))
        except ToolError as error:
            return str(error)
        return None

    def said(self, action: Action) -> str:
        """What of an action the game gets: its move. Raises ``ToolError`` if there is none."""
        if action.calls:
            raise ToolError("there are no tools here: write your move as plain text", malformed=True)
        return self.move(action.prose)

    def move(self, prose: str) -> str:
        """What of an action is the move: its last line."""
        return prose.rpartition("\n")[2].strip()

    def choices(self) -> Sequence[str]:
        """The legal moves."""
        return self.match.game.legal() if self.match.game.current == self.seat else ()

    def _scene(self, wrong: str | None = None, first: bool = False) -> Scene:
        match, game = self.match, self.match.game
        self._view = game.view(self.seat)
        messages: list[Message] = [{"role": "user", "content": f"error: {wrong}"}] if wrong is not None else self.heard()
        if first and (rules := game.rules(self.seat)):
            messages.insert(0, {"role": "system", "content": rules})
        end = (StopReason.OPPONENT if match.left else StopReason.DONE) if match.over else None
        if match.void:
            gone = next(s for s, r in match.left.items() if r == StopReason.FAULT)
            self.episode.fault, self.episode.culprit = f"{gone} left the match: fault", "infra"
        level = (0.0 if self.seat in match.left else game.value(self.seat)) if match.over else game.standing(self.seat)
        facts: dict[str, Json] = {"legal": float(wrong is None), "standing": level, "moves": match.moves[self._noted :]}
        self._noted = self._noted if first else len(match.moves)
        malformed = wrong is not None or (game.slip == self.seat and not first)
        return Scene(messages, match.state, self._view, end=None if first else end, malformed=malformed, facts=facts)

    def look(self) -> list[Message]:
        """What is new to this seat now, though it has not acted."""
        self._view = self.match.game.view(self.seat)
        return self.heard()

    def heard(self) -> list[Message]:
        """What is new to this seat since its own last action."""
        return [{"role": "user", "content": self.match.game.observe(self.seat, self._view)}]

    def _settle(self, turn: Turn, reason: StopReason | None, began: float) -> StepResult:
        if reason is not None:
            if not self.match.over:
                self.match.leave(self.seat, reason)
            facts, later = self._shown.facts, self.match.moves[self._noted :]
            self._shown.facts = {**facts, "moves": [*facts.get("moves", []), *later]}
            self._noted = len(self.match.moves)
        return super()._settle(turn, reason, began)

    def abandon(self) -> None:
        """Leave the match, because of a fault."""
        if self._match is not None and not self._match.over and self.seat not in self._match.left:
            self._match.leave(self.seat, StopReason.FAULT)

    def _artefacts(self) -> Mapping[str, bytes]:
        data = msgspec.json.encode((self.seat, self.match.moves))
        remember(self.id, self.episode.task_digest, data, self.match)
        return {"match.json": data}

    # The other seats

    def _others_now(self) -> None:
        """Let the others move until it is this seat's turn: at once where they are scripted or told, else on a loop of their own."""
        while self._leads and (seat := self.match.game.current) not in (None, self.seat):
            assert seat is not None
            if not self._moved_at_once(seat):
                _portal().call(self._others)

    async def _others(self) -> None:
        """Let the others move until it is this seat's turn."""
        match = self.match
        while self._leads and (seat := match.game.current) not in (None, self.seat):
            assert seat is not None
            if self._moved_at_once(seat):
                continue
            if seat in match.open:
                await match.change()
            else:
                async with match.asking:
                    if match.game.current == seat:
                        await self._ask(seat)

    @property
    def scripted(self) -> bool:
        """Whether all opponents are scripted players of the game."""
        return all(map(self._scripted, self.opponents.values()))

    def _scripted(self, opponent: str) -> bool:
        return opponent == "random" or opponent in self.plays

    def _moved_at_once(self, seat: str) -> bool:
        """Move for a seat, if it moves as a record tells, or is a scripted player."""
        made = len(self.match.moves)
        if self._told is not None:
            if made >= len(self._told) or self._told[made][0] != seat:
                raise EnvironmentFault(f"the record holds no move {made + 1} of {seat}")
            self.match.again(self._told[made : made + 1])
            return True
        if seat in self.match.open or not self._scripted(self.opponents[seat]):
            return False
        action = self.player_of(self.opponents[seat])(self.match.game, seat, random.Random(f"{self.match.luck}:{made}"))
        try:
            self.match.act(seat, action)
        except ToolError as error:
            raise EnvironmentFault(f"the scripted player {self.opponents[seat]} of {seat} makes no legal move: {error}") from None
        return True

    def player_of(self, name: str) -> Player:
        """The scripted player of that name."""
        return self.plays.get(name, by_chance)

    async def _ask(self, seat: str) -> None:
        """One action of an opponent that is a policy, from an environment of its own at this match."""
        if seat not in self._chairs:
            chair = self.at(seat)
            chair.sit(self.match, leads=False)
            _, info = chair.reset(seed=self.match.luck, options={"task": self.task.id})
            self._chairs[seat] = chair, attach(_policy(self.opponents[seat]), chair), info["messages"]
        chair, policy, messages = self._chairs[seat]
        if chair.episode.turns:
            messages = [*messages, *(chair._shown.messages if chair._shown.malformed else chair.look())]
        try:
            tools = [t.spec for t in chair.tools.values()]
            completion = await policy.act(Conversation(f"{self.episode.id}/{seat}", messages, tools, seed=self.match.luck))
            chair.step(completion.action)
        except ContextOverflow:
            chair.end(StopReason.CONTEXT_OVERFLOW)
        except Fault:
            chair.abandon()
            return
        turn = chair.episode.turns[-1]
        self._chairs[seat] = chair, policy, [*messages, assistant_message(turn.action, turn.calls, len(chair.episode.turns) - 1)]

    # Snapshots: the moves are made again

    def _save(self) -> bytes:
        return msgspec.msgpack.encode((self.match.luck, self.match.moves, self._noted, self.match.state))

    def _load(self, payload: bytes) -> None:
        luck, moves, self._noted, state = msgspec.msgpack.decode(payload, type=tuple[int, list[Move], int, str])
        self._match, self._ready, self._chairs = Match(self.game(self.task), luck, self.episode.match or ""), None, {}
        self.match.again(moves)
        if self.match.state != state:
            raise EnvironmentFault("the moves of the snapshot, made again, lead to another position")

    def fork(self, n: int, reseed: int | None = None) -> list[AgentEnv]:
        """Forks; with ``reseed`` each has other luck with its opponents."""
        forks = super().fork(n, reseed)
        for env in forks:
            assert isinstance(env, GameEnv)
            if reseed is not None:
                env.match.luck = int(env.np_random.integers(1 << 31))
                env._show(msgspec.structs.replace(env._shown, state=env.match.state))
        return forks
