"""Goals by likeness: how near what the agent sees is to what the task asks for, in a space of embeddings, as text or as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import anyio
import numpy as np
from numpy.typing import NDArray

from agentgym.core import EpisodeView, Policy
from agentgym.errors import UsageError
from agentgym.verdict import Verdict
from agentgym_verifiers.credit import again
from agentgym_verifiers.intrinsic.answers import Stateless
from agentgym_verifiers.intrinsic.features import hashed, seen_after

Vectors = NDArray[np.float64]


class Encoder(Protocol):
    """Embeds texts, and pictures where it can."""

    def texts(self, texts: Sequence[str], /) -> Vectors: ...
    def pictures(self, pictures: Sequence[Any], /) -> Vectors: ...


class Hashed:
    """Words hashed into counts: no model, and good for exact words alone."""

    def texts(self, texts: Sequence[str]) -> Vectors:
        """``[B, F]``."""
        return hashed(list(texts)).astype(np.float64)

    def pictures(self, pictures: Sequence[Any]) -> Vectors:
        """It sees none."""
        raise UsageError("hashed words see no pictures; take an image-text model: likeness:PATH")


class TwoTower:
    """A model of images and texts in one space (CLIP and its kin), by path or hub id."""

    def __init__(self, path: str) -> None:
        import torch
        from transformers import AutoModel, AutoProcessor

        try:
            self.model, self.processor = AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"no image-text model can be loaded from {path!r}: {str(error).splitlines()[0][:200]}") from None
        self.no_grad = torch.no_grad

    def texts(self, texts: Sequence[str]) -> Vectors:
        """``[B, F]``."""
        with self.no_grad():
            return _vectors(self.model.get_text_features(**self.processor(text=list(texts), return_tensors="pt", padding=True, truncation=True)))

    def pictures(self, pictures: Sequence[Any]) -> Vectors:
        """``[B, F]``."""
        with self.no_grad():
            return _vectors(self.model.get_image_features(**self.processor(images=list(pictures), return_tensors="pt")))


def _vectors(found: Any) -> Vectors:
    """The pooled vector, however a version of the library gives it."""
    return np.asarray(getattr(found, "pooler_output", found), dtype=np.float64)


class Likeness(Stateless):
    """The cosine of what is seen after each turn to the instruction, in [0, 1]: ``late('likeness')`` of words, ``late('likeness:PATH')`` of pictures.

    ``strength`` (goal-baseline regularisation) projects states by that much onto the line from a ``baseline`` description to the goal, so that
    what the two share pays nothing. Environments with a screen are played again for their pictures. Source: "Vision-Language Models are
    Zero-Shot Reward Models for Reinforcement Learning".
    """

    level: ClassVar[Literal["step"]] = "step"
    scope: ClassVar[Literal["episode"]] = "episode"

    def __init__(self, path: str = "", *, encoder: Encoder | None = None, baseline: str = "", strength: float = 0.0) -> None:
        self.encoder: Encoder = encoder or (TwoTower(path) if path else Hashed())
        self.pixels = bool(path) or (encoder is not None and not isinstance(encoder, Hashed))
        self.baseline, self.strength = baseline, strength

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn."""
        return [await anyio.to_thread.run_sync(self._of, view) for view in views]

    def _of(self, view: EpisodeView) -> list[Verdict]:
        goal_F = self.encoder.texts([view.task.instruction])[0]
        base_F = self.encoder.texts([self.baseline])[0] if self.baseline else None
        states_TF = self.encoder.pictures(_screens(view)) if self.pixels else self.encoder.texts(seen_after(view.episode))
        return [Verdict.scored(float(v)) for v in likeness(states_TF, goal_F, base_F, self.strength)]


def _screens(view: EpisodeView) -> list[Any]:
    """The screen after each turn, from playing the episode again."""
    env = again(view)
    if env.screen is None:
        raise UsageError(f"{env.id} has no screen; late('likeness') compares words")
    try:
        seen = []
        for turn in view.episode.turns:
            seen.append(env.step(turn.action)[0]["screenshot"])  # type: ignore[index]  # an observation with pixels
        return seen
    finally:
        env.close()


def likeness(states_TF: Vectors, goal_F: Vectors, base_F: Vectors | None = None, strength: float = 0.0) -> Vectors:
    """``[T]``: 1 − ½‖α · proj(s) + (1 − α) · s − g‖² of unit vectors, proj onto the line through baseline and goal; 0 … 1 (the cosine where α is 0)."""
    s_TF, g_F = _unit(states_TF), _unit(goal_F[None])[0]
    if base_F is not None and strength:
        b_F = _unit(base_F[None])[0]
        line_F = (g_F - b_F) / max(1e-12, float(np.linalg.norm(g_F - b_F)))
        on_TF = b_F + ((s_TF - b_F) @ line_F)[:, None] * line_F
        s_TF = strength * on_TF + (1 - strength) * s_TF
    found: Vectors = np.clip(1 - 0.5 * ((s_TF - g_F) ** 2).sum(axis=1), 0.0, 1.0)
    return found


def _unit(x_TF: Vectors) -> Vectors:
    unit: Vectors = x_TF / np.maximum(1e-12, np.linalg.norm(x_TF, axis=-1, keepdims=True))
    return unit
