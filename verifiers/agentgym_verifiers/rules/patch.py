"""A patch as an artefact: what an agent changed, path by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

import msgspec
from msgspec import Struct

from agentgym.sandbox import Entry

PATCH = "patch.json"


class Changed(Struct, frozen=True, omit_defaults=True):
    """A changed path of a patch: ``data`` (text, or latin-1 of bytes that are none) of a regular file; ``kind`` says what else it is."""

    kind: Literal["file", "binary", "deleted", "link", "folder", "other"]
    data: str = ""
    mode: int = 0o644

    @property
    def bytes(self) -> bytes:
        """The content of a file."""
        return self.data.encode("latin-1" if self.kind == "binary" else "utf-8")


def read_patch(data: bytes) -> dict[str, Changed]:
    """A patch artefact. Raises ``ValueError`` if it is none, or names a path outside the tree."""
    patch = msgspec.json.decode(data, type=dict[str, Changed])
    for path in patch:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ValueError(f"a patch cannot hold the path {path!r:.80}")
    return patch


def patch_of(before: Mapping[str, bytes], after: Mapping[str, Entry], ignored: Sequence[str] = ()) -> dict[str, Changed]:
    """What an agent changed: from the files it was given to the tree it left."""
    found: dict[str, Changed] = {}
    for path, entry in after.items():
        if not path or any(part in ignored for part in PurePosixPath(path).parts):
            continue
        if entry.type == "f":
            if before.get(path) != entry.data:
                found[path] = _file(entry)
        elif entry.type == "d":
            if path in before:
                found[path] = Changed("folder")
        else:
            found[path] = Changed("link" if entry.type == "l" else "other", entry.data.decode("utf-8", "replace") if entry.type == "l" else "")
    for path in before:
        if path not in after and not any(part in ignored for part in PurePosixPath(path).parts):
            found[path] = Changed("deleted")
    return dict(sorted(found.items()))


def _file(entry: Entry) -> Changed:
    try:
        return Changed("file", entry.data.decode("utf-8"), entry.mode)
    except UnicodeDecodeError:
        return Changed("binary", entry.data.decode("latin-1"), entry.mode)
