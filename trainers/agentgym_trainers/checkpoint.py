"""Checkpoints: a Hugging Face folder, and beside it what a bit-exact resume needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentgym.errors import CheckpointMismatch
from agentgym_trainers import parallel
from agentgym_trainers.model import plain, save_model

VERSION = 3
LATE = "reward.state"


def folder_of(out: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` updates lives."""
    return out / "checkpoints" / f"step-{step:05d}"


def save(
    out: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    extra: dict[str, Any],
    late: bytes = b"",
    learner: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all: it counts once ``trainer.json`` is there.

    ``late`` is the state of the reward's late side, ``learner`` that of other roles than the policy.
    """
    folder = folder_of(out, step)
    kept = parallel.optimizer_state(optimizer)
    weights = plain(model) if parallel.world() > 1 else None
    if parallel.rank():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, tokenizer, folder, weights)
    torch.save({"optimizer": kept, "rng": torch.get_rng_state(), "extra": extra, "learner": learner or {}}, folder / "trainer.pt")
    (folder / LATE).write_bytes(late)
    about = {**_mine(model), "step": step, "notes": extra.get("notes", {})}
    partial = folder / "trainer.json.part"
    partial.write_bytes(msgspec.json.encode(about))
    partial.replace(folder / "trainer.json")
    return folder


def _mine(model: PreTrainedModel) -> dict[str, Any]:
    """What must be the same where a run goes on."""
    return {"version": VERSION, "architecture": type(model).__name__, "parameters": model.num_parameters()}


def notes_of(model: str) -> dict[str, Any]:
    """What the warm start of a model saw, where the model is a checkpoint of ours."""
    path = Path(model) / "trainer.json"
    notes: dict[str, Any] = msgspec.json.decode(path.read_bytes()).get("notes", {}) if path.is_file() else {}
    return notes


def latest(out: Path) -> tuple[int, Path] | None:
    """The last whole checkpoint of a run."""
    whole = sorted((out / "checkpoints").glob("step-*/trainer.json"))
    return (int(whole[-1].parent.name.removeprefix("step-")), whole[-1].parent) if whole else None


def restore(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load what is not weights; return the extra state and that of the other roles.

    Raises:
        CheckpointMismatch: it is of another version or model.
    """
    about = msgspec.json.decode((folder / "trainer.json").read_bytes())
    for key, value in _mine(model).items():
        if about.get(key) != value:
            raise CheckpointMismatch(f"{folder} has {key} {about.get(key)}, this run has {value}")
    state = torch.load(folder / "trainer.pt", weights_only=True)
    parallel.load_optimizer_state(optimizer, state["optimizer"])
    torch.set_rng_state(state["rng"])
    return state["extra"], state["learner"]
