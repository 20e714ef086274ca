"""The pictures of docs/view.md: plays a scripted and a random policy at an office desk, opens the viewer, and takes screenshots into docs/."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from agentgym_web.browser import chromium
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as p:
        both = Path(name) / "desk"
        both.mkdir()
        for policy in ("oracle", "random"):
            out = Path(name) / policy
            command = ["eval", "tools/desk", "--policy", policy, "--reward", "stepwise", "--split", "dev", "--tasks", "40", "--out", str(out), "--plain"]
            subprocess.run([sys.executable, "-m", "agentgym", *command], check=True, capture_output=True)
            with (both / "episodes.jsonl").open("ab") as file:
                file.write((out / "episodes.jsonl").read_bytes())
        server = subprocess.Popen([sys.executable, "-m", "agentgym", "view", str(both)], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            page = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"]).new_page(viewport={"width": 1280, "height": 820})
            page.goto(server.stderr.readline().split()[1])
            page.wait_for_selector("h1")
            for _ in range(13):
                page.keyboard.press("j")
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / "view.png")
            page.select_option("main select", index=1)
            page.wait_for_selector("main.two")
            page.wait_for_timeout(300)
            page.screenshot(path=DOCS / "view-two.png")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
