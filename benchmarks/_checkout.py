"""Makes a source checkout importable without installing it: its packages on the path, and their entry points where ``importlib.metadata`` finds them."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def usable() -> None:
    """Put all packages of this checkout on the path, unless they are installed."""
    try:
        import agentgym_trainers  # noqa: F401

        return
    except ImportError:
        pass
    made = Path(tempfile.mkdtemp(prefix="agentgym-checkout-"))
    for file in sorted([ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("envs/*/pyproject.toml")]):
        project = tomllib.loads(file.read_text())["project"]
        info = made / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
        groups = {**project.get("entry-points", {}), "console_scripts": project.get("scripts", {})}
        lines = [line for name, rows in groups.items() for line in (f"[{name}]", *(f"{k} = {v}" for k, v in rows.items()))]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        sys.path.insert(0, str(file.parent))
    sys.path.insert(0, str(made))
