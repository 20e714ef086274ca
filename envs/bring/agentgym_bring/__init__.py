"""Tasks that users bring along. This module is light: specs only."""

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

ROWS = EnvSpec(
    id="bring/rows-v0",
    entry_point="agentgym_bring.rows:RowsEnv",
    domain="your tasks",
    summary="Rows of a JSONL file or of a Hugging Face data set as questions; a rule by name decides.",
    splits={"train": 0, "dev": 0, "test": 0},
    capabilities=Capabilities(snapshot=True),
)
BFCL = EnvSpec(
    id="bring/bfcl-v0",
    entry_point="agentgym_bring.bfcl:BfclEnv",
    domain="your tasks",
    summary="Multi-turn rows of the Berkeley Function-Calling Leaderboard over its own executable back-ends.",
    splits={"train": 0, "dev": 0, "test": 0},
    capabilities=Capabilities(snapshot=True),
    requires=("bfcl_eval",),
    install="pip install --no-deps bfcl-eval mpmath",
)
HARBOR = EnvSpec(
    id="bring/harbor-v0",
    entry_point="agentgym_bring.harbor:HarborEnv",
    domain="your tasks",
    summary="Task folders in Harbor's form, each in an image of its own; its tests decide, on what was handed in, in a fresh container.",
    splits={"test": 0},
    capabilities=Capabilities(snapshot=True, sandboxes=("docker",), blocking=True),
)
DOMAIN = EnvSpec(
    id="bring/domain-v0",
    entry_point="agentgym_bring.domain:DomainEnv",
    domain="your tasks",
    summary="A service desk in tau-bench's form: database, tools, policy, a user on the other seat, tasks with gold calls.",
    splits={"train": 0, "dev": 0, "test": 0},
    capabilities=Capabilities(snapshot=True, seats=("agent", "user")),
)
