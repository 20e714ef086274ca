"""PettingZoo's classic games in words: one wrapper, and for each game how its moves and its position are said.

``wrap`` takes any AEC game whose actions are numbers with a mask; one that has no entry in ``READINGS`` says its moves by their numbers.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from agentgym.errors import ToolError, UnknownName
from agentgym.game import Game
from agentgym.verdict import Json

Raw = Any
"""A game of PettingZoo's without its wrappers."""


def _moves_by_number(raw: Raw) -> dict[str, int]:
    agent = raw.agent_selection
    seen = raw.observe(agent)
    mask = seen.get("action_mask") if isinstance(seen, dict) else raw.infos[agent].get("action_mask")
    return {str(i): int(i) for i in (range(raw.action_space(agent).n) if mask is None else np.flatnonzero(mask))}


def _numbers(raw: Raw, agent: str) -> str:
    seen = raw.observe(agent)
    return " ".join(f"{x:g}" for x in np.ravel(seen["observation"] if isinstance(seen, dict) else seen))


class Reading(Struct, frozen=True):
    """How one game is said: where it is, its rules, its moves in words, its position; ``scale`` is the most that anybody can win.

    ``opening``: up to so many moves are made before the task begins; ``quickest``: the least moves after which it can be over; ``plies``: it is
    drawn after so many; ``secret``: moves are told when the round is over; ``shared``: all seats are paid alike.
    ``listed``: the moves are listed in the observation.
    """

    module: str
    rules: str
    moves: Callable[[Raw], dict[str, int]] = _moves_by_number
    board: Callable[[Raw, str], str] = _numbers
    scale: float = 1.0
    arguments: dict[str, Any] = {}
    opening: int = 0
    quickest: int = 0
    plies: int = 200
    secret: bool = False
    shared: bool = False
    listed: bool = True


# Tic-tac-toe: squares 1 to 9, row by row; PettingZoo counts by columns

SQUARES = [0, 3, 6, 1, 4, 7, 2, 5, 8]


def _ttt_moves(raw: Raw) -> dict[str, int]:
    return {str(n + 1): i for n, i in enumerate(SQUARES) if raw.board.squares[i] == 0}


def _ttt_board(raw: Raw, agent: str) -> str:
    marks = [f"{' xo'[raw.board.squares[i]]}" if raw.board.squares[i] else str(n + 1) for n, i in enumerate(SQUARES)]
    me = "xo"[raw.possible_agents.index(agent)]
    return f"{' '.join(marks[:3])}\n{' '.join(marks[3:6])}\n{' '.join(marks[6:])}\nyou are {me}"


# Connect four: columns 1 to 7


def _four_moves(raw: Raw) -> dict[str, int]:
    return {str(i + 1): i for i in range(7) if raw.board[i] == 0}


def _four_board(raw: Raw, agent: str) -> str:
    rows = [" ".join(".xo"[int(v)] for v in raw.board[r * 7 : r * 7 + 7]) for r in range(6)]
    return "\n".join(["1 2 3 4 5 6 7", *rows, f"you are {'xo'[raw.possible_agents.index(agent)]}"])


# Poker

RANKS = {"T": "10", "J": "jack", "Q": "queen", "K": "king", "A": "ace"}
SUITS = {"S": "spades", "H": "hearts", "D": "diamonds", "C": "clubs"}


def card(code: str) -> str:
    """``DT`` in words: ``10 of diamonds``."""
    return f"{RANKS.get(code[1], code[1])} of {SUITS[code[0]]}"


def _poker_moves(raw: Raw) -> dict[str, int]:
    return {str(getattr(a, "name", a)).lower().replace("_", " "): i for i in raw.next_legal_moves for a in [raw.env._decode_action(i)]}


def _poker_board(raw: Raw, agent: str) -> str:
    seen = raw.env.get_state(raw.possible_agents.index(agent))["raw_obs"]
    hand = [seen["hand"]] if isinstance(seen["hand"], str) else seen["hand"]
    table = seen.get("public_cards", [seen.get("public_card")] if seen.get("public_card") else [])
    others = sum(int(c) for c in seen["all_chips"]) - int(seen["my_chips"])
    said = [f"your hand: {', '.join(map(card, hand))}", f"on the table: {', '.join(map(card, table)) or 'nothing yet'}"]
    return "\n".join([*said, f"in the pot: {int(seen['my_chips'])} from you, {others} from the other"])


# Rock, paper, scissors

