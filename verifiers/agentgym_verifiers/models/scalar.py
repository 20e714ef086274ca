"""Reward models: a language model's body under a head of one number, for a whole episode or for every turn, in one forward pass.

A model is a Hugging Face folder: a sequence classifier of one label (as most published reward models are) or a token classifier of one label
(as ``agentgym train --role verifier`` writes them, read at the end of each turn).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from agentgym.core import EpisodeView, Policy
from agentgym.episode import Episode, read_episodes
from agentgym.errors import UsageError
from agentgym.verdict import Verdict
from agentgym_verifiers.intrinsic.answers import Stateless
from agentgym_verifiers.models.text import Read, read

disable_progress_bar()  # a run shows its own progress

TOKENS = 8192
"""Tokens of one forward pass, padding among them, unless an episode alone is longer."""

Level = Literal["step", "outcome"]


class Scalar:
    """A reward model that has been loaded. ``level`` and ``reading`` are in its configuration, where we wrote it.

    ``reading``: ``sigmoid`` (a chance, or a preference's logit), ``identity`` (a regression). ``reference``: it is told another attempt first.
    """

    def __init__(self, model: Any, tokenizer: Any, level: Level = "outcome", reading: str = "sigmoid", name: str = "model", reference: bool = False) -> None:
        self.model, self.tokenizer, self.level, self.reading, self.name, self.reference = model.eval(), tokenizer, level, reading, name, reference
        self.tokens = type(model).__name__.endswith("ForTokenClassification")
        self.longest = int(getattr(model.config, "max_position_embeddings", 0) or 0)
        if level == "step" and not self.tokens:
            raise UsageError(f"{name} gives one number for a whole text; a verifier of turns needs a token classifier")

    @staticmethod
    def load(path: str, level: Level | None = None) -> Scalar:
        """From a folder or hub id.

        Raises:
            UsageError: there is no reward model of one label.
        """
        try:
            config = AutoConfig.from_pretrained(path)
            kind = str((config.architectures or [""])[0])
            auto = AutoModelForTokenClassification if kind.endswith("ForTokenClassification") else AutoModelForSequenceClassification
            if "Classification" not in kind or config.num_labels != 1:
                raise UsageError(f"{path} is {kind or 'no model'} with {config.num_labels} labels; a reward model is a classifier with one")
            model, tokenizer = auto.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"no reward model can be loaded from {path!r}: {str(error).splitlines()[0][:200]}") from None
        about = getattr(config, "agentgym", None) or {}
        found: Any = level or about.get("level", "outcome")
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        return Scalar(model, tokenizer, found, about.get("reading", "sigmoid"), Path(path).name, bool(about.get("reference")))

    def read(self, view: EpisodeView, reference: Episode | None = None) -> Read:
        """The ids of an episode and the ends of its turns; a reference attempt at the task is told before it."""
        return read(view.episode, self.tokenizer, reference)

    def logits(self, reads: Sequence[Read]) -> list[Tensor]:
        """For each episode ``[T]``, the raw number at the end of each turn; of a sequence classifier ``[1]``."""
        out: list[Tensor] = [torch.zeros(0)] * len(reads)
        for rows in _packed([len(r.ids) for r in reads], TOKENS):
            ids_RT, mask_RT = padded([reads[i].ids for i in rows])
            given = {"input_ids": ids_RT.to(self.model.device), "attention_mask": mask_RT.to(self.model.device)}
            if self.tokens:
                all_RT = self.model(**given).logits[..., 0].float().cpu()
                for row, i in enumerate(rows):
                    out[i] = all_RT[row][torch.tensor(reads[i].ends, dtype=torch.long)]
            else:  # one row at a time: such models find the last token by their own pad token, which is not always set
                for row, i in enumerate(rows):
                    n = len(reads[i].ids)
                    out[i] = self.model(input_ids=given["input_ids"][row : row + 1, :n]).logits[0].float().cpu()
        return out

    @torch.no_grad()
    def scores(self, views: Sequence[EpisodeView], references: Sequence[Episode | None] | None = None) -> list[list[float]]:
        """For each episode a number at every turn (level ``step``), or one; none of an episode that is longer than the model reads.

        Nothing is cut: with its beginning an episode would lose its task, and whoever writes much could choose what is judged.
        """
        reads = [self.read(v, r) for v, r in zip(views, references or [None] * len(views), strict=True)]
        fits = [i for i, r in enumerate(reads) if not self.longest or len(r.ids) <= self.longest]
        out: list[list[float]] = [[] for _ in reads]
        for i, x in zip(fits, self.logits([reads[i] for i in fits]), strict=True):
            valued = torch.sigmoid(x) if self.reading == "sigmoid" else x
            out[i] = [float(v) for v in (valued if self.level == "step" else valued[-1:])]
        return out


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """``[R, T]`` ids and the mask of what is one, padded behind."""
    width = max(map(len, rows))
    ids_RT, mask_RT = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for r, row in enumerate(rows):
        ids_RT[r, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_RT[r, : len(row)] = 1
    return ids_RT, mask_RT


def _packed(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices in rows of like length, each pass of at most ``most`` tokens with its padding."""
    out: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not out or (len(out[-1]) + 1) * lengths[i] > most:
            out.append([])
        out[-1].append(i)
    return out


class RewardModel(Stateless):
    """A reward model as a source: ``late('rm:PATH', level='outcome')``, or of turns where it is one of turns: ``late('rm:PATH')``.

    One that was taught relative to reference attempts is told them: ``rm:PATH|RUN``, the first success at each task in a run's folder. An episode
    of a task without one is ``invalid``.
    """

    scope: Literal["episode"] = "episode"

    def __init__(self, path: str = "", *, model: Scalar | None = None) -> None:
        if not path and model is None:
            raise UsageError("rm needs a model: rm:PATH")
        where, _, run = path.partition("|")
        self.model = model or Scalar.load(where)
        self.level = self.model.level
        if bool(run) != self.model.reference:
            raise UsageError(f"{where} was{'' if self.model.reference else ' not'} taught with reference attempts: rm:PATH{'' if run else '|RUN'}")
        self.references = references_of(run) if run else None

    async def judge(self, views: Sequence[EpisodeView], policy: Policy) -> list[list[Verdict]]:
        """A verdict for each turn, or one for the episode."""
        told = [None if self.references is None else self.references.get(v.task.id) for v in views]
        known = [i for i, t in enumerate(told) if t is not None or self.references is None]
        found = await anyio.to_thread.run_sync(self.model.scores, [views[i] for i in known], [told[i] for i in known]) if known else []
        rows = dict(zip(known, found, strict=True))
        return [self._told(view, rows.get(i)) for i, view in enumerate(views)]

    def _told(self, view: EpisodeView, row: list[float] | None) -> list[Verdict]:
        if row:
            return [Verdict.scored(v, model=self.model.name) for v in row]
        why = (
            f"there is no reference attempt at {view.task.id}"
            if row is None
            else f"the episode is longer than the {self.model.longest} tokens {self.model.name} reads"
        )
        return [Verdict.invalid(why, "infra")] * (len(view.episode.turns) if self.level == "step" else 1)


def references_of(run: str) -> dict[str, Episode]:
    """By task, the first success in a run's folder. Raises ``UsageError`` where there is none."""
    path = Path(run) / "episodes.jsonl"
    found = {e.task: e for e in reversed(list(read_episodes(path))) if e.success} if path.is_file() else {}
    if not found:
        raise UsageError(f"{run} holds no successful episode to refer to")
    return found
