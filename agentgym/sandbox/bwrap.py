"""The embedded kind: namespaces by bubblewrap, limits by control groups, disk by a tmpfs under an overlay. No daemon.

As root or, where the kernel allows unprivileged user namespaces and a control group is delegated, as anybody. It dies with the gym:
nothing is left behind but an empty control group, which the next start removes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath
from typing import ClassVar

from agentgym.errors import SandboxRefused
from agentgym.sandbox import cgroups
from agentgym.sandbox.base import AGENT_UID, HOME, WORK, Image, Resources, Sandbox, Snapshot
from agentgym.sandbox.binary import supervisor
from agentgym.sandbox.link import Link, Pipes
from agentgym.sandbox.owner import state_folder

KEPT = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE")
INSIDE = "/.agentgym/supervise"
ETC = {
    "passwd": f"root:x:0:0::/:/bin/sh\nagent:x:{AGENT_UID}:{AGENT_UID}::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nagent:x:{AGENT_UID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@cache
def etc() -> Path:
    """The files of /etc that programs look for."""
    folder = state_folder() / "etc"
    folder.mkdir(exist_ok=True)
    for name, text in ETC.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    return folder


@cache
def system() -> tuple[str, ...]:
    """The host's programs and libraries, read-only: /usr, what stands beside it, and two folders of /etc that they need."""
    args = ["--ro-bind", "/usr", "/usr", *(a for d in ("/etc", "/home", "/var", "/.agentgym") for a in ("--perms", "0755", "--dir", d))]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            args += ["--ro-bind", str(path), f"/{name}"]
    for name in ("alternatives", "ld.so.cache"):
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for name in ETC:
        args += ["--ro-bind", str(etc() / name), f"/etc/{name}"]
    for packages in ("/usr/lib/python3/dist-packages", "/usr/local", "/usr/src", "/usr/share/doc"):
        if Path(packages).is_dir():
            args += ["--tmpfs", packages, "--remount-ro", packages]
    return tuple(args)


def _parents(inside: str) -> list[str]:
    """The folders above a place, readable for all: bubblewrap would make them its own."""
    folders = [str(p) for p in reversed(PurePosixPath(inside).parents) if str(p) != "/"]
    return [a for f in folders if not f.startswith("/usr") for a in ("--perms", "0755", "--dir", f)]


@cache
def works() -> str:
    """Why bubblewrap does not work here; empty if it does."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    probe = ["bwrap", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=20)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


class Bwrap(Sandbox):
    """A sandbox by bubblewrap."""

    kind: ClassVar[str] = "bwrap"

    @classmethod
    def enforces(cls) -> frozenset[str]:
        if works():
            return frozenset()
        return frozenset({"disk", "files", "seconds", "network"} | ({"memory", "pids", "cpus"} if cgroups.homes() else set()))

    @classmethod
    def mend(cls) -> str:
        if why := works():
            return "apt-get install -y bubblewrap" if "installed" in why else "sysctl -w kernel.unprivileged_userns_clone=1"
        return "systemd-run --user --scope -p Delegate=yes agentgym …" if os.geteuid() else "mount the control groups writable"

    @classmethod
    def leftovers(cls, everything: bool = False) -> list[str]:
        return [str(p) for p in cgroups.leftovers(everything)]

    @classmethod
    def reap(cls, everything: bool = False) -> list[str]:
        return cgroups.reap(everything)

    def __init__(self, image: Image, resources: Resources, snapshot: Snapshot | None = None) -> None:
        super().__init__(image, resources, snapshot)
        self.require(resources)
        if image.moved:
            raise SandboxRefused(f"a bwrap sandbox cannot start from {image.base}", "agentgym eval … --sandbox docker")
        self._group = cgroups.Group(resources) if resources.asked() & {"memory", "pids", "cpus"} else None
        try:
            self._begin(snapshot)
        except BaseException:
            self._destroy()
            raise

    def _begin(self, snapshot: Snapshot | None) -> None:
        here = state_folder() / "mnt"
        here.mkdir(exist_ok=True)
        fds = []
        watched, restore = [], []
        for flag, path in self._group.watched.items() if self._group else ():
            fds.append(os.open(path, os.O_RDONLY))
            watched += [flag, f"/proc/self/fd/{fds[-1]}"]
        if snapshot:
            fds.append(os.memfd_create("snapshot"))
            with os.fdopen(os.dup(fds[-1]), "wb") as file:
                file.write(snapshot.data)
            restore = ["--restore", str(fds[-1])]
        asked, supervise = self.resources, str(supervisor())
        enter = [
            supervise, "enter", *(a for j in (self._group.joins if self._group else ()) for a in ("--cgroup", j)), "--at", str(here),
            "--agent", str(AGENT_UID), "--size", str(asked.disk or 1 << 40), "--inodes", str((asked.files or 1 << 30) + 16),
            *(("--lower", self.image.tree) if self.image.tree else ()), *restore, "--",
        ]  # fmt: skip
        serve = [INSIDE, "serve", "--agent", str(AGENT_UID), "--nested", str(int(os.geteuid() != 0)), "--state", "9", *watched]
        command = [*enter, *self._bubble(str(here), supervise), "--", *serve]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=fds, env={"PATH": os.defpath}, start_new_session=True
            )
        finally:
            for fd in fds:
                os.close(fd)
        assert self._process.stdin and self._process.stdout
        receiving, sending = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
        self._process.stdin.close()
        self._process.stdout.close()
        self._link = Link(Pipes(receiving, sending), self._autopsy)
        self._link.greet(60)

    def _bubble(self, state: str, supervise: str) -> list[str]:
        caps = [a for c in (*KEPT, *(("CAP_SETFCAP",) if os.geteuid() else ())) for a in ("--cap-add", c)]
        layers = [a for layer in self.image.layers if layer.inside != WORK for a in (*_parents(layer.inside), "--ro-bind", layer.host, layer.inside)]
        return [
            "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox",
            "--as-pid-1", "--cap-drop", "ALL", *caps, *system(), *layers, "--proc", "/proc", "--dev", "/dev", "--bind", f"{state}/shm", "/dev/shm",
            "--bind", f"{state}/tmp", "/tmp", "--bind", f"{state}/home", HOME, "--bind", f"{state}/merged", WORK, "--symlink", "/tmp", "/var/tmp",
            "--ro-bind", supervise, INSIDE, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/",
        ]  # fmt: skip

    def _autopsy(self) -> str:
        """How the supervisor ended, and what it said last."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return " (its process still runs)"
        assert self._process.stderr
        os.set_blocking(self._process.stderr.fileno(), False)
        said = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        return f" (exit code {code}{'; ' + said[-500:] if said else ''})"

    def snapshot(self) -> Snapshot:
        ended = tuple(self.processes())
        with self._open() as link:
            data = link.snapshot()
        return Snapshot(self.kind, data, ended)

    def _destroy(self) -> None:
        if hasattr(self, "_link"):
            self._link.shut()
        if hasattr(self, "_process"):
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stderr
            self._process.stderr.close()
        if self._group:
            self._group.remove()