_HANDS = ("rock", "paper", "scissors")


def _rps_moves(raw: Raw) -> dict[str, int]:
    return {name: i for i, name in enumerate(_HANDS)}


def _rps_board(raw: Raw, agent: str) -> str:
    return f"round {min(raw.num_moves + 1, raw.max_cycles)} of {raw.max_cycles}"


# Chess


def _chess_moves(raw: Raw) -> dict[str, int]:
    from pettingzoo.classic.chess import chess_utils

    player = raw.possible_agents.index(raw.agent_selection)
    return {chess_utils.action_to_move(raw.board, a, player).uci(): int(a) for a in chess_utils.legal_moves(raw.board)}


def _chess_board(raw: Raw, agent: str) -> str:
    me = "white (capitals)" if raw.possible_agents.index(agent) == 0 else "black (small letters)"
    rows = [f"{8 - i} {row}" for i, row in enumerate(str(raw.board).split("\n"))]
    return "\n".join([*rows, "  a b c d e f g h", f"you are {me}{'; you are in check' if raw.board.is_check() else ''}"])


# Go


def _point(raw: Raw, i: int) -> str:
    n = raw._N
    return "pass" if i == n * n else f"{'abcdefghjklmnopqrst'[i % n]}{n - i // n}"


def _go_moves(raw: Raw) -> dict[str, int]:
    return {_point(raw, int(i)): int(i) for i in raw.next_legal_moves}


def _go_board(raw: Raw, agent: str) -> str:
    n = raw._N
    rows = [f"{n - r} " + " ".join({0: ".", 1: "x", -1: "o"}.get(int(v), "?") for v in raw._go.board[r]) for r in range(n)]
    return "\n".join([*rows, "  " + " ".join("abcdefghjklmnopqrst"[:n]), f"you are {'xo'[raw.possible_agents.index(agent)]}"])


# Hanabi


def _hanabi_state(raw: Raw) -> Any:
    return raw.hanabi_env.game_state


def _hanabi_moves(raw: Raw) -> dict[str, int]:
    state = _hanabi_state(raw)
    if state.is_terminal():
        return {}
    said = {i: state.action_to_string(state.current_player(), i).strip("()").lower() for i in state.legal_actions()}
    return {s.replace("reveal player +1 color", "hint colour").replace("reveal player +1 rank", "hint rank"): i for i, s in said.items()}


def _hanabi_board(raw: Raw, agent: str) -> str:
    state = _hanabi_state(raw)
    return str(state.observation_string(raw.possible_agents.index(agent))).strip()


_MOVE = "Answer with your move alone, on the last line."
READINGS: Mapping[str, Reading] = {
    "tictactoe": Reading("tictactoe_v3", f"Tic-tac-toe: three of your marks in a line win. {_MOVE}", _ttt_moves, _ttt_board, opening=2, quickest=5),
    "connect_four": Reading(
        "connect_four_v3", f"Connect four: drop discs into columns 1 to 7; four of yours in a line win. {_MOVE}", _four_moves, _four_board, opening=4,
        quickest=7,
    ),
    "leduc": Reading(
        "leduc_holdem_v4", f"Leduc hold'em: two suits of jack, queen and king; a pair with the table's card wins, else the higher card. {_MOVE}",
        _poker_moves, _poker_board, scale=7,
    ),
    "texas": Reading("texas_holdem_v4", f"Limit Texas hold'em for two. {_MOVE}", _poker_moves, _poker_board, scale=24),
    "texas_no_limit": Reading("texas_holdem_no_limit_v6", f"No-limit Texas hold'em for two, 100 chips each. {_MOVE}", _poker_moves, _poker_board, scale=100),
    "chess": Reading("chess_v6", f"Chess; moves as e2e4, promotions as e7e8q. {_MOVE}", _chess_moves, _chess_board, opening=2, quickest=4, plies=120),
    "go": Reading(
        "go_v5", f"Go on a small board; moves as c3, or pass; two passes end the game. {_MOVE}", _go_moves, _go_board, arguments={"board_size": 5, "komi": 0.5},
        opening=2, plies=80,
    ),
    "hanabi": Reading(
        "hanabi_v5", f"Hanabi, played together: you see the other's cards, not yours. {_MOVE}", _hanabi_moves, _hanabi_board, scale=10, shared=True,
        arguments={"colors": 2, "ranks": 5, "hand_size": 5, "max_information_tokens": 8, "max_life_tokens": 3},
    ),
    "rps": Reading("rps_v2", f"Rock, paper, scissors, five rounds; more rounds won is better. {_MOVE}", _rps_moves, _rps_board, scale=5,
                   arguments={"max_cycles": 5}, secret=True),
}  # fmt: skip


