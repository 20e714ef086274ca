"""Software-engineering environments of agentgym. This module is light: specs only."""

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

_KINDS = ("bwrap", "docker", "runsc")

MEND = EnvSpec(
    id="swe/mend-v0",
    entry_point="agentgym_swe.mend:MendEnv",
    domain="software engineering",
    summary="Mend real Python libraries in a sandbox: a report of what fails, a shell, an editor, tests; hidden tests decide.",
    splits={"train": 291, "dev": 48, "test": 89},
    capabilities=Capabilities(snapshot=True, sandboxes=_KINDS, blocking=True),
)

FIT = EnvSpec(
    id="swe/fit-v0",
    entry_point="agentgym_swe.fit:FitEnv",
    domain="machine-learning engineering",
    summary="Improve a training script on a generated table within a time budget; labels that were never in the sandbox decide.",
    splits={"train": 120, "dev": 40, "test": 60},
    capabilities=Capabilities(snapshot=True, sandboxes=_KINDS, blocking=True),
)

BENCH = EnvSpec(
    id="swe/bench-v0",
    entry_point="agentgym_swe.bench:BenchEnv",
    domain="software engineering",
    summary="Rows in the SWE-bench form, on an image or a git bundle; history removed and proved removed; the same hidden-test verifier.",
    splits={"test": 8},
    capabilities=Capabilities(snapshot=True, sandboxes=_KINDS, blocking=True),
)
