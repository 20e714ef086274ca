"""``doctor``: what is here, what is missing, and the line that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from msgspec import Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import MissingExtra
from agentgym.registry import installed, load, specs
from agentgym.sandbox import Resources

TORCH = "pip install torch"
OPTIONAL = {
    "torch": TORCH,
    "transformers": "pip install agentgym-trainers",
    "pyarrow": "pip install 'agentgym-core[parquet]'",
    "math-verify": "pip install 'agentgym-verifiers[math]'",
    "sacrebleu": "pip install 'agentgym-verifiers[text]'",
}


class DoctorConfig(Struct, forbid_unknown_fields=True):
    """Nothing to set."""


class Finding(Struct, frozen=True):
    """One line of the doctor's report; ``mend`` is the command that would change it."""

    name: str
    status: Literal["ok", "missing", "wrong"]
    detail: str
    mend: str = ""


def clash() -> Finding:
    """Another project is called ``agentgym`` on the package index and installs a folder of that name."""
    files = {d.metadata["Name"] for d in metadata.distributions() if (d.metadata["Name"] or "").lower() == "agentgym"}
    import agentgym

    where = Path(agentgym.__file__ or "").parent
    if files:
        return Finding(
            "distribution",
            "wrong",
            f"another project named agentgym is installed and may overwrite {where}",
            "pip uninstall -y agentgym && pip install --force-reinstall --no-deps agentgym-core",
        )
    return Finding("distribution", "ok", f"agentgym-core {agentgym.__version__} in {where}")


def sandbox(kind: str) -> Finding:
    """Whether a kind of sandbox works here: the default limits are asked for, and what it enforces is named."""
    try:
        cls = load("sandboxes", kind)
        cls.require(Resources())
        left = cls.leftovers()
    except MissingExtra as error:
        return Finding(f"sandbox {kind}", "missing", str(error.args[0]), str(error.args[1]))
    except Exception as error:
        return Finding(f"sandbox {kind}", "wrong", f"{type(error).__name__}: {error}"[:200])
    if left:
        return Finding(f"sandbox {kind}", "ok", f"enforces {', '.join(sorted(cls.enforces()))}; {len(left)} things left behind", "agentgym clean")
    return Finding(f"sandbox {kind}", "ok", f"enforces {', '.join(sorted(cls.enforces()))}")


def findings() -> list[Finding]:
    """Everything the doctor looks at."""
    found = [Finding("python", "ok" if sys.version_info >= (3, 11) else "wrong", f"{platform.python_version()} on {platform.platform()}"), clash()]
    for name, mend in OPTIONAL.items():
        there = util.find_spec(name.replace("-", "_")) is not None
        found.append(Finding(name, "ok" if there else "missing", metadata.version(name) if there else "optional", "" if there else mend))
    for tool in ("git", "chromium"):
        where = shutil.which(tool)
        found.append(Finding(tool, "ok" if where else "missing", where or "optional", "" if where else f"apt-get install -y {tool}"))
    found += [sandbox(kind) for kind in sorted(installed("sandboxes"))]
    for env in specs():
        missing = env.missing()
        found.append(Finding(env.id, "missing" if missing else "ok", ", ".join(missing) or env.summary, env.install if missing else ""))
    free = shutil.disk_usage(".").free / 2**30
    found.append(Finding("disk", "ok" if free > 2 else "wrong", f"{free:.0f} GiB free"))
    return found


def doctor(config: DoctorConfig, screen: Screen) -> Answer:
    found = findings()
    lines = [f"{f.status:<8}{f.name:<16}{f.detail}" + (f"   → {f.mend}" if f.mend else "") for f in found]
    wrong = any(f.status == "wrong" for f in found)
    return Answer({"ok": not wrong, "findings": found}, "\n".join(lines), 1 if wrong else 0)


DOCTOR = Command("doctor", "Look at this installation: what is missing, and how to mend it.", "agentgym doctor", DoctorConfig, doctor)
