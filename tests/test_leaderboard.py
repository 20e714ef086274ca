"""Leaderboards: what reproduces is published, every kind of forgery is refused with its reason, and the page shows text alone."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from agentgym_web.browser import chromium
from playwright.sync_api import sync_playwright

from agentgym.cli.main import guarded as main
from agentgym.episode import decode, encode
from agentgym.errors import UsageError
from agentgym.evaluation.bundle import pack, seal
from agentgym.evaluation.leaderboard import Standing, VerifierStanding, _asked_again, examine, examined, page, submit
from agentgym.evaluation.probes import SAME
from agentgym.evaluation.regrade import Environments
from agentgym.evaluation.run import Result
from agentgym.evaluation.stats import Interval
from agentgym.evaluation.verifiers import of_set, summed_up
from agentgym.verdict import Verdict

BOARD = Path(__file__).parent.parent / "leaderboards"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for policy in ("oracle", "random"):
        assert main(["eval", "tools/desk", "--policy", policy, "--split", "dev", "--tasks", "24", "--out", str(folder / policy), "--json"]) == 0
    return folder


@pytest.fixture
def copy(runs, tmp_path):
    def of(policy="random"):
        shutil.copytree(runs, tmp_path / "runs", dirs_exist_ok=True)
        return tmp_path / "runs" / policy

    return of


def episodes(folder):
    return [decode(line) for line in (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)]


def write(folder, found):
    (folder / "episodes.jsonl").write_bytes(b"".join(map(encode, found)))


def told(folder, **changed):
    """Change the result's numbers."""
    path = folder / "result.json"
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), **changed}).encode())


