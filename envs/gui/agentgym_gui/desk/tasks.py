"""All templates of the desk."""

from agentgym_gui.desk import editing
from agentgym_gui.desk.drafts import TEMPLATES, Bench, changing, goal, horizon

__all__ = ["TEMPLATES", "Bench", "changing", "editing", "goal", "horizon"]
