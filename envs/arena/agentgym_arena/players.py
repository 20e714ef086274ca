"""Scripted players of the classic games. They read no more than their seat may see."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from agentgym.game import Game, Player
from agentgym_arena.classic import SQUARES, Classic

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
