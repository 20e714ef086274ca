"""The viewer, in a real headless browser over a real server: what it shows, what it refuses, and that nothing recorded is ever markup."""

import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from agentgym_web.browser import chromium
from playwright.sync_api import sync_playwright
from scripted import episode

from agentgym.cli.main import guarded as main
from agentgym.episode import encode
from agentgym.errors import UsageError
from agentgym.messages import ToolCall
from agentgym.verdict import EPISODE, Place, Term, Verdict
from agentgym.view.app import Viewer
from agentgym.view.index import Index

EVIL = "<img src=x onerror='document.title=\"owned\"'><script>document.title='owned'</script>\x1b[2J\x1b]0;owned\x07\u202egnp.exe"


def run(folder, n=30, **more):
    lines = []
    for i in range(n):
        good = i % 3 == 0
        e = episode(
            [f"look {i}", '<tool_call>{"name": "close", "arguments": {"ticket": 42}}</tool_call>' if good else f"say done {i}"], id=f"task{i // 3}#{i % 3}",
            task=f"task{i // 3}", success=good, kind=f"kind{i % 2}", **more,
        )  # fmt: skip
        e.turns[1].calls = [ToolCall("close", {"ticket": 42})] if good else []
        e.policy = "oracle" if good else "random"
        e.terms = [Term("step:progress", 0.25, Place("turn", 0), 0), Term("form", -0.1, Place("turn", 1), 1), Term("task", float(good), EPISODE, 1)]
        e.turns[0].verdicts = {"progress": Verdict.scored(0.25, near="the door")}
        if i % 3 == 2:
            e.parent = (f"task{i // 3}#0", 1)
        lines.append(encode(e))
    folder.mkdir(exist_ok=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(lines))
    return folder


class Served:
    def __init__(self, folder):
        self.viewer = Viewer(folder)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.viewer.app(), log_level="error", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @property
    def address(self):
        return f"{self.base}/?token={self.viewer.token}"

    def get(self, path, **headers):
        return httpx.get(self.base + path, headers={"X-Token": self.viewer.token, **headers})

    def close(self):
        self.server.should_exit = True
        self.thread.join(5)


def shows(page, where, text):
    """Wait until it does; the page's own policy forbids to evaluate text, so this asks from outside."""
    ends = time.monotonic() + 15
    while (found := page.locator(where).all_text_contents()[:1]) != [text]:
        assert time.monotonic() < ends, found
        page.wait_for_timeout(30)


@pytest.fixture
def served():
    made = []

    def serve(folder):
        made.append(Served(folder))
        return made[-1]

    yield serve
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield found
        found.close()


def test_a_run_is_read_by_keyboard_filtered_compared_and_linked(tmp_path, served, browser):
    site = served(run(tmp_path / "run"))
    page = browser.new_page(viewport={"width": 1300, "height": 800})
    errors = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(site.address)
    page.wait_for_selector("h1")
    assert page.text_content("h1") == "task0#0" and "30 episodes" in page.text_content("#count") and "success 0.333" in page.text_content("#sum")
    page.keyboard.press("j")
    shows(page, "h1", "task0#1")
    page.keyboard.press("l")
    assert page.evaluate("location.hash") == "#e=1&t=1" and page.text_content(".turn.on .n") == "1"
    page.keyboard.press("h")
    page.keyboard.press("k")
    shows(page, "h1", "task0#0")
    assert [page.text_content(f".legend span:nth-child(1) >> nth={i}") for i in range(3)] == ["task +1.000", "step:progress +0.250", "form -0.100"]
    assert page.locator(".turn .bar").count() == 2 and page.locator(".bar i.minus").count() == 1 and "close" in page.text_content(".call b")
    page.locator(".turn details summary").first.click()
    assert "the door" in page.text_content(".turn details")
    assert page.locator("ul.tree a").all_text_contents() == ["task0#0 · 1.150", "from turn 1: task0#2 · 0.150"]
    page.keyboard.press("/")
    page.keyboard.type("failure kind:kind1 task3")
    assert page.text_content("#count") == "1 of 30 episodes"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    shows(page, "h1", "task3#2")
    page.select_option("main select", index=1)
    page.wait_for_selector("main.two")
    assert page.locator("main > section").count() == 2 and page.locator(".turn.apart").count() >= 2
    page.goto(f"{site.address}#e=7&t=1")
    page.reload()
    shows(page, "h1", "task2#1")
    assert page.text_content(".turn.on .n") == "1" and not errors
    page.close()


