"""Small things about pictures: the pointer, and cards of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agentgym.picture import png

ARROW = [
    "X", "XX", "X.X", "X..X", "X...X", "X....X", "X.....X", "X......X", "X.......X", "X........X",
    "X.....XXXXX", "X..X..X", "X.X X..X", "XX  X..X", "X    X..X", "     X..X", "      XX",
]  # fmt: skip
DARK, LIGHT = (np.array([[c == mark for c in row] for row in (r.ljust(12) for r in ARROW)]) for mark in "X.")


def pointed(frame: np.ndarray, x: int, y: int) -> np.ndarray:
    """A copy of the screen ``[height, width, 3]`` with a pointer at a place: the X server keeps it out of its pictures."""
    out = frame.copy()
    part = out[y : y + DARK.shape[0], x : x + DARK.shape[1]]
    height, width = part.shape[:2]
    part[DARK[:height, :width]] = 0
    part[LIGHT[:height, :width]] = 255
    return out


def card(lines: Sequence[str], size: tuple[int, int] = (560, 400)) -> bytes:
    """A picture of some lines of text, as PNG."""
    image = Image.new("RGB", size, "#fbf6e9")
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, size[0] - 9, size[1] - 9), outline="#8c6d3f", width=3)
    for n, line in enumerate(lines):
        draw.text((36, 32 + 44 * n), line, fill="#222222", font=ImageFont.load_default(26 if n else 30))
    return png(np.asarray(image))
