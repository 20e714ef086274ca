"""Builds the sandbox supervisor with the package, where there is a C compiler; without one it is built at first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SupervisorHook(BuildHookInterface):
    """Compiles ``supervise.c`` beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = Path(self.root) / "agentgym" / "sandbox"
        source, target, stamp = here / "supervise.c", here / "supervise", here / "supervise.sha256"
        compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
        if self.target_name != "wheel" or compiler is None:
            return
        done = subprocess.run([compiler, "-O2", "-static", "-s", "-o", str(target), str(source)], capture_output=True, text=True)
        if done.returncode:
            self.app.display_warning(f"the sandbox supervisor was not built: {done.stderr.strip()[-300:]}")
            return
        stamp.write_text(hashlib.sha256(source.read_bytes()).hexdigest() + "\n")
        build_data["pure_python"] = False
        build_data["infer_tag"] = version != "editable"
