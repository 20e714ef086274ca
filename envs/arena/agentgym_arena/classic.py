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
from agentgym.game import Game, Player
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

    ``opening``: up to so many moves are made before the task begins; ``plies``: it is drawn after so many; ``secret``: moves are told when
    the round is over; ``shared``: all seats are paid alike. ``listed``: the moves are listed in the observation.
    """

    module: str
    rules: str
    moves: Callable[[Raw], dict[str, int]] = _moves_by_number
    board: Callable[[Raw, str], str] = _numbers
    scale: float = 1.0
    arguments: dict[str, Any] = {}
    opening: int = 0
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
    "tictactoe": Reading("tictactoe_v3", f"Tic-tac-toe: three of your marks in a line win. {_MOVE}", _ttt_moves, _ttt_board, opening=2),
    "connect_four": Reading(
        "connect_four_v3", f"Connect four: drop discs into columns 1 to 7; four of yours in a line win. {_MOVE}", _four_moves, _four_board, opening=4
    ),
    "leduc": Reading(
        "leduc_holdem_v4", f"Leduc hold'em: two suits of jack, queen and king; a pair with the table's card wins, else the higher card. {_MOVE}",
        _poker_moves, _poker_board, scale=7,
    ),
    "texas": Reading("texas_holdem_v4", f"Limit Texas hold'em for two. {_MOVE}", _poker_moves, _poker_board, scale=24),
    "texas_no_limit": Reading("texas_holdem_no_limit_v6", f"No-limit Texas hold'em for two, 100 chips each. {_MOVE}", _poker_moves, _poker_board, scale=100),
    "chess": Reading("chess_v6", f"Chess; moves as e2e4, promotions as e7e8q. {_MOVE}", _chess_moves, _chess_board, opening=2, plies=120),
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
        paid = {s: float(raw._cumulative_rewards[a] if reading.shared or reading.secret else raw.rewards[a]) for a, s in self.names.items()}
        if reading.secret or reading.shared:
            self._totals = paid = {s: getattr(self, "_totals", {}).get(s, 0.0) + float(raw.rewards[a]) for a, s in self.names.items()}
        over = all(raw.terminations[a] or raw.truncations[a] for a in raw.possible_agents if a in raw.terminations)
        if over or self._made >= reading.plies:
            self.current, self._now = None, {}
            self.rewards = {s: max(-1.0, min(1.0, p / reading.scale)) for s, p in paid.items()} if over or reading.shared else dict.fromkeys(self.seats, 0.0)
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


_MADE: dict[str, list[Raw]] = {}


def classic(data: Mapping[str, Json]) -> Classic:
    """The game of a task's data: ``game``, ``seed`` and ``opening``."""
    name = str(data["game"])
    if name not in READINGS:
        raise UnknownName("game", name, READINGS)
    reading = READINGS[name]
    raw = importlib.import_module(f"pettingzoo.classic.{reading.module}").raw_env(**reading.arguments)
    return Classic(raw, reading, int(data["seed"]), int(data["opening"]))


# Players

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def _grid(game: Classic) -> tuple[list[int], int]:
    """Tic-tac-toe's board row by row, and whose move it is."""
    return [game.raw.board.squares[i] for i in SQUARES], game.raw.possible_agents.index(game.raw.agent_selection) + 1


def _winner(board: list[int]) -> int:
    return next((board[a] for a, b, c in LINES if board[a] and board[a] == board[b] == board[c]), 0)


def _minimax(board: list[int], me: int, known: dict[tuple[tuple[int, ...], int], int]) -> int:
    """The value of a board for ``me``, who is to move: 1, 0 or -1."""
    key = tuple(board), me
    if key not in known:
        free = [i for i in range(9) if not board[i]]
        if _winner(board):
            known[key] = -1
        elif not free:
            known[key] = 0
        else:
            known[key] = max(-_minimax([*board[:i], me, *board[i + 1 :]], 3 - me, known) for i in free)
    return known[key]


_VALUES: dict[tuple[tuple[int, ...], int], int] = {}


def _drop(board: list[int], column: int) -> int:
    return next((r * 7 + column for r in reversed(range(6)) if not board[r * 7 + column]), -1)


