"""The map as a picture, in NetHack's own tiles of 16 by 16 pixels."""

from __future__ import annotations

from functools import cache

import numpy as np
from nle import nethack

SHAPE: tuple[int, int] = nethack.TILE_RENDER_SHAPE[:2]
"""Height and width."""
SHEET, EDGE = (27, 40), 16
"""How many tiles stand one below and beside another in the engine's sheet, and the edge of one in pixels."""


@cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """``[tiles, edge, edge, 3]``, and the tile of each glyph."""
    sheet = np.zeros((SHEET[0] * EDGE, SHEET[1] * EDGE, 3), dtype=np.uint8)
    engine = nethack.Nethack(observation_keys=("misc",), ttyrec=None)
    engine.setup_tiles()
    engine.get_tileset(sheet)
    engine.close()
    tiles = sheet.reshape(SHEET[0], EDGE, SHEET[1], EDGE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, EDGE, EDGE, 3)
    return tiles, np.array([*nethack.glyph2tile, nethack.glyph2tile[nethack.GLYPH_CMAP_OFF]])


def draw(glyphs: np.ndarray) -> np.ndarray:
    """``[height, width, 3]``, 8 bits each, of a map of glyphs."""
    tiles, tile_of = _tiles()
    picture: np.ndarray = tiles[tile_of[glyphs]].transpose(0, 2, 1, 3, 4).reshape(*SHAPE, 3)
    return picture
