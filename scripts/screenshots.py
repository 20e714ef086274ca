"""The pictures of docs/screenshots.md: plays runs, opens the viewer on each in a browser and in a terminal, and the leaderboard, and takes screenshots.

python scripts/screenshots.py [--board leaderboards] [NAME …]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
from agentgym_web.browser import chromium
from playwright.sync_api import Browser, Page, sync_playwright

from agentgym.view.terminal import Terminal

DOCS = Path(__file__).parent.parent / "docs"


def run(to: Path, env: str, policies: tuple[str, ...], tasks: int, *more: str) -> Path:
    """One run folder of several policies' episodes."""
    to.mkdir()
    for policy in policies:
        out = to.with_name(f"{to.name}-{policy}")
        command = ["eval", env, "--policy", policy, "--tasks", str(tasks), "--out", str(out), "--plain", *more]
        subprocess.run([sys.executable, "-m", "agentgym", *command], check=True, capture_output=True)
        with (to / "episodes.jsonl").open("ab") as file:
            file.write((out / "episodes.jsonl").read_bytes())
    return to


@contextmanager
def viewed(browser: Browser, folder: Path) -> Iterator[Page]:
    """The viewer's page of a run."""
    server = subprocess.Popen([sys.executable, "-m", "agentgym", "view", str(folder)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        page = browser.new_page(viewport={"width": 1280, "height": 820})
        page.goto(server.stderr.readline().split()[1])
        page.wait_for_selector("h1")
        yield page
    finally:
        server.terminate()
        server.wait()


def desk(browser: Browser, scratch: Path, board: Path) -> None:
    """An office desk, oracle and random: one episode, and two beside each other."""
    with viewed(browser, run(scratch / "desk", "tools/desk", ("oracle", "random"), 40, "--reward", "stepwise", "--split", "dev")) as page:
        for _ in range(13):
            page.keyboard.press("j")
        page.wait_for_timeout(500)
        page.screenshot(path=DOCS / "view.png")
        page.select_option("main select", index=1)
        page.wait_for_selector("main.two")
        page.wait_for_timeout(300)
        page.screenshot(path=DOCS / "view-two.png")


def terminal(browser: Browser, scratch: Path, board: Path) -> None:
    """The same run in a terminal."""
    folder = run(scratch / "tui", "tools/desk", ("oracle", "random"), 40, "--reward", "stepwise", "--split", "dev")

    async def taken() -> str:
        app = Terminal(folder)
        async with app.run_test(size=(150, 40)) as pilot:
            await pilot.pause(0.5)
            await pilot.press(*"jjjjjjjjjjjjj", "d")
            await pilot.pause(0.5)
            return app.export_screenshot()

    with ThreadPoolExecutor(1) as thread:  # this one runs the browser's loop
        picture = thread.submit(anyio.run, taken).result()
    page = browser.new_page(viewport={"width": 1500, "height": 830})
    page.set_content(f"<body style='margin:0'>{picture}</body>")
    page.wait_for_timeout(300)
    page.screenshot(path=DOCS / "view-terminal.png")


def nethack(browser: Browser, scratch: Path, board: Path) -> None:
    """A screen of NetHack."""
    with viewed(browser, run(scratch / "nethack", "nethack/key", ("player",), 6, "--reward", "stepwise")) as page:
        page.keyboard.press("j")
        for _ in range(4):
            page.keyboard.press("l")
        page.wait_for_selector(".turn.on img[src]", timeout=60_000)
        page.wait_for_timeout(500)
        page.locator(".turn.on").scroll_into_view_if_needed()
        page.screenshot(path=DOCS / "view-nethack.png")


def gui(browser: Browser, scratch: Path, board: Path) -> None:
    """A desktop, its screens played again."""
    with viewed(browser, run(scratch / "gui", "gui/desk", ("oracle",), 2, "--reward", "stepwise")) as page:
        page.wait_for_selector("main img[src]", timeout=60_000)
        page.keyboard.press("l")
        page.wait_for_timeout(1500)
        page.screenshot(path=DOCS / "view-gui.png")


def leaderboard(browser: Browser, scratch: Path, board: Path) -> None:
    """The board's page: by environment, and verifiers."""
    subprocess.run([sys.executable, "-m", "agentgym", "leaderboard", "build", str(board), "--to", str(scratch / "board.html"), "--plain"], capture_output=True)
    page = browser.new_page(viewport={"width": 1280, "height": 820})
    page.goto((scratch / "board.html").as_uri())
    page.screenshot(path=DOCS / "board.png")
    page.select_option("#by", "verifiers")
    page.screenshot(path=DOCS / "board-verifiers.png", clip={"x": 0, "y": 0, "width": 1280, "height": 420})


PICTURES: dict[str, Callable[[Browser, Path, Path], None]] = {f.__name__: f for f in (desk, terminal, nethack, gui, leaderboard)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=f"which of {', '.join(PICTURES)}; default: all")
    parser.add_argument("--board", default="leaderboards")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for which in given.names or PICTURES:
            PICTURES[which](browser, Path(name), Path(given.board))
        browser.close()


if __name__ == "__main__":
    main()
