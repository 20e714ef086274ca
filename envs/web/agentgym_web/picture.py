"""Screenshots as arrays, and the numbers of elements drawn on them (set of marks)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#d7263d", "#1b6ca8", "#2e7d32", "#8e24aa", "#c2560c", "#00695c")


def decode(data: bytes) -> np.ndarray:
    """An encoded picture as ``[height, width, 3]`` of ``uint8``."""
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def marked(picture: np.ndarray, boxes: Iterable[Sequence[float]]) -> np.ndarray:
    """The picture with a frame and a number for each ``(id, x, y, width, height)``."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for number, x, y, width, height in boxes:
        colour, text = COLOURS[int(number) % len(COLOURS)], str(int(number))
        draw.rectangle((x, y, x + width, y + height), outline=colour, width=2)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        top_left = (max(0, x), max(0, y - (bottom - top) - 5))
        draw.rectangle((*top_left, top_left[0] + right - left + 5, top_left[1] + bottom - top + 5), fill=colour)
        draw.text((top_left[0] + 2, top_left[1] + 1), text, fill="white", font=font)
    return np.asarray(image)
