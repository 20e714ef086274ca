"""All templates of the desk."""

from agentgym_gui.desk import counting, editing, filing, forms
from agentgym_gui.desk.drafts import TEMPLATES, Bench, changing, goal, horizon

__all__ = ["TEMPLATES", "Bench", "changing", "counting", "editing", "filing", "forms", "goal", "horizon"]
