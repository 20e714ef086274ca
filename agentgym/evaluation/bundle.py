"""A run folder as a bundle: every file with its digest, packed to one file on request, and refused if it is not what it says."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec
from msgspec import Struct

from agentgym.episode import encode, read_episodes
from agentgym.errors import BundleError, UsageError

SCHEMA = 1
SEAL = "bundle.json"
MOST_FILES, MOST_BYTES, MOST_RATIO = 500_000, 16 << 30, 200
STAMP = (1980, 1, 1, 0, 0, 0)


class Seal(Struct, frozen=True):
    """``bundle.json``: the sha256 and size of every other file of the folder."""

    files: dict[str, tuple[str, int]]
    schema: int = SCHEMA


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The regular files of a folder by relative name, sorted; without the seal and unfinished writes."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise BundleError(str(folder), name, "is a link")
        if path.is_file() and name != SEAL and not name.endswith(".part"):
            yield name, path


def sha256(path: Path) -> str:
    """The digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write down the digest of every file."""
    found = Seal({name: (sha256(path), path.stat().st_size) for name, path in files_of(folder)})
    number, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")  # of its own: others may seal at the same time
    with os.fdopen(number, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(found), indent=1))
    Path(name).chmod(0o644)
    Path(name).replace(folder / SEAL)


def unseal(folder: Path) -> None:
    """Take the seal off a folder that is about to change."""
    (folder / SEAL).unlink(missing_ok=True)


def check(folder: Path, exact: bool = False) -> bool:
    """Compare every sealed file with the seal; False if there is none. ``exact``: there may be no other files.

    Raises:
        BundleError: a file is missing, was changed, or (``exact``) is not listed; or the seal is of a newer schema.
    """
    path = folder / SEAL
    if not path.is_file():
        return False
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=Seal)
    except msgspec.MsgspecError as error:
        raise BundleError(str(folder), SEAL, f"is no seal: {error}") from None
    if sealed.schema != SCHEMA:
        raise BundleError(str(folder), SEAL, f"is of schema {sealed.schema}; this version reads {SCHEMA}")
    there = dict(files_of(folder))
    for name, (digest, size) in sealed.files.items():
        if name not in there:
            raise BundleError(str(folder), name, "is missing")
        if there[name].stat().st_size != size or sha256(there[name]) != digest:
            raise BundleError(str(folder), name, "was changed")
    for name in there if exact else ():
        if name not in sealed.files:
            raise BundleError(str(folder), name, "is not listed in the seal")
    return True


def pack(folder: Path, to: Path) -> None:
    """Seal a folder and write it to one zip file: the same files give the same bytes."""
    seal(folder)
    partial = to.with_name(f"{to.name}.part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        for name, path in [*files_of(folder), (SEAL, folder / SEAL)]:
            entry = zipfile.ZipInfo(name, STAMP)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, file.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    partial.replace(to)


@contextmanager
def thinned(folder: Path) -> Iterator[Path]:
    """A run without its artefacts and token ids, for as long as this lasts: what is left names the artefacts by digest, and playing it again makes them."""
    with tempfile.TemporaryDirectory(prefix="agentgym-thin-") as name:
        thin = Path(name)
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.name not in (SEAL, "episodes.jsonl") and not path.name.endswith(".part"):
                shutil.copyfile(path, thin / path.name)
        with (thin / "episodes.jsonl").open("wb") as file:
            for episode in read_episodes(folder / "episodes.jsonl"):
                for turn in episode.turns:
                    turn.usage = {**turn.usage, "completion_tokens": turn.sampled}
                    turn.tokens = None
                file.write(encode(episode))
        yield thin


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a run: the folder itself, or a packed one unpacked for as long as this lasts. A seal is checked.

    Raises:
        BundleError: the bundle is not what it says; nothing of it was used.
        UsageError: there is no run at ``path``.
    """
    if path.is_dir():
        _require_run(path)
        check(path)
        yield path
        return
    if not path.is_file():
        raise UsageError(f"{path} is not a run folder, nor a packed one; make one with: agentgym eval --env ENV --out DIR")
    with tempfile.TemporaryDirectory(prefix="agentgym-bundle-") as folder:
        unpack(path, Path(folder))
        if not check(Path(folder), exact=True):
            raise BundleError(str(path), SEAL, "is missing")
        _require_run(Path(folder))
        yield Path(folder)


@contextmanager
def looked_into(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """As ``opened``, but a folder whose seal is broken is given too, with what is wrong with it: to find out more about it."""
    broken: list[str] = []
    if path.is_dir():
        _require_run(path)
        try:
            check(path)
        except BundleError as error:
            broken.append(str(error))
        yield path, broken
        return
    with opened(path) as folder:
        yield folder, broken


def _require_run(folder: Path) -> None:
    if not (folder / "episodes.jsonl").is_file():
        raise UsageError(f"{folder} is not a run folder (no episodes.jsonl); make one with: agentgym eval --env ENV --out DIR")


def unpack(path: Path, folder: Path) -> None:
    """Unpack into an empty folder, refusing what leads out of it or is out of proportion, before anything is written.

    Raises:
        BundleError: with the file's name and the reason.
    """
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BundleError(str(path), path.name, f"is no zip file: {error}") from None
    with file:
        entries = file.infolist()
        for entry in entries:
            if reason := _unfit(entry):
                raise BundleError(str(path), entry.filename[:200], reason)
        names = [e.filename for e in entries]
        if len(names) > MOST_FILES or sum(e.file_size for e in entries) > MOST_BYTES:
            raise BundleError(str(path), path.name, f"unpacks to {len(names)} files and {sum(e.file_size for e in entries)} bytes, which is too much")
        if len(set(names)) != len(names):
            raise BundleError(str(path), next(n for n in names if names.count(n) > 1), "occurs twice")
        for entry in entries:
            _write(file, entry, folder, path)


def _unfit(entry: zipfile.ZipInfo) -> str:
    """Why an entry may not be unpacked; empty if it may."""
    name, parts = entry.filename, PurePosixPath(entry.filename).parts
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or (parts and ":" in parts[0]) or not parts:
        return "leads out of the bundle"
    kind = entry.external_attr >> 16 & 0o170000
    if entry.is_dir() or kind not in (0, 0o100000):
        return "is not a regular file"
    if entry.file_size > 1 << 20 and entry.file_size > MOST_RATIO * max(1, entry.compress_size):
        return f"unpacks to {entry.file_size} bytes from {entry.compress_size}"
    return ""


def _write(file: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, path: Path) -> None:
    """One entry, never more of it than it says."""
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    try:
        with file.open(entry) as source, target.open("xb") as out:
            while piece := source.read(min(1 << 20, left + 1)):
                left -= len(piece)
                if left < 0:
                    raise BundleError(str(path), entry.filename, "is longer than it says")
                out.write(piece)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(str(path), entry.filename, f"cannot be unpacked: {error}") from None
