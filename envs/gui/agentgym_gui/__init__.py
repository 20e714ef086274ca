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

GROUND_PLACES = {"train": range(4), "dev": range(4, 5), "test": range(5, 6)}
GROUND_SIZES = {"train": 1376, "dev": 344, "test": 453}
"""How many tasks of ``gui/ground`` each split has."""
GROUND = EnvSpec(
    id="gui/ground-v0",
    entry_point="agentgym_gui.ground:GroundEnv",
    domain="gui",
    summary="Point at a widget on the screen of a real program; boxes come from the accessibility tree.",
    splits=dict(GROUND_SIZES),
    capabilities=Capabilities(snapshot=True, pixels=True, sandboxes=_KINDS, blocking=True),
    rewards=("outcome", "stepwise", "gated", "potential", "intrinsic", "quality", "scaled"),
    requires=("Xlib", "jeepney", "PIL"),
    install="pip install agentgym-gui",
)