def test_honest_runs_are_published_graded_again_and_shown(runs, tmp_path, capsys):
    board = tmp_path / "board"
    for policy in ("oracle", "random"):
        assert main(["leaderboard", "submit", str(runs / policy), "--board", str(board)]) == 0
    capsys.readouterr()
    assert main(["leaderboard", "verify", str(board), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [f["accepted"] for f in found] == [True, True] and {f["standing"]["result"]["policy"] for f in found} == {"oracle", "random"}
    assert all(f["file"].startswith("tools-desk-v0/") and len(f["standing"]["digest"]) == 64 for f in found)
    assert main(["leaderboard", "build", str(board), "--json"]) == 0 and json.loads(capsys.readouterr().out)["rows"] == 2
    assert main(["leaderboard", "submit", str(runs / "oracle"), "--board", str(board)]) == 0  # again: the same file, no second row
    assert len(list(board.rglob("*.zip"))) == 2


def test_submissions_at_the_same_time_do_not_disturb_each_other(runs, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: submit(runs / p, tmp_path / "board"), ["oracle", "random"] * 4))
    assert all(f.accepted for f in found) and len(list((tmp_path / "board").rglob("*.zip"))) == 2
    assert not [p for p in (tmp_path / "board").iterdir() if p.is_file()]


def test_a_thin_bundle_is_graded_by_playing_it_again(runs, copy, tmp_path):
    whole, thin = submit(runs / "random", tmp_path / "whole"), submit(runs / "random", tmp_path / "thin", thin=True)
    a, b = whole.standing, thin.standing
    assert a is not None and b is not None and (a.result.success, a.result.tokens) == (b.result.success, b.result.tokens) and b.bytes < a.bytes / 3
    assert (runs / "random" / "artefacts").is_dir()
    assert examine(tmp_path / "thin" / b.file, played_again=False).accepted
    forged = copy()
    winning_artefact(forged)
    assert submit(forged, tmp_path / "thin", thin=True).standing is None
    with pytest.raises(UsageError, match="packed already"):
        submit(tmp_path / "whole" / a.file, tmp_path / "thin", thin=True)


def flipped(folder):
    found = episodes(folder)
    for e in found:
        e.verdicts = {"task": Verdict.scored(1.0)}
        e.terms = [msgspec.structs.replace(t, value=1.0) for t in e.terms]
    write(folder, found)
    one = Interval(1.0, 0.9, 1.0)
    told(folder, success=msgspec.to_builtins(one), reward=msgspec.to_builtins(one))


def better_artefact(folder):
    """Another final state than the one that was graded."""
    path = next(p for p in (folder / "artefacts").rglob("*") if p.is_file() and p.stat().st_size > 1000)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def winning_artefact(folder):
    """The final state of a run that succeeded, under a record, a result and a seal that fit it: nothing but playing the actions again tells."""
    won = folder.with_name("oracle")
    found, winners = episodes(folder), {e.task: e for e in episodes(won)}
    for e in found:
        e.artefacts, e.verdicts = winners[e.task].artefacts, winners[e.task].verdicts
    for e, terms in zip(found, Environments().of(found[0]).reward.settle(found), strict=True):
        e.terms = terms
    shutil.copytree(won / "artefacts", folder / "artefacts", dirs_exist_ok=True)
    write(folder, found)
    result = json.loads((won / "result.json").read_bytes())
    told(folder, success=result["success"], reward=result["reward"])


def other_task(folder):
    found = episodes(folder)
    for e in found:
        e.task_digest = "0" * 64
    write(folder, found)


def twice(folder):
    found = episodes(folder)
    write(folder, [*found, msgspec.structs.replace(found[0], id=f"{found[0].id}~again")])


def half(folder):
    write(folder, episodes(folder)[::2])


def invalid(folder):
    found = episodes(folder)
    for e in found[:3]:
        e.status, e.fault, e.culprit = "invalid", "the container died", "infra"
    write(folder, found)


FORGERIES = {
    "verdicts turned": (flipped, "comes out differently"),
    "numbers of the result": (lambda f: told(f, success={"mean": 0.9, "low": 0.8, "high": 1.0, "method": "wilson"}), "its result says success 0.9000"),
    "the artefact that decides": (better_artefact, "differently|cannot be graded|was changed|does not"),
    "the artefacts of a winner": (winning_artefact, "played again, the verdict 'task' differs"),
    "another task under the same name": (other_task, "the task has changed"),
    "an attempt twice": (twice, "1 attempts are there more than once"),
    "attempts left out": (half, "12 of 24 attempts are missing"),
    "failures called invalid": (invalid, "12% of its episodes are invalid"),
    "another policy's name": (lambda f: told(f, policy="gpt-9"), "its result is of gpt-9"),
    "no result": (lambda f: (f / "result.json").unlink(), "no finished run"),
    "trained on it": (lambda f: told(f, notes=["contamination: of 24 evaluated tasks 24 are among those that run trained on (a ~ a)"]), "was trained on tasks of this split"),
    "another environment": (lambda f: (f / "config.toml").write_text((f / "config.toml").read_text().replace("tools/desk", "tools/dusk")), "cannot be made here"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_bundle_is_refused_with_the_reason_even_under_a_fresh_seal(kind, copy, tmp_path):
    import re

    forge, why = FORGERIES[kind]
    folder = copy()
    forge(folder)
    pack(folder, tmp_path / "forged.zip")
    found = examine(tmp_path / "forged.zip")
    assert not found.accepted and any(re.search(why, r) for r in found.reasons), found.reasons
    assert not submit(tmp_path / "forged.zip", tmp_path / "board").accepted and not list((tmp_path / "board").rglob("*.zip"))


def test_a_broken_seal_a_torn_file_the_training_split_and_too_few_are_refused(copy, tmp_path, capsys):
    folder = copy()
    told(folder, valid=23)  # not sealed again
    assert "was changed" in examine(folder).reasons[0]
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 no zip")
    assert not examine(tmp_path / "torn.zip").accepted and not examine(tmp_path / "none.zip").accepted
    assert main(["eval", "tools/desk", "--policy", "random", "--split", "train", "--tasks", "5", "--out", str(tmp_path / "few"), "--json"]) == 0
    reasons = " ".join(examine(tmp_path / "few").reasons)
    assert "for training" in reasons and "at least 20" in reasons
    capsys.readouterr()
    assert main(["leaderboard", "submit", str(tmp_path / "few"), "--board", str(tmp_path / "board")]) == 1 and "is refused" in capsys.readouterr().out
    assert main(["leaderboard", "verify", str(tmp_path / "nowhere")]) in (1, 2)
    seal(folder)


@pytest.mark.parametrize("part", ["tools-desk-v0", "nethack-room-v0", "judge-step-v0", "verifiers-34aebd3ad378"])
def test_the_board_of_this_repository_comes_out_again(part, capsys):
    assert main(["leaderboard", "verify", str(BOARD / part), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert len(found) >= 3 and all(f["accepted"] for f in found)


# Verifiers


@pytest.fixture(scope="module")
def measured(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verifiers")
    (folder / "pool").mkdir()
    (folder / "pool" / "episodes.jsonl").write_bytes(b"".join((runs / p / "episodes.jsonl").read_bytes() for p in ("oracle", "random")))
    assert main(["export", str(folder / "pool"), "--format", "probes", "--to", str(folder / "set"), "--json"]) == 0
    assert main(["eval", "--verifier", "likeness", "--on", str(folder / "set"), "--out", str(folder / "likeness"), "--json"]) == 0
    return folder / "likeness"


def test_a_verifier_is_published_when_labels_numbers_and_verdicts_come_out_again(measured, tmp_path, capsys):
    board = tmp_path / "board"
    assert main(["leaderboard", "submit", str(measured), "--board", str(board), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["standing"]
    assert found["asked_again"] and found["file"].startswith(f"verifiers-{found['on']}/likeness-")
    assert main(["leaderboard", "verify", str(board), "--json"]) == 0 and main(["leaderboard", "build", str(board), "--json"]) == 0
    assert '"verifier":"likeness"' in (board / "index.html").read_text()
    assert main(["eval", "--verifier", "likeness", "--on", str(measured), "--out", str(measured)]) == 2 and "the set itself" in capsys.readouterr().err


def relabelled(folder):
    found = episodes(folder)
    for e in found:
        e.provenance["probe"]["label"] = 1.0
    write(folder, found)


def won_by_word(folder):
    """Verdicts and labels of the record turned; only playing it again tells."""
    found = episodes(folder)
    for e in found:
        if e.provenance["probe"]["name"] == "plain":
            e.verdicts, e.provenance["probe"]["label"] = {"task": Verdict.scored(1.0)}, 1.0
        elif e.provenance["probe"]["name"] in SAME:
            e.provenance["probe"]["label"] = 1.0
    write(folder, found)


def better_verdicts(folder):
    """Verdicts that agree with every label, and the result they give."""
    found = episodes(folder)
    rows = [{"episode": e.id, "value": e.provenance["probe"]["label"], "turns": []} for e in found]
    (folder / "verdicts.jsonl").write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in rows))
    mine = summed_up("likeness", "set", [of_set(e, r["value"], []) for e, r in zip(found, rows, strict=True)], {}, 1.0)
    (folder / "result.json").write_bytes(msgspec.json.encode(mine))


def fewer(folder):
    rows = (folder / "verdicts.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "verdicts.jsonl").write_bytes(b"".join(rows[::2]))


VERIFIER_FORGERIES = {
    "labels": (relabelled, "labels are not those of their episodes"),
    "successes": (won_by_word, "played again, the verdict 'task' differs"),
    "verdicts": (better_verdicts, "asked again, likeness gives other verdicts"),
    "numbers": (lambda f: told(f, accuracy={"mean": 0.99, "low": 0.9, "high": 1.0, "method": "wilson"}), "its result says accuracy"),
    "verdicts left out": (fewer, "not those of its episodes"),
}


@pytest.mark.parametrize("kind", VERIFIER_FORGERIES)
def test_a_forged_verifier_is_refused_with_the_reason(kind, measured, tmp_path):
    forge, why = VERIFIER_FORGERIES[kind]
    folder = tmp_path / "copy"
    shutil.copytree(measured, folder)
    forge(folder)
    pack(folder, tmp_path / "forged.zip")
    found = examine(tmp_path / "forged.zip")
    assert not found.accepted and any(why in r for r in found.reasons), found.reasons


def wild_label(folder):
    found = episodes(folder)
    found[0].provenance["probe"] = {"label": ["x"]}
    write(folder, found)


@pytest.mark.parametrize(
    "break_it", [wild_label, lambda f: (f / "episodes.jsonl").write_bytes(b"[]\n"), lambda f: (f / "verdicts.jsonl").write_bytes(b"\xff\n")]
)
def test_a_submission_of_any_shape_is_refused_and_stops_no_other(break_it, measured, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(measured, folder)
    break_it(folder)
    (tmp_path / "board").mkdir()
    pack(folder, tmp_path / "board" / "a.zip")
    pack(measured, tmp_path / "board" / "b.zip")
    assert [f.accepted for f in examined(tmp_path / "board")] == [False, True]


def test_a_config_that_is_none_is_a_reason(copy):
    folder = copy()
    (folder / "config.toml").write_text("= no toml")
    (folder / "bundle.json").unlink()
    assert "cannot be read" in examine(folder).reasons[0]


@pytest.mark.parametrize("name", ["rm:somebody/model", "judge:openai:m@http://127.0.0.1:9", "combine([late('rm:nowhere/model', level='outcome')])"])
def test_a_submission_makes_nobody_fetch_or_call(name, monkeypatch):
    monkeypatch.setattr("agentgym.evaluation.leaderboard.spec_of", lambda text: pytest.fail("it was made"))
    assert _asked_again(name, []) is None


def standing(i, policy="policy"):
    one = Interval(0.5 + (i % 50) / 100, 0.4, 0.9)
    r = Result(
        env=f"tools/desk{i % 12}-v0", policy=f"{policy}-{i}", split="test", episodes=100, valid=100, invalid=0, success=one, reward=one, metrics={}, pass_at={},
        turns_mean=3.0, tokens=1000 * i, model_calls=1, wall_s=1.0, pass_hat={"1": 0.5, "4": 0.2},
    )  # fmt: skip
    return Standing(f"a/{i}.zip", "d" * 64, 10, r)


def test_the_page_of_a_thousand_rows_is_light_and_nothing_in_it_is_markup(tmp_path):
    evil = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    judge = VerifierStanding("v/j.zip", "e" * 64, 10, summed_up(evil, "set", [], {}, 1.0), "abc")
    text = page([*(standing(i) for i in range(1000)), standing(1000, evil), judge])
    assert len(text.encode()) < 1_000_000
    (tmp_path / "index.html").write_text(text)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto((tmp_path / "index.html").as_uri())
        assert tab.locator("tr td:first-child").count() == 1001 and tab.locator("h2").count() == 12 and tab.title() == "agentgym leaderboard"
        assert tab.locator("td img, td script").count() == 0
        tab.fill("#find", "policy-7 desk7-")
        assert tab.locator("tr td:first-child").first.text_content().startswith("policy-7")
        first = tab.locator("table").first.locator("td:nth-child(2)").all_text_contents()
        assert first == sorted(first, reverse=True)
        tab.locator("th", has_text="success").first.click()
        assert tab.locator("table").first.locator("td:nth-child(2)").all_text_contents() == sorted(first)
        tab.fill("#find", "")
        tab.select_option("#by", "policy")
        assert tab.locator("h2").count() == 1001 and tab.locator("td img, td script").count() == 0
        tab.select_option("#by", "verifiers")
        assert tab.locator("tr td:first-child").text_content().startswith(evil) and "as recorded" in tab.locator("tr td:first-child").text_content()
        assert tab.locator("td img, td script").count() == 0 and tab.title() == "agentgym leaderboard"
        browser.close()
