"""Texts as vectors without a model, and arrays as bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agentgym.episode import Episode
from agentgym.messages import text_of

SIZE, LONGEST = 256, 240
Vectors = NDArray[np.float32]
_MIX = np.array([2654435761, 40503, 2246822519], dtype=np.uint32)


def hashed(texts: Sequence[str], size: int = SIZE) -> Vectors:
    """``[B, size]`` unit vectors of the signed hashes of each text's byte trigrams (its first 20,000 bytes)."""
    out_BF = np.zeros((len(texts), size), dtype=np.float32)
    for row_F, text in zip(out_BF, texts, strict=True):
        raw = np.frombuffer(b"\x02" + text[:20_000].encode("utf-8", "surrogatepass") + b"\x03", dtype=np.uint8).astype(np.uint32)
        if len(raw) < 3:
            raw = np.concatenate([raw, np.zeros(3 - len(raw), dtype=np.uint32)])
        code = raw[:-2] * _MIX[0] ^ raw[1:-1] * _MIX[1] ^ raw[2:] * _MIX[2]
        code ^= code >> np.uint32(15)
        sign = 1.0 - 2.0 * ((code >> np.uint32(30)) & np.uint32(1))
        row_F += np.bincount(code % np.uint32(size), weights=sign, minlength=size)
    out_BF /= np.maximum(np.linalg.norm(out_BF, axis=1, keepdims=True), 1e-6)
    return out_BF


def seen_after(episode: Episode) -> list[str]:
    """What the agent saw after each turn: the next turn's new messages, at the end the closing ones."""
    return [text_of(m) if m else "" for m in (*(t.observation for t in episode.turns[1:]), episode.closing)]


def seen_before(episode: Episode) -> list[str]:
    """What the agent saw before each turn."""
    return [text_of(t.observation) if t.observation else "" for t in episode.turns]


def captions(episode: Episode) -> list[str]:
    """What each turn led to, in short: its fact ``caption``, else the beginning of what was seen after it."""
    return [str(t.facts.get("caption", text))[:LONGEST].strip() for t, text in zip(episode.turns, seen_after(episode), strict=True)]


def arrays(of: Mapping[str, np.ndarray[Any, Any]], rest: Any = None) -> bytes:
    """Named arrays and a plain value as bytes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{**of, "__rest__": np.frombuffer(msgspec.json.encode(_plain(rest)), dtype=np.uint8)})
    return file.getvalue()


def unarrays(data: bytes) -> tuple[dict[str, np.ndarray[Any, Any]], Any]:
    """What ``arrays`` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        found = {k: file[k] for k in file.files}
    return found, _unplain(msgspec.json.decode(found.pop("__rest__").tobytes()))


def _plain(value: Any) -> Any:
    """Large integers (of a random generator's state) as text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return f"int:{value}" if isinstance(value, int) and abs(value) >= 1 << 53 else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unplain(v) for k, v in value.items()}
    return int(value[4:]) if isinstance(value, str) and value.startswith("int:") else value