def test_a_running_run_grows_in_the_page_and_a_cut_or_broken_one_opens_and_says_so(tmp_path, served, browser):
    folder = run(tmp_path / "run", 3)
    site = served(folder)
    page = browser.new_page()
    page.goto(site.address)
    page.wait_for_selector("h1")
    whole = (folder / "episodes.jsonl").read_bytes()
    more = encode(episode(["late"], id="late"))
    with (folder / "episodes.jsonl").open("ab") as file:
        file.write(more[:40])  # half a line is no episode yet
        file.flush()
        time.sleep(0.2)
        assert site.get("/api/episodes").json()["total"] == 3
        file.write(more[40:] + b'{"broken": \n')
    shows(page, "#count", "5 episodes")
    page.keyboard.press("j")
    for _ in range(6):
        page.keyboard.press("j")
        page.wait_for_timeout(60)
    page.get_by_text("cannot be read").wait_for()
    (folder / "episodes.jsonl").write_bytes(whole[: len(whole) // 2])
    shows(page, "#count", "1 episodes")
    (folder / "episodes.jsonl").unlink()
    assert site.get("/api/episodes").json()["total"] == 0
    page.close()
    with pytest.raises(UsageError, match="not a run folder"):
        Index(tmp_path)


def test_nothing_recorded_is_ever_markup_or_moves_a_terminal(tmp_path, served, browser):
    folder = run(tmp_path / "run", 1)
    e = episode([EVIL, EVIL], instruction=EVIL, id=EVIL, answers=[EVIL, EVIL], task=EVIL, kind=EVIL)
    e.verdicts = {EVIL: Verdict.invalid(EVIL)}
    e.terms = [Term(EVIL, 1.0, Place("turn", 0), 0)]
    (folder / "episodes.jsonl").write_bytes(encode(e))
    page = browser.new_page()
    page.goto(served(folder).address)
    page.wait_for_selector(".turn")
    page.wait_for_timeout(300)
    assert "owned" not in page.title() and page.locator("main img, main script").count() == 0 and "<img src=x" in page.text_content("main")
    text = page.text_content("body")
    assert not any(c in text for c in "\x1b\x07\u202e") and "\\x1b" in text
    page.close()


def test_another_host_a_foreign_origin_and_a_bad_token_are_refused(tmp_path, served):
    site = served(run(tmp_path / "run", 2))
    assert site.get("/api/run").status_code == 200 and "default-src 'none'" in site.get("/api/run").headers["content-security-policy"]
    assert site.get("/api/run", **{"X-Token": "wrong"}).status_code == 403 and httpx.get(site.base).status_code == 403
    assert site.get("/api/run", Host="evil.test:80").status_code == 403 and site.get("/api/run", Origin="http://evil.test").status_code == 403
    assert site.get("/api/run", Origin=site.base).status_code == 200
    assert {site.get(f"/api/episodes?after={x}").status_code for x in ("-1", "x", "1e9")} == {400} and site.get("/api/episodes?after=99").json()["rows"] == []
    assert site.get("/api/episode/99").status_code == 404 and site.get("/api/picture/0/0").status_code == 409  # an office desk has no pixels
    assert json.loads(site.get("/api/episode/1").content)["id"] == "task0#1"


def test_view_from_the_command_line_says_what_is_wrong(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2 and "not a run folder" in capsys.readouterr().err
