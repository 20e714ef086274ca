"""A desktop: display, window manager, accessibility bus, and a service on a socket that acts and looks. Runs in the sandbox, for one episode.

``serve.py WIDTH HEIGHT`` returns when all of it is there; the service goes on behind it, and ends with its display. A request is one
connection: JSON in, then a header of JSON behind its length (four bytes) and the rows of pixels that differ from what was sent last.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "packages")]
SOCKET, LOG, BUS = "/tmp/.desktop", "/tmp/.desktop.log", "/tmp/.bus"
BAND = 8
"""Rows are compared, and sent, in bands of so many."""
Do = list[Any]


def environment() -> dict[str, str]:
    """The variables of everything that runs on the desktop."""
    given = {k: os.environ[k] for k in ("PATH", "HOME", "LANG", "USER", "TZ") if k in os.environ}
    return {
        **given, "SHELL": "/bin/bash", "TERM": "xterm", "DBUS_SESSION_BUS_ADDRESS": f"unix:path={BUS}", "XDG_CONFIG_DIRS": f"{HERE}/config",
        "XDG_RUNTIME_DIR": "/tmp", "FONTCONFIG_FILE": f"{HERE}/config/fonts.conf", "GSETTINGS_BACKEND": "keyfile", "GTK_RECENT_FILES_MAX_AGE": "0",
        "GTK_OVERLAY_SCROLLING": "0", "GTK_THEME": "Adwaita", "NO_AT_BRIDGE": "0", "GVFS_DISABLE_FUSE": "1", "GIO_USE_VFS": "local",
    }  # fmt: skip


def begin(width: int, height: int) -> dict[str, str]:
    """Start the display, the buses and the window manager."""
    env, log = environment(), open(LOG, "ab")

    def run(*command: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)

    os.makedirs("/tmp/.X11-unix", mode=0o1777, exist_ok=True)
    told, tells = os.pipe()
    run("dbus-daemon", "--session", f"--address=unix:path={BUS}", "--nofork")
    server = run("Xvfb", "-displayfd", str(tells), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp", "-noreset", "-dpi", "96", pass_fds=[tells])
    os.close(tells)
    if not select.select([told], [], [], 10)[0] or not (number := os.read(told, 16).decode().strip()):
        raise OSError("the X server did not start")
    env |= {"DISPLAY": f":{number}", "SERVER": str(server.pid)}
    run("openbox", "--config-file", f"{HERE}/config/openbox.xml", "--sm-disable")
    until(lambda: Path(BUS).exists(), 5)
    run("/usr/libexec/at-spi-bus-launcher", "--launch-immediately")
    return env


def until(true: Callable[[], Any], seconds: float) -> Any:
    """Wait for something; what it was, or the last that it was not."""
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


class Service:
    """One display under somebody's hands."""

    def __init__(self, env: dict[str, str]) -> None:
        from screen import Screen

        self.screen = Screen(env["DISPLAY"])
        self.screen.idle.add(env.pop("SERVER"))
        self._access: Any = None
        self.env, self._sent, self._asked = env, b"", 0.0
        until(lambda: self.screen._property(self.screen.root, "_NET_CLIENT_LIST_STACKING") is not None, 3)
        self._started: list[subprocess.Popen[bytes]] = []

    def access(self) -> Any:
        """The accessibility bus, joined when first asked for; programs tell of themselves once somebody listens."""
        if self._access is None:
            from access import Access
            from jeepney import DBusAddress, new_method_call
            from jeepney.io.blocking import open_dbus_connection

            session = open_dbus_connection(f"unix:path={BUS}")
            asks = new_method_call(DBusAddress("/org/a11y/bus", bus_name="org.a11y.Bus", interface="org.a11y.Bus"), "GetAddress")
            address = session.send_and_get_reply(asks, timeout=5).body[0].partition(",")[0]
            session.close()
            self._access = Access(address)
            self._access.listen()
        return self._access

    # What may be asked

    def look(self, tree: bool = False, whole: bool = False, number: bool = True) -> tuple[dict[str, Any], bytes]:
        """What is there, and the bands that have changed since the last look (``whole``: all). For ``number`` see ``Access.read``."""
        s = self.screen
        windows = [w for n in s.clients() if (w := s.window(n))]
        redraw = max(0.0, s.drawn - self._asked)
        about: dict[str, Any] = {"windows": windows, "active": s.active(), "menus": s.menus(), "pointer": list(s.pointer), "redraw": redraw}
        if tree:
            about["tree"] = self.access().read([(w["box"], w["id"], s.told(w["id"])) for w in windows if w["shown"]], number)
        return self._bands(about, whole)

    def _bands(self, about: dict[str, Any], whole: bool) -> tuple[dict[str, Any], bytes]:
        now, before = self.screen.pixels(), b"" if whole else self._sent
        size = BAND * self.screen.width * 4
        if now == before:
            changed: list[int] = []
        else:
            changed = [n for n in range((len(now) + size - 1) // size) if now[n * size : (n + 1) * size] != before[n * size : (n + 1) * size]]
        self._sent = now
        return {**about, "band": BAND, "bands": changed}, b"".join(now[n * size : (n + 1) * size] for n in changed)

    def act(self, do: list[Do], tree: bool = False) -> tuple[dict[str, Any], bytes]:
        """Do some things, each settled before the next, and look."""
        from screen import Unknown

        problem = ""
        for name, *given in do:
            try:
                problem = getattr(self, f"do_{name}")(*given) or self.screen.settle()
            except Unknown as error:
                problem = str(error)
                about, body = self.look(tree)
                return {**about, "refused": problem}, body
        about, body = self.look(tree)
        return {**about, "problem": problem}, body

    def open(self, argv: list[str], windows: int = 1, seconds: float = 10, tree: bool = False) -> tuple[dict[str, Any], bytes]:
        """Start a program and wait for so many windows more."""
        had = set(self.screen.clients())
        with open(LOG, "ab") as log:
            self._started.append(
                subprocess.Popen(argv, env=self.env, cwd=self.env["HOME"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            )
        came = until(lambda: len(set(self.screen.clients()) - had) >= windows, seconds)
        self.screen.settle(10)
        about, body = self.look(tree)
        return {**about, "problem": "" if came else f"{shlex.join(argv)} opened no window within {seconds:g} s"}, body

    # What may be done

    def do_click(self, x: int, y: int, button: int, times: int) -> None:
        self.screen.reach(x, y)
        self.screen.move(x, y)
        self.screen.display.sync()
        self.screen.button(button, times)

    def do_drag(self, x: int, y: int, to_x: int, to_y: int) -> None:
        self.screen.reach(x, y)
        self.screen.move(x, y)
        self.screen.drag(to_x, to_y)

    def do_scroll(self, x: int, y: int, down: int, right: int) -> None:
        self.screen.move(x, y)
        for count, less, more in ((down, 4, 5), (right, 6, 7)):
            self.screen.button(more if count > 0 else less, abs(count))

    def do_type(self, text: str) -> None:
        self.screen.type(text)

    def do_key(self, chord: str) -> None:
        self.screen.key(chord)

    def do_wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_raise(self, window: int) -> None:
        self.screen.bring(window)

    def do_place(self, x: int, y: int) -> None:
        self.screen.place(self.screen.active(), x, y)

    # The socket

    def serve(self, listening: socket.socket) -> None:
        """Answer until the display is gone."""
        while True:
            conversation, _ = listening.accept()
            with conversation:
                asked = b""
                while more := conversation.recv(1 << 16):
                    asked += more
                try:
                    request, self._asked = json.loads(asked), time.monotonic()
                    header, body = getattr(self, request.pop("op"))(**request)
                except (ConnectionError, OSError):
                    raise
                except Exception as error:
                    if "closed" in type(error).__name__.lower():
                        raise
                    traceback.print_exc()
                    header, body = {"fault": f"{type(error).__name__}: {error}"}, b""
                data = json.dumps(header).encode()
                conversation.sendall(struct.pack("<I", len(data)) + data + body)


def main() -> None:
    """Start everything, and go on in the background once it stands."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        said = os.read(ready, 4000).decode()
        print(said or Path(LOG).read_text()[-1000:])
        sys.exit(said != "ready")
    os.setsid()
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for fd in (1, 2):
        os.dup2(log, fd)
    service = Service(begin(int(sys.argv[1]), int(sys.argv[2])))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(SOCKET)
    listening.listen(16)
    os.write(tell, b"ready")
    os.close(tell)
    service.serve(listening)


if __name__ == "__main__":
    main()
