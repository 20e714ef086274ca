"""``new NAME``: an installable environment package that passes ``agentgym check`` as made."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import UsageError

FILES = ("pyproject.toml", "README.md", "package/__init__.py", "package/env.py", "tests/test_env.py")


class NewConfig(Struct, forbid_unknown_fields=True):
    """What to scaffold, and where."""

    name: Annotated[str, Meta(description="name of the package: letters, digits and dashes, starting with a letter")]
    out: Annotated[str, Meta(description="folder to make it in")] = "."


def new(config: NewConfig, screen: Screen) -> Answer:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", config.name):
        raise UsageError(f"a package name has small letters, digits and single dashes, such as my-world; not {config.name!r}")
    folder = Path(config.out) / config.name
    if folder.exists():
        raise UsageError(f"{folder} exists already")
    module = f"agentgym_{config.name.replace('-', '_')}"
    words = {"name": config.name, "module": module, "env_class": "".join(p.title() for p in config.name.split("-")) + "Env"}
    written = []
    for name in FILES:
        text = Path(__file__).with_name("scaffold").joinpath(name + ".txt").read_text()
        path = folder / name.replace("package", module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(words))
        written.append(str(path))
    steps = f"made {folder}; next: pip install -e {folder} && agentgym check {config.name}/count-v0"
    return Answer({"folder": str(folder), "env": f"{config.name}/count-v0", "files": written}, steps)


NEW = Command("new", "Scaffold an installable environment package.", "agentgym new my-world", NewConfig, new, ("name",))
