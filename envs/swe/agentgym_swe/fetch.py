"""``agentgym fetch swe``: what these environments need from the package index, once."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym_swe.libraries import fetch, home
from agentgym_swe.sample import make_sample


class FetchConfig(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fetch the libraries, or make the tasks anew from them."""

    remake: Annotated[bool, Meta(description="try out bugs and write the manifest of swe/mend anew (an hour)")] = False
    only: Annotated[str, Meta(description="with --remake: these libraries only, with commas between")] = ""


def run(config: FetchConfig, screen: Screen) -> Answer:
    """Fetch what is missing; with ``remake``, make the tasks anew."""
    fetched = fetch(lambda what, done, total: screen.progress("fetching", done, total, what))
    if not config.remake:
        make_sample()
        return Answer({"fetched": fetched, "folder": str(home())}, f"{len(fetched)} fetched into {home()}" if fetched else f"everything is there, in {home()}")
    from agentgym_swe.workshop import remake

    number = remake(lambda what, done, total: screen.progress("libraries", done, total, what), [x for x in config.only.split(",") if x])
    return Answer({"fetched": fetched, "folder": str(home()), "tasks": number}, f"{number} tasks in the manifest")


FETCH = Command("fetch swe", "Fetch the libraries of the swe environments, by hash.", "agentgym fetch swe", FetchConfig, run)