def _four(board: list[int], at: int) -> bool:
    """Whether the disc at ``at`` is in a line of four."""
    row, column, who = at // 7, at % 7, board[at]
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        n = 1
        for sign in (1, -1):
            r, c = row + sign * dr, column + sign * dc
            while 0 <= r < 6 and 0 <= c < 7 and board[r * 7 + c] == who:
                n, r, c = n + 1, r + sign * dr, c + sign * dc
        if n >= 4:
            return True
    return False


def _wins(game: Classic, move: str, who: int) -> bool:
    """Whether ``who`` would win by this move at once."""
    if game.reading.module.startswith("tictactoe"):
        board, at = _grid(game)[0], int(move) - 1
        board[at] = who
        return _winner(board) == who
    board = [int(v) for v in game.raw.board]
    at = _drop(board, int(move) - 1)
    board[at] = who
    return _four(board, at)


def greedy(game: Game, seat: str, dice: random.Random) -> str:
    """Wins if it can at once, else hinders the other from it, else takes what is worth most; at poker it plays by the strength of its hand."""
    assert isinstance(game, Classic)
    legal, kind = list(game.legal()), game.reading.module
    if kind.startswith(("tictactoe", "connect_four")):
        me = game.raw.possible_agents.index(game.agents[seat]) + 1
        for who in (me, 3 - me):
            if won := [m for m in legal if _wins(game, m, who)]:
                return dice.choice(won)
        middle = [m for m in legal if m in (("5",) if kind.startswith("tic") else ("4",))]
        return dice.choice(middle or legal)
    if kind.startswith("chess"):
        return _take(game.raw.board, legal, dice)
    if kind.startswith(("leduc", "texas")):
        return _by_strength(game, seat, legal)
    if kind.startswith("hanabi"):
        return dice.choice([m for m in legal if m.startswith("hint")] or [m for m in legal if m.startswith("discard")] or legal)
    return dice.choice([m for m in legal if m != "pass"] or legal)


def _take(board: Any, legal: Sequence[str], dice: random.Random) -> str:
    """Mates if it can, else takes the most valuable piece."""
    import chess

    worth = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9, chess.KING: 0}
    best: list[tuple[float, float, str]] = []
    for each in legal:
        move = chess.Move.from_uci(each)
        taken = board.piece_type_at(move.to_square)
        board.push(move)
        mate = board.is_checkmate()
        board.pop()
        best.append((100.0 if mate else worth.get(taken, 0) + (8 if move.promotion else 0), dice.random(), each))
    return max(best)[2]


WANTED = (("check", "check call", "call"), ("check", "call", "check call"), ("raise", "raise pot", "raise half pot", "call", "check call", "check"))
"""What is done with a weak hand, a fair one and a strong one, the first that is possible; with a weak one nothing is paid but what a check costs."""


def _by_strength(game: Classic, seat: str, legal: Sequence[str]) -> str:
    """Raises with a pair, calls with a high card, and else pays as little as it can."""
    seen = game.raw.env.get_state(game.raw.possible_agents.index(game.agents[seat]))["raw_obs"]
    hand = [seen["hand"]] if isinstance(seen["hand"], str) else list(seen["hand"])
    table = list(seen.get("public_cards", [seen.get("public_card")] if seen.get("public_card") else []))
    ranks, shown = [c[1] for c in hand], {c[1] for c in table}
    paired = len(set(ranks)) < len(ranks) or any(r in shown for r in ranks)
    strength = 2 if paired else int(any(r in "QKA" for r in ranks))
    return next((m for m in WANTED[strength] if m in legal), legal[0])


def perfect(game: Game, seat: str, dice: random.Random) -> str:
    """Never loses at tic-tac-toe; elsewhere plays as ``greedy``."""
    assert isinstance(game, Classic)
    if not game.reading.module.startswith("tictactoe"):
        return greedy(game, seat, dice)
    board, me = _grid(game)
    scored = {m: -_minimax([*board[: int(m) - 1], me, *board[int(m) :]], 3 - me, _VALUES) for m in game.legal()}
    return dice.choice([m for m, v in scored.items() if v == max(scored.values())])


def repeats(game: Game, seat: str, dice: random.Random) -> str:
    """Always the first legal move: the simplest opponent to learn against."""
    return game.legal()[0]


PLAYERS: Mapping[str, Player] = {"greedy": greedy, "perfect": perfect, "first-move": repeats}
