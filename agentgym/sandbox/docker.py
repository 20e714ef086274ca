"""The hard kind: a container of Docker Engine, with the supervisor as its first process. Also with the runtime ``runsc``.

No host folder is mounted and the engine's socket is never inside: the supervisor and the layers come as an image made from the base
image once, and kept by content. A command is bytes on the container's standard input, not an ``exec`` of the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shlex
import stat
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from agentgym.errors import MissingExtra, SandboxFault, SandboxRefused
from agentgym.sandbox.base import AGENT_UID, Image, Resources, Sandbox, Snapshot
from agentgym.sandbox.binary import supervisor
from agentgym.sandbox.bwrap import INSIDE, KEPT
from agentgym.sandbox.link import Link, Multiplexed
from agentgym.sandbox.owner import LABEL, abandoned, me, state_folder

START_LINE = "dockerd > /tmp/dockerd.log 2>&1 &  (or: sudo systemctl start docker)"
ENFORCED = frozenset({"cpus", "memory", "pids", "disk", "files", "seconds", "network"})
PREPARED = "agentgym.prepared"
_preparing = threading.Lock()
_local = threading.local()


def engine() -> Any:
    """A client of the engine, one per thread.

    Raises:
        MissingExtra: the ``docker`` package is not installed.
        SandboxRefused: no engine answers; the line that starts one.
    """
    if getattr(_local, "client", None) is None or _local.pid != os.getpid():
        try:
            from docker.utils import kwargs_from_env

            import docker
        except ImportError:
            raise MissingExtra("the docker package", "pip install 'agentgym-core[docker]'") from None
        try:
            client = docker.APIClient(**kwargs_from_env(), timeout=120, version="auto")
            client.ping()
        except Exception as error:
            raise SandboxRefused(f"no Docker engine answers ({_first_line(error)})", START_LINE) from None
        _local.client, _local.pid = client, os.getpid()
    return _local.client


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


@contextlib.contextmanager
def _faults(doing: str) -> Any:
    """What the engine says as a ``SandboxFault``."""
    try:
        yield
    except (SandboxFault, SandboxRefused, MissingExtra):
        raise
    except Exception as error:
        raise SandboxFault(f"{doing}: {_first_line(error)}") from error


def lock_file() -> Path:
    """Where ``docker/build.py`` writes the digests of the images it built on this machine."""
    return state_folder() / "images.lock"


def locked() -> dict[str, dict[str, Any]]:
    """The images of the lock file: name to ``id``, ``layers`` and ``bytes``."""
    found: dict[str, dict[str, Any]] = msgspec.json.decode(lock_file().read_bytes()) if lock_file().exists() else {}
    return found


@cache
def tree_digest(folder: str) -> str:
    """A digest of a tree: paths, modes and contents."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        info = path.lstat()
        data = str(path.readlink()).encode() if stat.S_ISLNK(info.st_mode) else path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        digest.update(f"{path.relative_to(folder)}\0{info.st_mode:o}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def prepared(image: Image) -> str:
    """The id of ``image.base`` with the supervisor and the layers in it; made once per content.

    Raises:
        SandboxRefused: the engine has no such base image.
    """
    client = engine()
    found = client.images(name=image.base, quiet=True) or client.images(filters={"reference": image.base}, quiet=True)
    if not found:
        raise SandboxRefused(f"the engine has no image {image.base}", "python docker/build.py")
    base = client.inspect_image(image.base)["Id"]
    about = [base, hashlib.sha256(supervisor().read_bytes()).hexdigest(), image.moved, *(f"{tree_digest(x.host)}:{x.inside}" for x in image.layers)]
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:24]
    name = f"agentgym/prepared:{digest}"
    with _preparing:
        if not client.images(name=name, quiet=True):
            _build(client, image, base, name)
    return name


def _build(client: Any, image: Image, base: str, name: str) -> None:
    """Build the prepared image by a context of its own: no command is run in it."""
    lines = [f"FROM {base}", f"COPY supervise {INSIDE}"]
    owner = f"--chown={AGENT_UID}:{AGENT_UID}"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(supervisor(), "supervise")
        empty = tarfile.TarInfo("empty")
        empty.type, empty.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(empty)
        lines += [f"COPY {owner} empty {place}" for place in ("/work", "/home/agent") if place != "/work" or not image.moved]
        if image.moved:
            lines += ["USER 0", f"RUN mv {shlex.quote(image.moved)} /work && ln -s /work {shlex.quote(image.moved)} && chown -R {AGENT_UID}:{AGENT_UID} /work"]
        for i, layer in enumerate(image.layers):
            tar.add(layer.host, f"layer{i}")
            lines.append(f"COPY {owner if layer.inside == '/work' else ''} layer{i} {layer.inside}")
        lines += [f"LABEL {PREPARED}=1", "USER 0", "ENTRYPOINT []", "WORKDIR /"]
        text = "\n".join(lines).encode()
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    context.seek(0)
    for line in client.build(fileobj=context, custom_context=True, tag=name, decode=True, rm=True, forcerm=True):
        if "error" in line:
            raise SandboxFault(f"preparing {image.base}: {line['error'].strip()}")


_removals = ThreadPoolExecutor(4, thread_name_prefix="agentgym-remove")


def _remove(container: str) -> None:
    with contextlib.suppress(Exception):  # what stays is reaped at the next start
        engine().remove_container(container, force=True, v=True)


