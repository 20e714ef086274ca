"""The viewer in a terminal: the real application, driven by its keys, on a screen that is read back."""

import os
import pty
import subprocess
import sys
import time

import anyio
import pytest
from scripted import episode
from test_view import EVIL, run

from agentgym.cli.main import guarded as main
from agentgym.episode import encode
from agentgym.verdict import Place, Term, Verdict
from agentgym.view.index import Row
from agentgym.view.terminal import Conversation, Rows, Terminal, matches


def shown(app):
    """The text on the screen."""
    return "\n".join("".join(s.text for s in strip) for strip in app.screen._compositor.render_strips())


def driven(folder, script, size=(150, 60)):
    async def go():
        app = Terminal(folder)
        async with app.run_test(size=size) as pilot:
            await pilot.pause(0.3)
            await script(app, pilot)

    anyio.run(go)


def test_keys_move_filter_and_set_two_attempts_beside_each_other(tmp_path):
    async def script(app, pilot):
        rows = app.query_one(Rows)
        text = shown(app)
        assert "30 of 30 episodes" in text and "task0#0" in text and "step:progress +0.25" in text and "near = 'the door'" in text
        await pilot.press("j", "j")
        await pilot.pause(0.2)
        assert rows.at == 2 and "branches from task0#0 after turn 1" in shown(app) and "say done 2" in shown(app)
        await pilot.press("d")
        await pilot.pause(0.2)
        text = shown(app)
        assert "say done 2" in text and '"ticket": 42' in text and len(app.query(".apart")) == 4  # both turns differ, on both sides
        await pilot.press("k", "slash", *"failure kind:kind1")
        await pilot.pause(0.2)
        assert "10 of 30 episodes" in shown(app) and all(not r.success and r.kind == "kind1" for r in rows.rows)
        await pilot.press("enter", "j")
        assert rows.at == 1

    driven(run(tmp_path / "run"), script)


def test_turns_are_stepped_through(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "episodes.jsonl").write_bytes(encode(episode([f"act {i}\n" * 10 for i in range(20)], id="long")))

    async def script(app, pilot):
        pane = app.query_one("#one", Conversation)
        await pilot.press("l", "l", "l")
        await pilot.pause(0.2)
        far = pane.scroll_offset.y
        assert far > 20 and "act 2" in shown(app)
        await pilot.press("h")
        await pilot.pause(0.2)
        assert 0 < pane.scroll_offset.y < far

    driven(folder, script, (100, 30))


def test_nothing_recorded_moves_the_terminal(tmp_path):
    folder = run(tmp_path / "run", 1)
    e = episode([EVIL, EVIL], instruction=EVIL + "[bold red]loud[/]", id=EVIL, answers=[EVIL, EVIL], task=EVIL, kind=EVIL)
    e.verdicts = {EVIL: Verdict.invalid(EVIL)}
    e.terms = [Term(EVIL, 1.0, Place("turn", 0), 0)]
    (folder / "episodes.jsonl").write_bytes(encode(e))

    async def script(app, pilot):
        text = shown(app)
        assert not any(c in text for c in "\x1b\x07\u202e") and "\\x1b[2J" in text and "\\u202e" in text and "[bold red]loud[/]" in text

    driven(folder, script)


def test_a_growing_a_cut_and_a_broken_run(tmp_path):
    folder = run(tmp_path / "run", 6)
    whole = (folder / "episodes.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "episodes.jsonl").write_bytes(lines[0] + b'{"not": "an episode"}\n' + lines[2][:50])

    async def script(app, pilot):
        assert "2 of 2 episodes" in shown(app)
        await pilot.press("j")
        await pilot.pause(0.2)
        assert "cannot be read" in shown(app)
        (folder / "episodes.jsonl").write_bytes(lines[0] + b'{"not": "an episode"}\n' + b"".join(lines[2:]))
        await pilot.pause(1.0)
        assert "6 of 6 episodes" in shown(app)
        (folder / "episodes.jsonl").unlink()
        await pilot.pause(0.8)
        assert "0 of 0 episodes" in shown(app)

    driven(folder, script)


def test_ten_thousand_rows_do_not_stall(tmp_path):
    line = encode(episode(["look"], id="x"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "episodes.jsonl").write_bytes(line * 10_000)

    async def script(app, pilot):
        for _ in range(50):
            if len(app.index.rows) == 10_000:
                break
            await pilot.pause(0.1)
        began = time.perf_counter()
        await pilot.press(*"jjjjj")
        await pilot.pause()
        assert "10000 of 10000 episodes" in shown(app) and time.perf_counter() - began < 5

    driven(folder, script)


def test_words_of_a_filter():
    row = Row("task0#1", "task0", "shop", "random", 1, "valid", n=1, success=False)
    assert (
        matches(row, ["failure", "kind:shop", "rand"]) and not matches(row, ["success"]) and not matches(row, ["kind:desk"]) and not matches(row, ["invalid"])
    )


def test_from_the_command_line_it_needs_a_terminal_and_gives_it_back(tmp_path, capsys):
    folder = run(tmp_path / "run", 3)
    assert main(["view", str(folder), "--tui"]) == 2 and "needs a terminal" in capsys.readouterr().err
    ours, theirs = pty.openpty()
    started = subprocess.Popen([sys.executable, "-m", "agentgym", "view", str(folder), "--tui"], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color", "LINES": "40", "COLUMNS": "120"})  # fmt: skip
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 30
    while b"task0#2" not in said and time.monotonic() < deadline:
        said += os.read(ours, 65536)
    os.write(ours, b"q")
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:  # the other side has closed
        pass
    assert started.wait(20) == 0 and b"\x1b[?1049h" in said and b"\x1b[?1049l" in said
    os.close(ours)


@pytest.mark.parametrize("size", [(60, 20), (200, 50)])
def test_it_fits_small_and_large(tmp_path, size):
    async def script(app, pilot):
        assert "task0#0" in shown(app)

    driven(run(tmp_path / "run", 3), script, size)
