"""Pictures as PNG, without a library for it: screens go to models, pages and people."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

Packed = tuple[tuple[int, ...], bytes] | None
"""A picture as its shape and bytes, or none."""


def packed(frame: np.ndarray[Any, Any] | None) -> Packed:
    """A picture that can be written."""
    return None if frame is None else (frame.shape, frame.tobytes())


def unpacked(data: Packed) -> np.ndarray[Any, Any] | None:
    """A picture that was written."""
    return None if data is None else np.frombuffer(data[1], np.uint8).reshape(data[0])


def png(frame: np.ndarray[Any, Any]) -> bytes:
    """An array ``[height, width, 3]`` of ``uint8`` as a PNG file."""
    height, width = frame.shape[:2]
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # every row begins with its filter: none
    rows[:, 1:] = frame.reshape(height, width * 3)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b"")


def data_url(frame: np.ndarray[Any, Any]) -> str:
    """The same, to be put into a page or a request."""
    return "data:image/png;base64," + base64.b64encode(png(frame)).decode()


def smaller(frame: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    """The picture by whole steps of pixels, averaged, so that it is at most ``most`` wide."""
    step = -(-frame.shape[1] // most)
    if step <= 1:
        return frame
    height, width = frame.shape[0] // step * step, frame.shape[1] // step * step
    cut = frame[:height, :width].reshape(height // step, step, width // step, step, 3)
    return np.asarray(cut.mean(axis=(1, 3)).astype(np.uint8))