class Docker(Sandbox):
    """A sandbox by Docker Engine."""

    kind: ClassVar[str] = "docker"
    runtime: ClassVar[str | None] = None

    @classmethod
    def enforces(cls) -> frozenset[str]:
        client = engine()
        if cls.runtime and cls.runtime not in client.info().get("Runtimes", {}):
            raise SandboxRefused(f"the engine has no runtime {cls.runtime}", f"install {cls.runtime} and add it to /etc/docker/daemon.json")
        return ENFORCED

    @classmethod
    def mend(cls) -> str:
        return "use a task without an allow-list of hosts"

    @classmethod
    def leftovers(cls, everything: bool = False) -> list[str]:
        return [f"{what} {each}" for what, each in _leftovers(everything)]

    @classmethod
    def reap(cls, everything: bool = False) -> list[str]:
        client, names = engine(), []
        for what, each in _leftovers(everything):
            with contextlib.suppress(Exception):
                if what == "container":
                    client.remove_container(each, force=True, v=True)
                else:
                    client.remove_image(each, force=True)
                names.append(f"{what} {each}")
        return names

    def __init__(self, image: Image, resources: Resources, snapshot: Snapshot | None = None) -> None:
        super().__init__(image, resources, snapshot)
        self._container = ""
        self.require(resources)
        with _faults("starting a container"):
            try:
                self._begin(snapshot.data.decode() if snapshot else prepared(image))
            except BaseException:
                self._destroy()
                raise

    def _begin(self, reference: str) -> None:
        client, asked = engine(), self.resources
        version2 = client.info().get("CgroupVersion") == "2"
        command = [
            INSIDE, "serve", "--agent", str(AGENT_UID),
            "--oom", "/sys/fs/cgroup/memory.events" if version2 else "/sys/fs/cgroup/memory/memory.oom_control",
            "--pids", "/sys/fs/cgroup/pids.events" if version2 else "/sys/fs/cgroup/pids/pids.events",
            *(("--quota", str(asked.disk), "--files", str(asked.files or 1 << 40)) if asked.disk is not None else ()),
        ]  # fmt: skip
        kill = asked.kill_at
        host = client.create_host_config(
            network_mode="none", cap_drop=["ALL"], cap_add=[c.removeprefix("CAP_") for c in KEPT], security_opt=["no-new-privileges"],
            mem_limit=kill, memswap_limit=kill, pids_limit=None if asked.pids is None else asked.pids + 3, runtime=self.runtime,
            cpu_quota=None if asked.cpus is None else int(asked.cpus * 100_000), cpu_period=None if asked.cpus is None else 100_000,
            log_config={"type": "none"}, shm_size=64 << 20,
        )  # fmt: skip
        self._container = client.create_container(
            reference, command, user="0", stdin_open=True, tty=False, hostname="sandbox", labels={LABEL: me()}, host_config=host, entrypoint=[],
            environment={}, healthcheck={"test": ["NONE"]},
        )["Id"]  # fmt: skip
        sock = client.attach_socket(self._container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._response = sock
        self._wire = Multiplexed(sock._sock)
        self._link = Link(self._wire, self._autopsy)
        client.start(self._container)
        self._link.greet(60)

    def _autopsy(self) -> str:
        """In what state the container is, and what the supervisor said last."""
        said = self._wire.errors.decode("utf-8", "replace").strip()[-500:]
        try:
            state = engine().inspect_container(self._container)["State"]
            about = f"{state['Status']}, exit code {state['ExitCode']}, oom killed {state['OOMKilled']}{', ' + state['Error'] if state['Error'] else ''}"
        except Exception as error:
            about = _first_line(error)
        return f" (container {self._container[:12]}: {about}{'; ' + said if said else ''})"

    def _image_id(self) -> str:
        return str(engine().inspect_container(self._container)["Image"])

    def snapshot(self) -> Snapshot:
        ended = tuple(self.processes())
        self.freeze()
        with _faults("committing a container"):
            changes = [f"LABEL {LABEL}={me()}", "ENTRYPOINT []"]
            made = engine().commit(
                self._container, repository="agentgym/snapshot", tag=self._container[:12] + os.urandom(4).hex(), changes=changes, pause=False
            )
        return Snapshot(self.kind, made["Id"].encode(), ended)

    def _destroy(self) -> None:
        if hasattr(self, "_link"):
            self._link.shut()
            with contextlib.suppress(Exception):
                self._response.close()
        if self._container:  # with the link its supervisor has ended, and everything in it; only the engine's bookkeeping is left
            try:
                _removals.submit(_remove, self._container)
            except RuntimeError:  # the interpreter is on its way out, and starts no threads
                _remove(self._container)


class Runsc(Docker):
    """A sandbox by Docker Engine with gVisor's kernel in between."""

    kind: ClassVar[str] = "runsc"
    runtime: ClassVar[str | None] = "runsc"

    @classmethod
    def leftovers(cls, everything: bool = False) -> list[str]:
        return []  # they are containers of the engine's: Docker lists them


def _leftovers(everything: bool) -> list[tuple[str, str]]:
    """(what, id) of containers and snapshots whose gym is gone; with ``everything``, of all gyms of this engine."""
    client = engine()
    found = []
    for container in client.containers(all=True, filters={"label": LABEL}):
        if everything or abandoned(container["Labels"].get(LABEL, "")):
            found.append(("container", container["Id"]))
    for image in client.images(filters={"label": LABEL}):
        if everything or abandoned((image["Labels"] or {}).get(LABEL, "")):
            found.append(("image", image["Id"]))
    if everything:
        found += [("image", i["Id"]) for i in client.images(filters={"label": PREPARED})]
    return list(dict.fromkeys(found))
