"""All templates of the shop, and those that ask for several things at once."""

from collections.abc import Callable

from agentgym_web.shop import asking, doing, running
from agentgym_web.shop.drafts import TEMPLATES, Bench, Draft

__all__ = ["TEMPLATES", "Bench", "asking", "doing", "running"]

PARTS = ("phone", "wish", "new-address", "drop-address", "write-review", "reply", "cancel-order", "helpful")
"""What can be asked for in one breath: none of these touches what another one changes."""


def errands(parts: int) -> Callable[[Bench], Draft]:
    """A template of ``parts`` things to do in one instruction: tasks that grow, for curricula over sub-instructions."""

    def make(b: Bench) -> Draft:
        drafts = [TEMPLATES[name][1](b) for name in b.rng.sample(PARTS, parts)]
        asks = "\n".join(f"{n}. {d.asks}" for n, d in enumerate(drafts, 1))
        return Draft(f"Do all of this:\n{asks}", [step for d in drafts for step in d.way])

    return make


TEMPLATES |= {f"errands-{parts}": ("account", errands(parts)) for parts in (2, 3, 4, 6)}
