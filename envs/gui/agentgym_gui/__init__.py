"""Desktop environments of agentgym. This module is light: specs only."""

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

_KINDS = ("bwrap", "docker")
TEMPLATES, PER_TEMPLATE = 71, {"train": 100, "dev": 10, "test": 10}
DESK = EnvSpec(
    id="gui/desk-v0",
    entry_point="agentgym_gui.desk.env:DeskEnv",
    domain="gui",
    summary="Office work on a real desktop: editor, files, calculator, spreadsheet, terminal, pictures, forms; what was saved decides.",
    splits={split: n * TEMPLATES for split, n in PER_TEMPLATE.items()},
    capabilities=Capabilities(snapshot=True, pixels=True, sandboxes=_KINDS, blocking=True),
    requires=("Xlib", "jeepney", "PIL"),
    install="pip install agentgym-gui",
)
