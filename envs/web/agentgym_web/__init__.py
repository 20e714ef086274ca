"""Web environments of agentgym. This module is light: specs only."""

from pathlib import Path

from agentgym.core import Capabilities
from agentgym.registry import EnvSpec

PER_TASK = {"train": 400, "dev": 20, "test": 50}
TASKS = tuple(Path(__file__).with_name("miniwob").joinpath("tasks.txt").read_text().split())

MINIWOB = EnvSpec(
    id="web/miniwob-v0",
    entry_point="agentgym_web.miniwob.env:MiniwobEnv",
    domain="web",
    summary="The tasks of MiniWoB in a real Chromium, on a clock that only actions move.",
    splits={split: n * len(TASKS) for split, n in PER_TASK.items()},
    capabilities=Capabilities(snapshot=True, pixels=True, blocking=True),
    requires=("playwright", "uvicorn"),
    install="pip install agentgym-web",
)

TEMPLATES, PER_TEMPLATE = 63, {"train": 100, "dev": 10, "test": 10}
SHOP = EnvSpec(
    id="web/shop-v0",
    entry_point="agentgym_web.shop.env:ShopEnv",
    domain="web",
    summary="A shop with accounts, orders, reviews, a forum and an admin side; its database decides.",
    splits={split: n * TEMPLATES for split, n in PER_TEMPLATE.items()},
    capabilities=Capabilities(snapshot=True, pixels=True, blocking=True),
    requires=("playwright", "uvicorn", "jinja2"),
    install="pip install agentgym-web",
)
