"""The libraries behind ``swe/mend``: fetched by hash, unpacked, and read as trees of files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import msgspec
from msgspec import Struct

from agentgym.errors import MissingExtra
from agentgym.sandbox import WORK, Image, Layer, state_folder

HERE = Path(__file__).parent
FETCH = "agentgym fetch swe"
SITE = "/opt/agentgym/site"
BASE = "agentgym/swe"
TESTING, FITTING = "requirements.txt", "requirements-fit.txt"
KEPT = (".py", ".pyi", ".toml", ".cfg", ".ini", ".md", ".rst", ".txt", ".json", ".html", ".css", ".sql", ".tsv", ".csv")
LEFT_OUT = ("docs/", "benchmark/", "benchmarks/", "fuzz/", "examples/")
MOST_BYTES = 400_000


class Library(Struct, frozen=True):
    """One library: ``sources`` is the prefix of the code that may be broken, ``tests`` the folder or file of its tests, ``path`` what is imported from.

    ``left_out`` are test files that measure time, wait, or talk to themselves over sockets and threads: what they say depends on the machine.
    """

    name: str
    version: str
    sha256: str
    split: str
    sources: str
    tests: str
    path: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}-{self.version}"

    @property
    def folder(self) -> Path:
        """Where it is unpacked."""
        return home() / "libraries" / f"{self.label}-{self.sha256[:12]}"

    @property
    def imports(self) -> tuple[str, ...]:
        """``sys.path`` in the sandbox."""
        return (*(f"{WORK}/{p}" for p in self.path), WORK, SITE)

    def is_test(self, path: str) -> bool:
        """Whether a path of the tree belongs to its tests."""
        return path == self.tests or path.startswith(f"{self.tests}/")

    def is_source(self, path: str) -> bool:
        """Whether a path of the tree is code that may be broken and mended."""
        return path.startswith(self.sources) and path.endswith(".py") and not self.is_test(path)


@cache
def libraries() -> dict[str, Library]:
    """All of them, by name."""
    rows = tomllib.loads((HERE / "libraries.toml").read_text())["library"]
    return {row.name: row for row in msgspec.convert(rows, list[Library])}


def home() -> Path:
    """Where everything that is fetched lies."""
    folder = state_folder() / "swe"
    folder.mkdir(exist_ok=True)
    return folder


def site(requirements: str = TESTING) -> Path:
    """The folder with the packages of a requirements file beside this one."""
    digest = hashlib.sha256((HERE / requirements).read_bytes()).hexdigest()
    return home() / f"site-{digest[:12]}"


def image(requirements: str = TESTING, **env: str) -> Image:
    """What the sandboxes of these environments start from.

    Raises:
        MissingExtra: it was not fetched.
    """
    if not site(requirements).is_dir():
        raise MissingExtra("what swe environments run on", FETCH)
    return Image(base=BASE, layers=(Layer(str(site(requirements)), SITE),), env=(("PYTHONDONTWRITEBYTECODE", "1"), *sorted(env.items())))


@cache
def tree(name: str) -> Mapping[str, bytes]:
    """The files of a library as it was published, by relative path: code, tests, and texts; large and binary ones left out.

    Raises:
        MissingExtra: it was not fetched.
    """
    library = libraries()[name]
    if not library.folder.is_dir():
        raise MissingExtra(f"the library {library.label}", FETCH)
    found = {}
    for path in sorted(p for p in library.folder.rglob("*") if p.is_file() and not p.is_symlink()):
        name = str(PurePosixPath(path.relative_to(library.folder)))
        inside = library.is_test(name) or name.startswith(library.sources)
        if name in library.left_out:
            continue
        text = path.suffix in KEPT and name.count("/") < 2 and not name.startswith(LEFT_OUT)
        if (inside or text) and path.suffix != ".pyc" and path.stat().st_size <= MOST_BYTES:
            found[name] = path.read_bytes()
    return found


def fetch(say: Callable[[str, int, int], None] = lambda what, done, total: None) -> list[str]:
    """Fetch, check and unpack what is not there yet; the names of what was fetched. Interrupted, it is continued."""
    fetched, todo = list[str](), [x for x in libraries().values() if not x.folder.is_dir()]
    sites = [r for r in (TESTING, FITTING) if not site(r).is_dir()]
    total = len(todo) + len(sites)
    for done, requirements in enumerate(sites):
        fresh = site(requirements).with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        wanted = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile", "--python-version", "3.11", "--implementation", "cp"]
        _pip("install", "--target", str(fresh), *wanted, "-r", str(HERE / requirements))
        _readable(fresh)
        fresh.rename(site(requirements))
        fetched.append(requirements)
        say(requirements, done + 1, total)
    for done, library in enumerate(todo):
        _unpack(library, _download(library))
        fetched.append(library.label)
        say(library.label, len(sites) + done + 1, total)
    return fetched


def _readable(folder: Path) -> None:
    """Let everybody read a tree: sandboxes do, as another user."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.suffix == ".so" or ".so." in path.name else 0o644)


def _download(library: Library) -> Path:
    folder = home() / "sdists"
    folder.mkdir(exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{library.name}=={library.version} --hash=sha256:{library.sha256}\n")
    _pip("download", "--no-deps", "--no-binary", ":all:", "--require-hashes", "-d", str(folder), "-r", str(wanted))
    return next(folder.glob(f"{library.name}-{library.version}.tar.gz"))


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"], capture_output=True, text=True)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")] or done.stderr.splitlines()
        raise MissingExtra(f"pip could not fetch ({' '.join(lines)[:300]}), so what swe environments run on", FETCH)


def _unpack(library: Library, archive: Path) -> None:
    """Unpack a source distribution whose hash has been checked, without its first folder; nothing outside, no links."""
    fresh = library.folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, inside = member.name.partition("/")
            if member.isreg() and inside:
                member.name = inside
                tar.extract(member, fresh, filter="data")
    fresh.rename(library.folder)
