"""What the sandbox tests share: the kinds that can be had here."""

from __future__ import annotations

import functools
import os

import pytest

from agentgym.errors import MissingExtra
from agentgym.sandbox import Image, Resources, Sandbox, start
from agentgym.sandbox.docker import engine

IMAGE = Image(base="agentgym/swe")
SMALL = Resources(memory=64 << 20, disk=32 << 20, files=1000, pids=64, seconds=20.0)


@functools.cache
def missing(kind: str) -> str:
    """Why a kind cannot be had here."""
    try:
        if kind == "docker" and not engine().images(name="agentgym/swe", quiet=True):
            return "the engine has no image agentgym/swe: make images"
        start(IMAGE, Resources(), kind).close()
    except MissingExtra as error:
        return str(error)
    return ""


def kinds() -> list[object]:
    return [pytest.param(k, id=k) for k in ("bwrap", "docker")]


def need(kind: str) -> str:
    """Skip where a kind cannot be had; in CI that is an error."""
    if why := missing(kind):
        if os.environ.get("CI"):
            pytest.fail(f"{kind} must work in CI: {why}")
        pytest.skip(why)
    return kind


def sandbox(kind: str, resources: Resources = SMALL, image: Image = IMAGE) -> Sandbox:
    return start(image, resources, need(kind))
