"""``bring/rows-v0``: a question for each row of a file, answered in one turn, decided by a rule.

A row goes to the split that its field ``split`` names, else to one by its content: eight of ten to ``train``, one each to ``dev`` and ``test``, so that
equal rows are never in two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.rules import Noted, load
from msgspec import Struct

from agentgym.core import Action, AgentEnv, Capabilities, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.episode import digest
from agentgym.errors import MissingExtra, UsageError
from agentgym.rewards import Spec, outcome, standard, step

EXAMPLE = Path(__file__).with_name("example.jsonl")
RULES = {
    "exact": "Exact(answer='fact:answer')", "number": "Numeric(answer='fact:answer')", "math": "Math(answer='fact:answer')",
}  # fmt: skip
"""Rules by a short name; any other is written out, as ``Exact(answer='fact:answer', normalised=False)``."""
_MARK = re.compile(r"answer:|####", re.IGNORECASE)
SPLITS = ("train", "dev", "test")
Row = dict[str, Any]


class AsTold(Struct, frozen=True):
    """The verdict of the rule that the task names."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        return load(view.task.data["by"])(view)


class RowsEnv(AgentEnv):
    """Options: ``path`` (a ``.jsonl`` file, or ``hf:NAME`` or ``hf:NAME:SPLIT`` of the hub), ``prompt`` (a field, or a text with ``{field}`` in it),
    ``answer`` (the field that the rule compares with), ``by`` (``exact``, ``number``, ``math``, or a rule written out), ``system`` (what is said first).

    What is compared is what follows the last ``answer:`` or ``####`` of the action, else its last line; ``form`` is whether there was such a mark.
    """

    id = "bring/rows-v0"
    capabilities = Capabilities(snapshot=True)
    verifiers: ClassVar[Mapping[str, Verifier]] = {"form": Noted(fact="form", kept=True), "answer": AsTold()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("answer"), 0.02 * step("form"), step("form"))

    def __init__(self, *, path: str = "", prompt: str = "prompt", answer: str = "answer", by: str = "exact", system: str = "", **base: Any) -> None:
        self._rows, self._by = rows(path or str(EXAMPLE), prompt, answer, _changed(path)), RULES.get(by, by)
        load(self._by)
        self._system = system
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The rows of a split, by the beginning of their digests."""
        return TaskSet(list(self._rows[split]), lambda name: _task(name, split, self._by, *self._rows[split][name]))

    def _begin(self, task: Task) -> Scene:
        messages: list[Message] = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": task.instruction})
        return Scene(messages, "asked", task.instruction)

    def _advance(self, action: Action) -> Scene:
        if action.calls:
            return self._objection("there are no tools here: write your answer")
        found = said(action.prose)
        if not found:
            return self._objection("write your answer")
        return Scene(
            [], f"answered|{found}", self.task.instruction, StopReason.SUBMITTED, facts={"answer": found, "form": float(_MARK.search(action.prose) is not None)}
        )

    def _save(self) -> bytes:
        return b""

    def _load(self, payload: bytes) -> None:
        """Nothing but the record changes."""

    def oracle(self) -> Iterator[str]:
        """The answer of the row."""
        self._require_running()
        gold = self.task.data["answer"]
        return iter([str(gold[0] if isinstance(gold, list) else gold)])


def said(text: str) -> str:
    """The answer in an action: what follows the last mark, else the last line."""
    marked = _MARK.split(text)
    lines = [line.strip() for line in marked[-1].strip().splitlines() if line.strip()]
    return (lines[0] if len(marked) > 1 else lines[-1]) if lines else ""


@lru_cache(maxsize=16)
def rows(path: str, prompt: str, answer: str, changed: float) -> dict[str, dict[str, tuple[str, Any, Row]]]:
    """By split and name: what is asked, what is right, and the row. ``changed`` is when the file was: it is read again then.

    Raises:
        UsageError: there is no such file, or a row has no such field; the message names the line.
        MissingExtra: a data set of the hub is asked for, and ``datasets`` is not installed.
    """
    out: dict[str, dict[str, tuple[str, Any, Row]]] = {s: {} for s in SPLITS}
    for number, row in enumerate(_read(path), 1):
        try:
            asked = str(row[prompt]) if prompt in row else prompt.format_map(row) if "{" in prompt else row[prompt]
            gold = row[answer]
        except (KeyError, IndexError, AttributeError, ValueError) as error:
            raise UsageError(f"{path}:{number} has no field {error}; it has {', '.join(sorted(row))}") from None
        if gold in (None, "", []):
            raise UsageError(f"{path}:{number} has an empty {answer!r}: a task needs an answer")
        name = digest(msgspec.json.encode((asked, gold), order="sorted"))
        split = row.get("split") or ("train",) * 8 + ("dev", "test")
        chosen = split if isinstance(split, str) else split[int(name[:8], 16) % 10]
        if chosen not in out:
            raise UsageError(f"{path}:{number} is in split {chosen!r}; there are {', '.join(SPLITS)}")
        out[chosen][f"{chosen}/{name[:16]}"] = asked, gold, row
    if not out["train"]:
        raise UsageError(f"{path} has no row for the split train")
    return out


def _changed(path: str) -> float:
    file = Path(path)
    return file.stat().st_mtime if path and file.is_file() else 0.0


def _read(path: str) -> Iterator[Row]:
    if path.startswith("hf:"):
        yield from _hub(path.removeprefix("hf:"))
        return
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield msgspec.json.decode(line, type=Row)
            except msgspec.MsgspecError as error:
                raise UsageError(f"{path}:{number} is no JSON object: {error}") from None


def _hub(text: str) -> Sequence[Row]:
    """Rows of a data set: of the hub, or of a folder that ``datasets`` reads."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra("datasets", "pip install 'agentgym-bring[hub]'") from None
    name, _, split = text.partition(":")
    try:
        found: Sequence[Row] = load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise UsageError(f"no data set {name!r} with a split {split or 'train'!r}: {str(error).splitlines()[0][:200]}") from None
    return found


def _task(name: str, split: str, by: str, asked: str, gold: Any, row: Row) -> Task:
    return Task(
        name,
        asked,
        split,
        {"answer": gold, "by": by, "row": {k: v for k, v in row.items() if k != "split"}},
        Limits(max_turns=3),
        kind=str(row.get("kind", "")),
    )
