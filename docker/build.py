"""Builds the images of this folder, and writes their digests to the lock file. ``python docker/build.py [NAME …]``

``debian:bookworm-slim`` is the base. Where it cannot be pulled, the same base is made by debootstrap. What was built before and has not
changed is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from agentgym.sandbox.docker import engine, lock_file, locked
from agentgym.sandbox.owner import state_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BASE = "debian:bookworm-slim"
MADE = "agentgym/debian:bookworm"
BELOW = {"swe": "base", "gui": "base", "eval": "base", "eval-swe": "eval", "eval-web": "eval", "eval-gui": "eval"}
ORDER = ("base", *BELOW)


class Gym(NamedTuple):
    """What an image that holds a gym has over the one below: packages of Debian, parts of this house, what is installed of them, what was fetched."""

    apt: str
    members: tuple[str, ...]
    installed: tuple[str, ...]
    fetched: str = ""


GYMS = {
    "eval": Gym(
        "python3 python3-venv default-jre-headless", ("", "verifiers", "envs/tools", "envs/nethack", "envs/arena", "envs/text"),
        ("agentgym-core", "agentgym-verifiers[math,text]", "agentgym-tools", "agentgym-nethack", "agentgym-arena", "agentgym-text[world,science]"),
    ),
    "eval-swe": Gym("git patch", ("envs/swe",), ("agentgym-swe",), "swe"),
    "eval-web": Gym("chromium libatomic1 fonts-dejavu-core procps", ("envs/web",), ("agentgym-web",), "web"),
    "eval-gui": Gym("", ("envs/gui",), ("agentgym-gui",)),
}  # fmt: skip
EPOCH = "2026-01-01 00:00:00Z"


def base() -> str:
    """The image that all others stand on: pulled, or made."""
    client = engine()
    for name in (MADE, BASE):
        if client.images(name=name, quiet=True):
            return name
    if subprocess.run(["docker", "pull", "-q", BASE], capture_output=True, timeout=120).returncode == 0:
        return BASE
    if shutil.which("debootstrap") is None or os.geteuid():
        sys.exit(f"{BASE} cannot be pulled, and debootstrap (as root) is not to be had: apt-get install -y debootstrap")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        run("debootstrap", "--variant=minbase", "bookworm", str(root))
        for dirt in ("var/log", "var/cache/apt/archives", "var/cache/ldconfig", "var/lib/apt/lists"):
            for path in (root / dirt).glob("*"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / "etc/machine-id").write_text("")
        tar = Path(folder, "root.tar")
        run("tar", "-C", str(root), "--sort=name", f"--mtime={EPOCH}", "--clamp-mtime", "--numeric-owner", "-cf", str(tar), ".")
        run("docker", "import", str(tar), MADE)
    return MADE


def run(*command: str) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def context(name: str, folder: Path) -> list[str]:
    """Lay out what an image is built from; the arguments of its build."""
    gym = GYMS.get(name)
    shutil.copy(HERE / ("eval" if gym else name) / "Dockerfile", folder)
    if gym is None:
        return []
    wheels, home = folder / "wheels", folder / "home"
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "-w", str(wheels), "--find-links", str(wheels)]
    wheels.mkdir()
    parts = dict.fromkeys((*GYMS["eval"].members, *gym.members))
    run(*pip, "--no-deps", *(str(ROOT / part) for part in parts))
    run(*pip, *gym.installed)
    home.mkdir()
    if gym.fetched and (state_folder() / gym.fetched).is_dir():
        shutil.copytree(state_folder() / gym.fetched, home / gym.fetched, ignore=shutil.ignore_patterns("sdists", "*.new"))
    return ["--build-arg", f"APT={gym.apt}", "--build-arg", f"PARTS={' '.join(gym.installed)}"]


def content(name: str) -> str:
    """A digest of what an image is made from, and those below it; of one with a gym, also the gym's own code and what was fetched for it."""
    gym = GYMS.get(name)
    digest = hashlib.sha256((HERE / ("eval" if gym else name) / "Dockerfile").read_bytes())
    if name in BELOW:
        digest.update(content(BELOW[name]).encode())
    if gym:
        digest.update(repr(gym).encode())
        folders = [ROOT / m for m in gym.members if m] + [ROOT / "agentgym"] * ("" in gym.members)
        kept = (".py", ".toml", ".c", ".json", ".jsonl", ".txt", ".js", ".css", ".html", ".sql")
        for path in sorted(p for f in folders for p in f.rglob("*") if p.suffix in kept and p.is_file() and "build" not in p.relative_to(ROOT).parts):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
        digest.update("\n".join(sorted(p.name for p in (state_folder() / gym.fetched).glob("*"))).encode() if gym.fetched else b"")
    return digest.hexdigest()[:24]


def build(name: str) -> dict[str, object]:
    """Build one image; what the lock file says of it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = context(name, Path(folder))
        below = f"agentgym/{BELOW[name]}" if name in BELOW else base()
        run("docker", "build", "-q", "--build-arg", f"BASE={below}", *arguments, "-t", f"agentgym/{name}", folder)
    about = engine().inspect_image(f"agentgym/{name}")
    entry = {"id": about["Id"], "layers": about["RootFS"]["Layers"], "bytes": about["Size"], "content": content(name)}
    return entry | {"gym": [part.partition("[")[0] for part in GYMS[name].installed]} if name in GYMS else entry


def current(name: str, lock: dict[str, dict[str, object]]) -> bool:
    """Whether the engine has the image that the lock file names, made from what is here now."""
    entry = lock.get(f"agentgym/{name}", {})
    return entry.get("content") == content(name) and entry.get("id") in engine().images(name=f"agentgym/{name}", quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help=f"which of {', '.join(ORDER)}; default: those that are missing or made from something else")
    given = parser.parse_args().names
    lock = {name: entry for name, entry in locked().items() if name.removeprefix("agentgym/") in ORDER}
    for name in given or [n for n in ORDER if not current(n, lock)]:
        print(f"building agentgym/{name} …", flush=True)
        lock[f"agentgym/{name}"] = build(name)
        lock_file().write_bytes(msgspec.json.format(msgspec.json.encode(lock), indent=1))
    print(f"{len(lock)} images in {lock_file()}")


if __name__ == "__main__":
    main()
