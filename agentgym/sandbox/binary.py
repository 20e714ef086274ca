"""The supervisor's program: built with the package; built again on the spot where the package came without it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from agentgym.errors import MissingExtra
from agentgym.sandbox.owner import state_folder

HERE = Path(__file__).parent
SOURCE = HERE / "supervise.c"
FLAGS = ("-O2", "-static", "-s")


@cache
def supervisor() -> Path:
    """The path of the static program for this machine.

    Raises:
        MissingExtra: it was not built with the package, and there is no C compiler.
    """
    source = SOURCE.read_bytes()
    built = HERE / "supervise"
    stamp = HERE / "supervise.sha256"
    digest = hashlib.sha256(source).hexdigest()
    if built.exists() and stamp.exists() and stamp.read_text().strip() == digest:
        return built
    return build(state_folder() / f"supervise-{digest[:16]}")


def build(target: Path) -> Path:
    """Compile the supervisor to ``target``, unless it is there."""
    if target.exists():
        return target
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang", "musl-gcc") if c and shutil.which(c)), None)
    if compiler is None:
        raise MissingExtra("the sandbox supervisor (a small C program)", "apt-get install -y gcc libc6-dev")
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    done = subprocess.run([compiler, *FLAGS, "-o", str(fresh), str(SOURCE)], capture_output=True, text=True)
    if done.returncode:
        raise MissingExtra(f"the sandbox supervisor (compiling it failed: {done.stderr.strip()[-300:]})", "apt-get install -y gcc libc6-dev")
    fresh.chmod(0o755)
    fresh.rename(target)
    return target
