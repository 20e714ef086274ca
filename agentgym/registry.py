"""Installed parts, found by entry points and loaded when used. Built-in packages register as a third party's would."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import gymnasium
from msgspec import Struct

from agentgym.core import AgentEnv, Capabilities
from agentgym.errors import MissingExtra, UnknownName, UsageError
from agentgym.rewards.spec import Spec, World
from agentgym.rewards.text import load as load_spec

GROUPS = ("environments", "verifiers", "policies", "algorithms", "sandboxes", "attacks", "methods", "commands", "leftovers", "remotes", "formats")


class EnvSpec(Struct, frozen=True):
    """An environment as data: what ``agentgym list`` shows, without importing the environment.

    ``entry_point`` is ``module:Class``; ``requires`` are modules that must be importable, ``install`` the line that brings them.
    A split of 0 tasks is as large as the data that its options name. ``vector``
    is ``module:function`` that makes several of it as one, called as ``make_vec`` is; empty where stepping them in turn is as good.
    """

    id: str
    entry_point: str
    domain: str
    summary: str
    splits: dict[str, int]
    capabilities: Capabilities = Capabilities()
    rewards: tuple[str, ...] = ("outcome", "stepwise", "gated", "potential", "intrinsic")
    requires: tuple[str, ...] = ()
    install: str = ""
    vector: str = ""

    def missing(self) -> list[str]:
        """The modules of ``requires`` that cannot be found."""
        return [m for m in self.requires if importlib.util.find_spec(m) is None]


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Entry points of ``agentgym.<group>`` by name, from metadata alone."""
    return {e.name: e for e in entry_points(group=f"agentgym.{group}")}


def load(group: str, name: str) -> Any:
    """The object behind a name of a group.

    Raises:
        UnknownName: nothing of that name is installed.
    """
    found = installed(group)
    if name not in found:
        raise UnknownName(group.removesuffix("s"), name, found)
    return found[name].load()


def verifier(text: str) -> Any:
    """The verifier, source or critic of ``NAME`` or ``NAME:ARGUMENT``, made; the argument goes to its first parameter if that is a text.

    Raises:
        UnknownName: nothing of that name is installed.
        UsageError: it takes no argument.
    """
    name, _, argument = text.partition(":")
    factory = load("verifiers", name)
    if not argument:
        return factory()
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    if first is None or not str(first.annotation).startswith("str"):
        raise UsageError(f"verifier {name} takes no argument, not {argument!r}")
    return factory(argument)


def _elsewhere(env_id: str) -> Any:
    """The class of an environment at a server (``tools/desk@http://HOST:PORT``), by the scheme of its address; None for one that is installed."""
    name, at, url = env_id.partition("@")
    return load("remotes", url.partition(":")[0])(name, url) if at else None


def resolve(env_id: str) -> str:
    """The full id of ``package/name`` (its highest version) or ``package/name-vN``, with ``@URL`` where it is at a server.

    Raises:
        UnknownName: no installed environment has that id.
    """
    if (there := _elsewhere(env_id)) is not None:
        return str(there.offered.id)
    known = installed("environments")
    if env_id in known:
        return env_id
    versions = [k for k in known if k.rpartition("-v")[0] == env_id]
    if not versions:
        raise UnknownName("environment", env_id, known)
    return max(versions, key=lambda k: int(k.rpartition("-v")[2]))


def spec(env_id: str) -> EnvSpec:
    """The spec of one environment, by id with or without version."""
    if (there := _elsewhere(env_id)) is not None:
        offered: EnvSpec = there.offered
        return offered
    full = resolve(env_id)
    found = installed("environments")[full].load()
    if not isinstance(found, EnvSpec) or found.id != full:
        raise UsageError(f"entry point {full!r} must be an EnvSpec of that id, not {found!r:.80}")
    return found


def specs() -> list[EnvSpec]:
    """The specs of all installed environments, sorted by id."""
    return [spec(env_id) for env_id in sorted(installed("environments"))]


def environment_class(env_id: str) -> type[AgentEnv]:
    """Import an environment's class; several ids may share one, and each gets a child of it with its own id and capabilities.

    Raises:
        MissingExtra: something it requires is not installed.
    """
    if (there := _elsewhere(env_id)) is not None:
        remote: type[AgentEnv] = there
        return remote
    found = spec(env_id)
    if missing := found.missing():
        raise MissingExtra(", ".join(missing), found.install or f"pip install {' '.join(missing)}")
    module, _, name = found.entry_point.partition(":")
    cls: type[AgentEnv] = getattr(importlib.import_module(module), name)
    if vars(cls).get("id") == found.id:
        return cls
    if found.id not in _children:
        _children[found.id] = type(cls.__name__, (cls,), {"id": found.id, "capabilities": found.capabilities, "__module__": cls.__module__})
    return _children[found.id]


_children: dict[str, type[AgentEnv]] = {}


def make(env_id: str, *, split: str = "train", reward: str | Mapping[str, Any] | Spec = "outcome", **options: Any) -> AgentEnv:
    """A bare ``AgentEnv`` that enforces call order itself. ``reward`` is a name of its specs, or a spec of yours, as text, table or object.

    Raises:
        UnknownName: the id, split, reward or an option is unknown; the message names the nearest.
        SpecError: the reward spec makes no sense for this environment.
    """
    cls = environment_class(env_id)
    known = [
        name
        for klass in cls.__mro__
        if "__init__" in vars(klass) and issubclass(klass, AgentEnv)
        for name, p in inspect.signature(klass.__init__).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    ]
    for name in options if "@" not in env_id else ():  # a server knows its own
        if name not in known:
            raise UnknownName(f"option of {cls.id}", name, known)
    if not isinstance(reward, str) or "(" in reward or reward.endswith(".toml"):
        world = World({n: v.level for n, v in cls.verifiers.items()}, dict.fromkeys(installed("verifiers"), ""))
        return cls(split=split, reward=load_spec(reward, world), **options)
    return cls(split=split, reward=reward, **options)


def build(env_id: str, **options: Any) -> AgentEnv:
    """What ``gymnasium.make`` calls."""
    return make(env_id, **options)


def register_with_gymnasium() -> None:
    """Register every installed id from metadata, importing no environment package."""
    for env_id in installed("environments"):
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point="agentgym.registry:build", kwargs={"env_id": env_id}, order_enforce=False)