class Classic(Game):
    """A PettingZoo game. ``seed`` deals the cards and draws the opening."""

    seats = ("first", "second")

    def __init__(self, raw: Raw, reading: Reading, seed: int, opening: int = 0) -> None:
        self.raw, self.reading = raw, reading
        self.names = dict(zip(raw.possible_agents, self.seats, strict=False))
        if len(raw.possible_agents) != len(self.seats):
            self.seats = tuple(raw.possible_agents)  # a game of more seats keeps its own names
            self.names = {a: a for a in raw.possible_agents}
        self.agents = {seat: agent for agent, seat in self.names.items()}
        super().__init__()
        raw.reset(seed=seed)
        self._made, self._round = 0, list[str]()
        self._paid = dict.fromkeys(self.seats, 0.0)
        self._now: dict[str, int] = reading.moves(raw)
        self.current = self.names[raw.agent_selection]
        dice = random.Random(seed)
        for _ in range(opening):
            self.step(dice.choice(list(self._now)))
        self._news = {seat: [] for seat in self.seats}

    def legal(self) -> Sequence[str]:
        """The moves of ``current`` in words."""
        return tuple(self._now) if self.current is not None else ()

    def rules(self, seat: str) -> str:
        """The game's rules."""
        return self.reading.rules

    def view(self, seat: str) -> str:
        """The position as this seat may see it, and its moves."""
        board = self.reading.board(self.raw, self.agents[seat])
        if self.current is None:
            return f"{board}\nthe game is over: {self._ending(seat)}"
        return f"{board}\nmoves:\n{','.join(self._now)}" if seat == self.current else board

    def _ending(self, seat: str) -> str:
        if self.reading.shared:
            return f"you scored {self.rewards[seat] * self.reading.scale:g} together"
        return ("it is a draw", "you have won", "you have lost")[(self.rewards[seat] > 0) - (self.rewards[seat] < 0)]

    def play(self, action: str) -> None:
        """A move in words."""
        mover = self.current
        assert mover is not None
        if action not in self._now:
            raise ToolError(f"{action[:40]!r} is not a legal move; your moves: {', '.join(list(self._now)[:40])}", malformed=True)
        raw, reading = self.raw, self.reading
        raw.step(self._now[action])
        self._made += 1
        if reading.secret:
            self._round.append(f"{mover}: {action}")
            if len(self._round) == len(self.seats):
                self.tell(", ".join(self._round))
                self._round = []
        else:
            self.tell(f"the other: {action}", but=mover)
        for agent, seat in self.names.items():
            self._paid[seat] += float(raw.rewards[agent])
        over = all(raw.terminations[a] or raw.truncations[a] for a in raw.possible_agents if a in raw.terminations)
        if over or self._made >= reading.plies:
            self.current, self._now = None, {}
            self.rewards = (
                {s: max(-1.0, min(1.0, p / reading.scale)) for s, p in self._paid.items()} if over or reading.shared else dict.fromkeys(self.seats, 0.0)
            )
        else:
            self._now = reading.moves(raw)
            self.current = self.names[raw.agent_selection]

    def leave(self, seat: str) -> None:
        """Who leaves loses; what is played together is lost for all."""
        super().leave(seat)
        self._now = {}
        if self.reading.shared:
            self.rewards = dict.fromkeys(self.seats, -1.0)

    def value(self, seat: str) -> float:
        """Won, drawn or lost; of a game that is played together, the share of what could be scored."""
        return max(0.0, self.rewards[seat]) if self.reading.shared else super().value(seat)


def wrap(raw: Raw, rules: str = "", seed: int = 0) -> Classic:
    """Any AEC game of PettingZoo whose actions are numbers as a game in words: its moves are then said by their numbers."""
    return Classic(raw, Reading("", rules), seed)


def classic(data: Mapping[str, Json]) -> Classic:
    """The game of a task's data: ``game``, ``seed`` and ``opening``."""
    name = str(data["game"])
    if name not in READINGS:
        raise UnknownName("game", name, READINGS)
    reading = READINGS[name]
    raw = importlib.import_module(f"pettingzoo.classic.{reading.module}").raw_env(**reading.arguments)
    return Classic(raw, reading, int(data["seed"]), int(data["opening"]))
