"""Software-engineering environments of agentgym. This module is light: specs only."""

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

_KINDS = ("bwrap", "docker", "runsc")

MEND = EnvSpec(
    id="swe/mend-v0",
    entry_point="agentgym_swe.mend:MendEnv",
    domain="software engineering",
    summary="Mend real Python libraries in a sandbox: a report of what fails, a shell, an editor, tests; hidden tests decide.",
    splits={"train": 306, "dev": 72, "test": 96},
    capabilities=Capabilities(snapshot=True, sandboxes=_KINDS, blocking=True),
)
