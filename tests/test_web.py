"""MiniWoB in a real Chromium: pages begun anew are as if new, time is the agent's, and what breaks is an observation or a fault."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agentgym_web import TASKS
from agentgym_web.browser import chromium, host
from agentgym_web.miniwob.oracles import SCRIPTS

import agentgym
from agentgym.checks.report import audit
from agentgym.checks.subject import Subject
from agentgym.errors import CapabilityError, EnvironmentFault, UnknownName
from agentgym.registry import spec


@pytest.fixture(scope="module")
def env():
    made = agentgym.make("web/miniwob", reward="stepwise")
    yield made
    made.close()


def begin(env, page, n=0):
    observation, info = env.reset(options={"task": f"{page}.train.{n}"})
    return observation, info


def evaluate(env, script):
    return host().run(env.session.page.evaluate(script), 20)


def test_a_page_begun_anew_is_as_if_new(env):
    for page in ("click-test-2", "login-user", "choose-date", "click-collapsible", "navigate-tree", "drag-items"):
        first = begin(env, page)
        begin(env, page, 1)
        if page in SCRIPTS:
            for action in env.oracle():
                env.step(action)
        again = begin(env, page)
        other = agentgym.make("web/miniwob")
        fresh = begin(other, page)
        other.close()
        assert first == again == fresh, page


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.extra)])
def test_every_page_is_a_task_and_at_least_sixty_have_an_oracle_that_wins(env, every):
    assert len(TASKS) == 130 and len(SCRIPTS) >= 60
    lost, played = [], list(SCRIPTS)[::every]
    for page in played:
        begin(env, page, 7)
        try:
            for action in env.oracle():
                if env.episode.stop_reason is None:
                    env.step(action)
        except CapabilityError:
            lost.append(page)
            continue
        if not env.episode.success:
            lost.append(page)
    assert len(lost) <= (len(SCRIPTS) - 60) // every, lost
    begin(env, "stock-market")
    with pytest.raises(CapabilityError, match="no oracle"):
        env.oracle()


def test_what_cannot_be_done_is_said(env):
    begin(env, "click-test-2")
    for action, said in (
        ("click 99", "there is no such element"), ("fill 1 text", "takes no text"), ("select 1 x", "has no options"), ("clik 1", "did you mean click"),
        ("scroll 100 1", "does not scroll"), ("press NoSuchKey", "Unknown key"), ("drag 1", "onto"), ("think about it", "no tool"),
    ):  # fmt: skip
        assert said in env.step(action)[0], action
        if env.episode.stop_reason is not None:
            begin(env, "click-test-2")
    begin(env, "click-test-2")
    evaluate(env, "() => { const d = document.createElement('div'); d.id = 'lid'; d.textContent = 'lid'; "
                  "d.style.cssText = 'position:fixed;inset:0;z-index:99999'; document.body.append(d) }")  # fmt: skip
    assert 'covered by div "lid"' in env.step("click 1")[0]
    evaluate(env, "() => { document.getElementById('lid').remove(); document.getElementById('subbtn').remove() }")
    assert "it is gone" in env.step("click 1")[0]


def test_time_on_the_page_is_moved_by_actions_alone(env):
    begin(env, "click-test-2")
    before = evaluate(env, "() => Date.now()")
    time.sleep(0.3)
    assert evaluate(env, "() => Date.now()") == before
    env.step("hover 1")
    assert evaluate(env, "() => Date.now()") == before + 250
    for _ in range(12):
        *_, terminated, _, info = env.step("wait")
        if terminated:
            break
    assert terminated and info["verdicts"]["task"]["value"] == 0.0 and info["verdicts"]["task"]["evidence"]["reason"] == "timed out"


def test_labels_that_nobody_sees_are_not_told(env):
    observation, _ = begin(env, "email-inbox-forward-nl")
    assert "fields" not in observation and "The page asks:" in observation
    text = begin(env, "click-test-2")[0]
    assert "subbtn" not in text and "reward" not in text.lower()


def test_other_hosts_are_refused_and_logged_and_dialogs_do_not_hold_the_page(env):
    begin(env, "click-test-2")
    for url in (
        "http://example.com/",
        "file:///etc/passwd",
        f"http://127.0.0.1:{host().sites.port}/",
        "http://[::1]/",
        "http://shop.test/",
        "chrome://version",
    ):
        assert evaluate(env, f"() => fetch('{url}').then(() => 'reached', () => 'refused')") == "refused"
    evaluate(env, "() => { setTimeout(() => alert('boo'), 100); }")
    seen = env.step("hover 1")[0]
    assert "refused: http://example.com" in seen and "the page said: boo" in seen


def test_a_page_that_broke_is_closed_when_the_next_begins(env):
    begin(env, "click-button")
    broken = env.session.lease
    broken.broken = True
    begin(env, "click-button")
    assert env.session.lease is not broken and broken.page.is_closed()


def test_a_page_that_crashes_and_a_browser_that_is_killed_are_faults_and_the_next_episode_plays(env):
    begin(env, "click-test")
    with pytest.raises(EnvironmentFault):
        env.on_browser(env.session.page.goto("chrome://crash", timeout=3000))
    begin(env, "click-test")
    assert env.step("click 1")[2] and env.episode.success
    begin(env, "click-test")
    children = subprocess.run(["pgrep", "-f", "--", "--remote-debugging-pipe"], capture_output=True, text=True).stdout.split()
    mine = [pid for pid in children if _descends(int(pid), os.getpid())]
    assert mine
    for pid in mine:
        os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(EnvironmentFault):
        for _ in range(3):
            env.step("click 1")
            begin(env, "click-test")
    env.close()
    again = agentgym.make("web/miniwob")
    begin(again, "click-test")
    assert again.step("click 1")[2] and again.episode.success
    again.close()


def _descends(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_no_browser_outlives_its_gym():
    code = "import agentgym; e = agentgym.make('web/miniwob'); e.reset(seed=1); import os; print(os.getpid()); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9
    time.sleep(2)
    left = subprocess.run(["pgrep", "-af", "chrom"], capture_output=True, text=True).stdout
    ours = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()  # browsers of tests beside this one are nobody's orphans
    assert not [line for line in left.splitlines() if "--remote-debugging-pipe" in line and not _descends(int(line.split()[0]), ours)]


@pytest.mark.parametrize("kinds", [["click-checkboxes", "login-user"], pytest.param(["enter-text", "choose-list"], marks=pytest.mark.extra)], ids=" ".join)
def test_check_passes_on_a_few_pages(kinds):
    report = audit(Subject(spec("web/miniwob-v0"), 2, {"kinds": kinds}))
    failed = [c for c in report.checks if c.status == "fail" and c.name != "declared"]
    assert not failed and report.oracle.success == 1.0


def test_an_unknown_page_and_a_missing_browser(monkeypatch):
    with pytest.raises(UnknownName, match="click-test"):
        agentgym.make("web/miniwob", kinds="click-tset")
    monkeypatch.setenv("AGENTGYM_BROWSER", "/nowhere")
    with pytest.raises(Exception, match="/nowhere"):
        chromium()
