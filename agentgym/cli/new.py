"""``new NAME``: an installable package with an environment, a verifier or an algorithm, which works as it is made."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Annotated

from msgspec import Meta, Struct

from agentgym.cli.command import Answer, Command
from agentgym.cli.screen import Screen
from agentgym.errors import UsageError

SCAFFOLD = Path(__file__).with_name("scaffold")


class NewConfig(Struct, forbid_unknown_fields=True):
    """What to scaffold, and where."""

    name: Annotated[str, Meta(description="name of the package: letters, digits and dashes, starting with a letter")]
    out: Annotated[str, Meta(description="folder to make it in")] = "."


class VerifierConfig(NewConfig, forbid_unknown_fields=True):
    """What to scaffold, and where, and on what its test tries it."""

    env: Annotated[str, Meta(description="environment on which its test tries it")] = "tools/desk"
    outcome: Annotated[str, Meta(description="that environment's outcome verdict")] = "task"


def new(config: NewConfig, screen: Screen) -> Answer:
    folder, files = _made("environment", config)
    env = f"{config.name}/count-v0"
    return Answer({"folder": str(folder), "env": env, "files": files}, f"made {folder}; next: pip install -e {folder} && agentgym check {env}")


def verifier(config: VerifierConfig, screen: Screen) -> Answer:
    folder, files = _made("verifier", config, env=config.env, outcome=config.outcome)
    steps = f"made {folder}; next: pip install -e {folder} && python -m pytest {folder}; it is late('{config.name}') in a reward"
    return Answer({"folder": str(folder), "verifier": config.name, "files": files}, steps)


def algorithm(config: NewConfig, screen: Screen) -> Answer:
    folder, files = _made("algorithm", config)
    steps = f"made {folder}; next: pip install -e {folder} && python -m pytest {folder}; agentgym train --algo {config.name}"
    return Answer({"folder": str(folder), "algorithm": config.name, "files": files}, steps)


def _made(kind: str, config: NewConfig, **more: str) -> tuple[Path, list[str]]:
    """A package of a kind, and its files."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", config.name):
        raise UsageError(f"a package name has small letters, digits and single dashes, such as my-world; not {config.name!r}")
    folder = Path(config.out) / config.name
    if folder.exists():
        raise UsageError(f"{folder} exists already")
    title, module = "".join(p.title() for p in config.name.split("-")), f"agentgym_{config.name.replace('-', '_')}"
    words = {"name": config.name, "module": module, "env_class": f"{title}Env", "verifier_class": title, **more}
    written = []
    for source in sorted((SCAFFOLD / kind).rglob("*.txt")):
        path = folder / str(source.relative_to(SCAFFOLD / kind)).removesuffix(".txt").replace("package", module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(source.read_text()).substitute(words))
        written.append(str(path))
    return folder, written


NEW = Command("new", "Scaffold an installable environment package.", "agentgym new my-world", NewConfig, new, ("name",))
VERIFIER = Command("new verifier", "Scaffold an installable verifier.", "agentgym new verifier my-rule", VerifierConfig, verifier, ("name",))
ALGORITHM = Command("new algorithm", "Scaffold an installable algorithm.", "agentgym new algorithm my-algo", NewConfig, algorithm, ("name",))
