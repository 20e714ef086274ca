"""Where metrics go beside ``metrics.jsonl``: TensorBoard, Weights & Biases or trackio, where one is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from agentgym.errors import MissingExtra


class Tracker:
    """Tells one service every row of numbers; none if its name is empty.

    Raises:
        MissingExtra: it is not installed.
    """

    def __init__(self, name: str, out: Path) -> None:
        self.name, self._writer = name, None
        if not name:
            return
        module = "torch.utils.tensorboard" if name == "tensorboard" else name
        try:
            found: Any = importlib.import_module(module)
        except ImportError:
            raise MissingExtra(name, f"pip install {name}") from None
        if name == "tensorboard":
            self._writer = found.SummaryWriter(str(out / "tensorboard"))
        else:
            self._writer = found.init(project="agentgym", name=out.name, dir=str(out)) if name == "wandb" else found.init(project="agentgym", name=out.name)

    def log(self, row: dict[str, Any]) -> None:
        """One row of ``metrics.jsonl``, each number under ``phase/name``."""
        if self._writer is None:
            return
        numbers = {f"{row['phase']}/{k}": v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
        if self.name == "tensorboard":
            for key, value in numbers.items():
                self._writer.add_scalar(key, value, row["step"])
            self._writer.flush()
        else:
            self._writer.log(numbers, **({"step": row["step"]} if row["phase"] == "train" else {}))

    def close(self) -> None:
        """Finish; idempotent."""
        if self._writer is not None:
            getattr(self._writer, "close", getattr(self._writer, "finish", lambda: None))()
            self._writer = None
