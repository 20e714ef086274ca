"""``eval --in docker``: the whole evaluation in a container of an eval image. Its sandboxes are asked of a broker on this side.

The run folder is on a volume: should this side be killed, it is still there, and named.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agentgym.cli.command import Answer
from agentgym.cli.screen import Screen
from agentgym.errors import CapabilityError, SandboxFault, SandboxRefused, UsageError
from agentgym.evaluation.bundle import unseal
from agentgym.registry import spec
from agentgym.sandbox.broker import Broker, allowed
from agentgym.sandbox.docker import engine, locked
from agentgym.sandbox.owner import LABEL, VARIABLE, abandoned, me

if TYPE_CHECKING:
    from agentgym.cli.play import EvalConfig

BUILD = "python docker/build.py"
REFUSALS = {1: CapabilityError, 2: UsageError}
"""What an evaluation that was refused inside is refused with here, by its exit code."""
INSIDE, OUT = "/run/agentgym", "/home/agent/out"


def image_of(env: str) -> str:
    """The image of the lock file that holds an environment's package.

    Raises:
        SandboxRefused: none does, or the engine has another of that name.
    """
    package = spec(env).entry_point.partition(":")[0].partition(".")[0].replace("_", "-")
    holding = [name for name, entry in locked().items() if package in entry.get("gym", ())]
    if not holding:
        raise SandboxRefused(f"no image of the lock file holds {package}", BUILD)
    if why := allowed(holding[0]):
        raise SandboxRefused(why, BUILD)
    return holding[0]


def indoors(config: EvalConfig, screen: Screen) -> Answer:
    """Run the evaluation inside and bring its run folder out. A policy behind a URL is reached over the host's network, any other without one.

    Raises:
        SandboxRefused: there is no image of it.
        UsageError, CapabilityError: it takes files, or was refused inside.
        SandboxFault: it ended without a result.
    """
    if config.reward.endswith(".toml"):
        raise UsageError("--in docker takes no files: give a reward's name or expression instead of a file")
    image, volume = image_of(config.env), f"agentgym-{secrets.token_hex(6)}"
    last = ""
    with tempfile.TemporaryDirectory() as scratch, Broker() as broker:
        out = Path(config.out) if config.out else Path(scratch, "out")
        engine().create_volume(volume, labels={LABEL: me()})
        container = _create(image, volume, config, broker)
        try:
            _put(container, config, out)
            engine().start(container)
            for line in engine().logs(container, stdout=False, stderr=True, stream=True, follow=True):
                last = line.decode("utf-8", "replace").rstrip("\n")
                screen.say(last)
            code = engine().wait(container)["StatusCode"]
            said = engine().logs(container, stdout=True, stderr=False)
            _bring(container, out)
        except BaseException:
            screen.say(f"what was played is on the volume {volume}")
            raise
        else:
            _gone(container)
            engine().remove_volume(volume, force=True)
        finally:
            _gone(container)
    if code in REFUSALS:
        raise REFUSALS[code](f"inside {image}: {last.removeprefix('agentgym: ')}")
    if code not in (0, 3) or not said.strip():
        raise SandboxFault(f"the evaluation inside ended with exit code {code}; what it said is above")
    result: dict[str, Any] = msgspec.json.decode(said.strip().splitlines()[-1])
    result["out"] = config.out
    return Answer(result, _line(result, image), code)


class Volumes:
    """Volumes with the run folders of evaluations that were killed; for ``agentgym clean``, which alone removes them."""

    @classmethod
    def leftovers(cls, everything: bool = False) -> list[str]:
        """Their names; with ``everything``, also of those that are running."""
        try:
            found = engine().volumes(filters={"label": LABEL})["Volumes"] or []
        except SandboxRefused:
            return []
        return [v["Name"] for v in found if everything or abandoned(v["Labels"].get(LABEL, ""))]

    @classmethod
    def reap(cls, everything: bool = False) -> list[str]:
        """Remove them; the names of those that are gone."""
        gone = []
        for name in cls.leftovers(everything):
            with contextlib.suppress(Exception):  # in use
                engine().remove_volume(name, force=True)
                gone.append(name)
        return gone


def _gone(container: str) -> None:
    with contextlib.suppress(Exception):  # it may be gone already
        engine().remove_container(container, force=True)


def _line(result: dict[str, Any], image: str) -> str:
    success = result["success"]
    where = f"; in {result['out']}" if result["out"] else ""
    return (
        f"{result['policy']} on {result['env']} {result['split']}, in {image}: {result['valid']} valid, {result['invalid']} invalid; "
        f"success {success['mean']:.3f} [{success['low']:.3f}, {success['high']:.3f}]; {result['wall_s']:.1f} s{where}"
    )


def _create(image: str, volume: str, config: EvalConfig, broker: Broker) -> str:
    client = engine()
    host = client.create_host_config(
        network_mode="host" if "://" in config.policy else "none", cap_drop=["ALL"], security_opt=["no-new-privileges"], pids_limit=4096,
        mounts=[
            {"Type": "bind", "Source": str(broker.folder), "Target": INSIDE, "ReadOnly": True}, {"Type": "volume", "Source": volume, "Target": OUT},
        ],
    )  # fmt: skip
    command = ["agentgym", "eval", "@", "/home/agent/config.toml", "--json", "--plain"]
    made: str = client.create_container(
        image, command, user="10001:10001", working_dir="/home/agent", host_config=host, labels={LABEL: me()},
        environment={VARIABLE: f"{INSIDE}/socket", "HOME": "/home/agent", "OMP_NUM_THREADS": "1"},
    )["Id"]  # fmt: skip
    return made


def _put(container: str, config: EvalConfig, out: Path) -> None:
    """Hand in the config, and the run folder where there is one to be continued."""
    inside = msgspec.structs.replace(config, within=None, suite=None, pack=None, out=OUT)
    table = {k: v for k, v in msgspec.to_builtins(inside).items() if v is not None}
    data = msgspec.toml.encode(table)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("config.toml")
        info.size, info.uid, info.gid, info.mode = len(data), 10001, 10001, 0o644
        tar.addfile(info, io.BytesIO(data))
        if out.is_dir():
            tar.add(out, "out", filter=_owned)
    engine().put_archive(container, "/home/agent", stream.getvalue())


def _owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 10001
    return info


def _bring(container: str, out: Path) -> None:
    """Copy the run folder out; regular files only."""
    stream, _ = engine().get_archive(container, OUT)
    if out.is_dir():
        unseal(out)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        for member in tar:
            _, _, inside = member.name.partition("/")
            if member.isreg() and inside:
                member.name, member.mode = inside, 0o644
                tar.extract(member, out, filter="data")
