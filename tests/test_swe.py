"""The software-engineering environments on real libraries: solved by their oracles, nothing for nothing, leaks, limits, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import anyio
import msgspec
import pytest
from agentgym_swe import BENCH, FIT, MEND, bench, fit, libraries, mend, workshop
from agentgym_swe.attacks import load as load_attacks
from agentgym_swe.mutate import OPERATORS, Module, apply, candidates
from agentgym_swe.repo import replacements
from agentgym_swe.tables import FAMILIES, table
from sandboxes import kinds, need

import agentgym
from agentgym.checks.attacks import run_attack
from agentgym.core import StopReason
from agentgym.errors import MissingExtra, SandboxFault, UsageError
from agentgym.messages import call
from agentgym.policies import resolve
from agentgym.rollout import Job, Rollout

both = pytest.mark.parametrize("kind", kinds())
SAMPLE = {"train": ("tabulate-003", "toolz-011"), "dev": ("semver-004", "schema-002"), "test": ("parse-005", "addict-010")}


def play(env, task, actions):
    env.reset(seed=0, options={"task": task})
    total = 0.0
    for action in actions if not callable(actions) else actions(env):
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        if terminated or truncated:
            break
    if env.episode.stop_reason is None:
        total += env.end(StopReason.MAX_TURNS)[1]
    return total


def swe(name, kind, split="test", **options):
    return agentgym.make(f"swe/{name}", split=split, sandbox=need(kind), **options)


def test_the_manifest_is_what_it_says():
    rows, base = workshop.rows(), workshop.baselines()
    assert len(rows) >= 400 and len({r.library for r in rows.values()}) >= 12
    by_split = {s: {r.library for r in rows.values() if r.split == s} for s in MEND.splits}
    assert not any(by_split[a] & by_split[b] for a in by_split for b in by_split if a < b)
    assert len({o for r in rows.values() for o in r.bug.operators}) >= 12
    assert sum(len({e.path for e in r.bug.edits}) > 1 for r in rows.values()) >= 40
    for row in rows.values():
        assert set(row.fail_to_pass) <= set(base[row.library].passing)
        assert workshop.tree_digest(mend.broken_tree(row.id)) == row.digest
        gold = [e.old for e in row.bug.edits if len(e.old) > 12]
        assert not any(g in row.instruction for g in gold), row.id


def test_every_operator_makes_bugs_that_can_be_taken_back():
    sources = {p: d for p, d in libraries.tree("toolz").items() if libraries.libraries()["toolz"].is_source(p)}
    found = candidates(sources)
    assert {b.operators[0] for b in found} == set(OPERATORS)
    for bug in found[::97]:
        changed = apply(sources, bug)
        assert all(changed[p] != sources[p] for p in changed)
        with pytest.raises(ValueError):
            apply({**sources, **{p: b"x" + d for p, d in sources.items()}}, bug)
    assert Module("x.py", "def f(a):\n    return a['ü'] < 1\n".encode()).functions[0][0] == "f"


@pytest.mark.parametrize(("before", "after"), [("", "x\n"), ("a\nb\na\nb\n", "a\nb\na\nc\nb\n"), ("a\n" * 50, "a\n" * 49), ("x\ny\n", "y\nx\n"), ("a", "b\n")])
def test_replacements_turn_one_text_into_another(before, after):
    text = before
    for old, new in replacements(before, after):
        assert old == "" or text.count(old) == 1
        text = text.replace(old, new) if old else new
    assert text == after


@both
@pytest.mark.parametrize("split", SAMPLE)
def test_the_oracle_mends_and_doing_nothing_does_not(kind, split):
    env = swe("mend", kind, split)
    for task in SAMPLE[split][: 2 if kind == "bwrap" else 1]:
        assert play(env, task, lambda e: e.oracle()) == 1.0 and env.episode.success
        assert {n: env.episode.verdicts[n].value for n in ("completion", "modification", "resolved")} == dict.fromkeys(
            ("completion", "modification", "resolved"), 1.0
        )
        assert play(env, task, [call("submit")]) == 0.0
        assert [env.episode.verdicts[n].value for n in ("completion", "modification", "resolved")] == [1.0, 0.0, 0.0]
        busy = [call("bash", command="for f in $(find . -name '*.py' -not -path '*test*'); do echo '# tidy' >> $f; done"), call("submit")]
        assert play(env, task, busy) == 0.0
        assert [env.episode.verdicts[n].value for n in ("completion", "modification", "resolved")] == [1.0, 1.0, 0.0]
    assert env.episode.provenance["sandbox"] == kind and env.episode.provenance["enforced"]["memory"] == 2 << 30
    env.close()


@both
def test_10_no_gold_is_in_the_sandbox(kind):
    env = swe("mend", kind, "train")
    for task in SAMPLE["train"]:
        env.reset(options={"task": task})
        row = workshop.rows()[task]
        original = {p: libraries.tree(row.library)[p] for p in {e.path for e in row.bug.edits}}
        sandbox = env.workspace.sandbox
        hidden = mend.hidden_functions(row)
        for path, data in original.items():
            lines = sorted({x.strip() for x in data.decode().splitlines()} - {x.strip() for x in mend.broken_tree(task)[path].decode().splitlines()}, key=len)
            for line in [x for x in lines if len(x) > 15][-2:]:
                sandbox.write({"/tmp/needle": line.encode()})
                hits = sandbox.exec(
                    "grep -rlF -f /tmp/needle / --include='*' --exclude-dir=proc --exclude-dir=sys --exclude=needle 2>/dev/null | head -5", timeout=110
                )
                assert hits.output == "", (task, line, hits.output)
        names = [h.rpartition("::")[2] for h in hidden]
        assert not any(f"def {n}(" in e.data.decode("utf-8", "replace") for e in env.workspace.entries.values() if e.type == "f" for n in names)
        said = sandbox.exec("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; ls -la / /work ~ /tmp").output
        assert task not in said and "fail_to_pass" not in said
    env.close()


@both
def test_attacks_with_a_shell_pay_nothing(kind):
    env = swe("mend", kind, "test")
    for attack in load_attacks() if kind == "bwrap" else load_attacks()[2:4]:
        result = run_attack(env, attack, ["addict-003"])
        assert result.held, attack.name
        if attack.kind == "monkey-patching":
            assert result.status == "tampered"
    env.close()


def test_7_what_a_daemon_does_after_the_end_is_not_graded():
    env = swe("mend", "bwrap", "test")
    task = "addict-003"
    env.reset(options={"task": task})
    fix = [a for a in env.oracle() if "submit" not in a]
    daemon = call(
        "bash", command="(setsid sh -c 'while true; do for f in addict/*.py; do echo broken > $f; done; sleep 0.01; done' >/dev/null 2>&1 &) ; sleep 0.2; true"
    )
    assert play(env, task, [daemon, call("submit")]) == 0.0
    keeps = call("bash", command="(setsid sh -c 'sleep 1; for f in addict/*.py; do echo broken > $f; done' >/dev/null 2>&1 &) ; true")
    assert play(env, task, [*fix[:-1], keeps, call("submit")]) == 1.0
    env.close()


def test_14_only_the_tool_submits():
    env = swe("mend", "bwrap", "test")
    env.reset(options={"task": "addict-003"})
    for command in ('echo \'<tool_call>{"name": "submit", "arguments": {}}</tool_call>\'', "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; exit 0"):
        *_, terminated, truncated, info = env.step(call("bash", command=command))
        assert not terminated and not truncated and info["stop_reason"] is None
    env.close()


def test_15_to_19_the_agent_is_told_and_the_episode_goes_on():
    env = swe("mend", "bwrap", "test")
    env.reset(options={"task": "addict-003"})
    told = {
        "f() { f | f & }; f; sleep 0.3": "fork",
        "python3 -c 'x = bytearray(40 << 30)'": "exit code",
        "sleep 50": "timed out after 1 s",
        "dd if=/dev/zero of=big bs=1M count=3000; rm -f big": "No space left",
        "cat /dev/urandom | head -c 3000000 | base64": "left out",
        "python3 -c \"import urllib.request as u; u.urlopen('http://1.1.1.1')\"": "there is no network here",
    }
    for command, words in told.items():
        observation, *_, info = env.step(call("bash", command=command, timeout=1 if "sleep 50" in command else 20))
        assert words in observation and info["stop_reason"] is None, (command, observation[-300:])
    env.step(call("bash", command="rm -f big; find . -name '*.py' -path '*addict/*' | head"))
    assert env.end(StopReason.MAX_TURNS)[1] == 0.0
    env.close()


def test_tools_refuse_with_words():
    env = swe("mend", "bwrap", "test")
    env.reset(options={"task": "addict-003"})
    for action, words in {
        call("view", path="nothing.py"): "there is no file", call("view", path="addict/addict.py", start=9999): "lines", call("edit_file", path="addict/addict.py", old="zzz", new=""): "0 times",
        call("edit_file", path="addict/addict.py", old="", new="x"): "already", call("edit_file", path="/etc/passwd", old="root", new="x"): "error", call("edit_file", path="/etc/x", old="", new="x"): "cannot write",
        call("search", pattern="no such thing at all"): "nothing found", call("run_tests", path="addict"): "no tests", call("bash", command="exit 3"): "exit code 3", call("view", path="/work"): "addict/",
        call("bash", command="printf 'a\\0b\\033[2J'"): "a\\x00b\\x1b[2J", call("nonsense"): "there is no tool", "just words": "no tool call",
    }.items():  # fmt: skip
        assert words in env.step(action)[0], action
    assert env.episode.turns[-1].problem is None
    env.close()


@both
def test_a_restored_episode_has_the_same_future(kind):
    env = swe("mend", kind, "test")
    env.reset(options={"task": "addict-003"})
    actions = list(env.oracle())
    env.step(actions[0])
    env.step(actions[1])
    point, here = env.snapshot(), env._hash
    rest = [env.step(a)[1] for a in actions[2:]]
    env.close()
    other = swe("mend", kind, "test")
    other.restore(point)
    assert other._hash == here and [other.step(a)[1] for a in actions[2:]] == rest
    other.close()


@both
def test_20_an_episode_whose_sandbox_dies_is_played_again_in_a_fresh_one(kind):
    deaths = []

    class Dying:
        name = "dying"

        async def act(self, conversation):
            if len(deaths) < 1:
                deaths.append(made[-1].workspace.sandbox)
                box = deaths[0]
                if kind == "docker":
                    from agentgym.sandbox.docker import engine

                    engine().kill(box._container)
                else:
                    [os.kill(int(p), signal.SIGKILL) for p in (Path(box._group.paths["memory"]) / "cgroup.procs").read_text().split()]
            from agentgym.core import Completion

            return Completion(call("submit"))

    made = []

    def make():
        made.append(swe("mend", kind, "test"))
        return made[-1]

    kept = []
    episodes = anyio.run(Rollout(make=make, policy=Dying(), retries=1, on_episode=kept.append).run, [Job("addict-003")])
    assert [e.status for e in kept] == ["invalid", "valid"] and kept[0].culprit == "infra" and "exit code" in kept[0].fault
    assert kept[0].total == 0 and kept[0].terms == [] and episodes[0].verdicts["resolved"].value == 0.0


def test_a_failed_grading_is_invalid_and_never_a_zero(monkeypatch):
    env = swe("mend", "bwrap", "test")
    from agentgym_verifiers.rules import unit_tests

    def broken(*_):
        raise SandboxFault("no place for another sandbox")

    monkeypatch.setattr(unit_tests, "start", broken)
    env.deferred = True
    play(env, "addict-003", [call("submit")])
    from agentgym.core import EpisodeView
    from agentgym.grading import grade

    verdict = grade(env.verifiers, EpisodeView(env.task, env.episode, env.artefacts))["resolved"]
    assert verdict.status == "invalid" and verdict.culprit == "infra" and verdict.value is None
    env.close()


def test_rewards_tell_completion_modification_and_resolution_apart():
    env = swe("mend", "bwrap", "test", reward="stepwise")
    wrong = [call("view", path="addict/addict.py"), call("bash", command="echo '# x' >> addict/addict.py"), call("run_tests"), call("submit")]
    farmed = play(env, "addict-003", wrong)
    assert 0 < farmed < 1
    gated = swe("mend", "bwrap", "test", reward="gated")
    assert play(gated, "addict-003", wrong) == 0.0
    assert play(gated, "addict-003", lambda e: e.oracle()) > 1.0
    potential = swe("mend", "bwrap", "test", reward="potential")
    assert abs(play(potential, "addict-003", wrong)) < 1e-9
    assert not env.reward.lacking(env.episode)
    [e.close() for e in (env, gated, potential)]


# Improving a training script


@pytest.mark.parametrize("family", ["ring", "codes"])
def test_fit_is_scored_on_labels_that_were_never_there(family):
    env = swe("fit", "bwrap")
    task = f"{family}-sklearn-8"
    assert play(env, task, lambda e: e.oracle()) == 1.0 and env.episode.success
    assert play(env, task, [call("run_script"), call("submit")]) == 0.0
    labels = table(family, 8).labels
    env.reset(options={"task": task})
    rows = env.workspace.sandbox.exec("cat data/test.csv").output.split()
    assert len(rows) == 1 + len(labels) and not env.workspace.sandbox.exec("ls data | grep -v -e train -e test").output
    env.close()


@pytest.mark.parametrize(
    "body",
    ["import os; os._exit(0)", "while True: pass", "open('predictions.csv','w').write('nan\\n'*600)", "open('predictions.csv','w').write('1e309\\n'*600)", "open('predictions.csv','w').write('1\\n'*599)",
     "open('predictions.csv','wb').write(b'\\xff\\xfe')", "open('predictions.csv','w').write('1'*30_000_000)", "import os; os.symlink('/etc/passwd','predictions.csv')", "open('predictions.csv','w').write('true\\n'*600)"],
)  # fmt: skip
def test_8_predictions_that_are_none_score_nothing(body, monkeypatch):
    monkeypatch.setattr(fit, "BUDGET_S", 2.0)
    env = swe("fit", "bwrap")
    script = call("bash", command=f"cat > train.py <<'END'\n{body}\nEND")
    assert play(env, "ring-numpy-8", [script, call("submit")]) == 0.0
    assert env.episode.verdicts["score"].status == "scored" and env.episode.verdicts["score"].evidence["why"]
    env.close()


@pytest.mark.parametrize("load, tried", [(0.0, 1), (1e9, 2)])
def test_training_that_a_busy_machine_made_late_is_tried_again_with_twice_the_time(monkeypatch, load, tried):
    seen, real = [], fit.hidden_score

    def late(task, sandbox, seconds=fit.BUDGET_S):
        seen.append(seconds)
        return (None, fit.TOO_LONG) if len(seen) == 1 else real(task, sandbox, seconds)

    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(fit, "hidden_score", late)
    env = swe("fit", "bwrap")
    reward = play(env, "ring-numpy-8", lambda env: env.oracle())
    assert seen == [fit.BUDGET_S, 2 * fit.BUDGET_S][:tried] and (reward > 0.9) is (tried == 2)


def test_fit_tables_are_the_same_everywhere_and_splits_share_no_seed():
    assert len(fit.tasks_of("train")) == FIT.splits["train"] and len(FAMILIES) * 2 >= 20
    assert table("gaps", 3) is table("gaps", 3) and (table("gaps", 3).train[:, 2] != table("gaps", 4).train[:, 2]).any()
    seeds = [set(s) for s in fit.SEEDS.values()]
    assert not seeds[0] & seeds[1] and not seeds[1] & seeds[2] and not seeds[0] & seeds[2]
    assert all(low < high for low, high in fit.ranges().values())


# Rows of benchmarks


@both
def test_bench_rows_are_played_from_a_bundle_without_their_history(kind):
    env = swe("bench", kind)
    assert len(env.taskset) == BENCH.splits["test"]
    task = env.taskset.ids()[0]
    assert play(env, task, lambda e: e.oracle()) == 1.0
    assert play(env, task, [call("submit")]) == 0.0
    env.reset(options={"task": task})
    said = env.step(
        call(
            "bash",
            command="git log --all --oneline | wc -l; git stash list; git tag; git remote; git fsck --lost-found; git cat-file --batch-all-objects --batch-check | grep -c commit",
        )
    )[0]
    assert said.split() == ["1", "1"] or said.split()[-1] == "1"
    gold = [line[1:].strip() for line in bench.row_of(env.task).patch.splitlines() if line.startswith("+") and not line.startswith("+++") and len(line) > 12]
    found = env.step(call("bash", command=f"git rev-list --all --objects | cut -d' ' -f1 | git cat-file --batch | grep -cF {gold[0]!r}; true"))[0]
    assert gold and found.split()[0] == "0"
    env.close()


def test_bench_rows_may_name_an_image_with_the_repository_in_it(tmp_path):
    need("docker")
    from agentgym.sandbox.docker import engine

    (tmp_path / "Dockerfile").write_text(
        "FROM agentgym/swe\nRUN mkdir /testbed && cd /testbed && git init -q . && git config user.email a@b && git config user.name a && "
        "printf 'def f():\\n    return 2\\n' > lib.py && git add -A && git commit -q -m 'the answer' && printf 'def f():\\n    return 1\\n' > lib.py && git commit -qam base\n"
    )
    subprocess.run(["docker", "build", "-q", "-t", "agentgym-test/row", str(tmp_path)], check=True, capture_output=True)
    row = {
        "instance_id": "row-1", "repo": "a/b", "base_commit": "abcdef0", "image": "agentgym-test/row", "problem_statement": "f must be 2", "FAIL_TO_PASS": ["test_f.py::test_f"], "PASS_TO_PASS": [],
        "patch": "--- a/lib.py\n+++ b/lib.py\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n", "test_patch": "--- /dev/null\n+++ b/test_f.py\n@@ -0,0 +1,3 @@\n+import lib\n+\n+def test_f(): assert lib.f() == 2\n",
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    env = swe("bench", "docker", rows=str(tmp_path / "rows.jsonl"))
    assert play(env, "row-1", lambda e: e.oracle()) == 1.0
    planted = [call("bash", command="echo 'def test_f(): pass' > test_f.py"), call("submit")]
    assert play(env, "row-1", planted) <= 0.0 and env.episode.verdicts["resolved"].status == "tampered"
    env.reset(options={"task": "row-1"})
    assert "answer" not in env.step(call("bash", command="git log --all; pwd; ls -la /testbed"))[0]
    env.close()
    with pytest.raises(UsageError, match="sandbox docker"):
        swe("bench", "bwrap", rows=str(tmp_path / "rows.jsonl")).reset(options={"task": "row-1"})
    engine().remove_image("agentgym-test/row", force=True)


GOOD = {"instance_id": "a-1", "repo": "o/n", "base_commit": "0123456789", "patch": "", "test_patch": "", "FAIL_TO_PASS": "[]", "PASS_TO_PASS": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"patch": None}, "row 2"), ({"repo": "../../x"}, "no name"), ({"base_commit": "--upload-pack=x"}, "no commit"), ({"instance_id": "a-1"}, "twice"), ({"instance_id": "../a"}, "no name"),
     ({"FAIL_TO_PASS": "[1]"}, "row 2"), ({"patch": "--- a/../../etc/x\n+++ b/../../etc/x\n"}, "may not touch"), ({"problem_statement": "x" * 200_000}, "characters"), ({"test_patch": "+++ /etc/passwd\n"}, "may not touch")],
)  # fmt: skip
def test_28_bad_rows_are_refused_with_their_line(tmp_path, change, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "instance_id": "a-2", **change}) + "\n")
    with pytest.raises(UsageError, match=words):
        agentgym.make("swe/bench", split="test", rows=str(path))


def test_28_files_that_are_no_rows_and_mirrors_that_are_not_there(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    for path in ("bad.jsonl", "none.jsonl"):
        with pytest.raises(UsageError, match=path):
            agentgym.make("swe/bench", split="test", rows=str(tmp_path / path))
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD))
    env = agentgym.make("swe/bench", split="test", rows=str(tmp_path / "rows.jsonl"))
    with pytest.raises(MissingExtra, match="git clone --mirror"):
        env.reset(options={"task": "a-1"})


def test_28_a_hundred_thousand_rows_are_read_lazily(tmp_path):
    line = msgspec.json.encode(GOOD)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(line.replace(b"a-1", f"a-{i}".encode()) + b"\n" for i in range(100_000)))
    env = agentgym.make("swe/bench", split="test", rows=str(tmp_path / "rows.jsonl"))
    assert len(env.taskset) == 100_000 and env.taskset.get("a-99999").id == "a-99999"


def test_28_an_archive_cannot_write_outside(tmp_path, monkeypatch):
    import io
    import tarfile

    monkeypatch.setattr(libraries, "home", lambda: tmp_path)
    library = libraries.libraries()["addict"]
    (tmp_path / "libraries").mkdir()
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        for name, kind in (("p/../../../escaped.py", tarfile.REGTYPE), ("p/link", tarfile.SYMTYPE), ("p/fine.py", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"x\n"))
    with pytest.raises(Exception, match=r"outside|escaped"):
        libraries._unpack(library, tmp_path / "x.tar.gz")
    assert not list(tmp_path.parent.glob("escaped.py"))


@pytest.mark.extra
@both
def test_check_passes_on_forty_tasks(kind):
    need(kind)
    from agentgym.checks import check

    report = check("swe/mend", 14, options={"sandbox": kind})
    assert report.passed, [c for c in report.checks if c.status == "fail"]
    assert report.oracle.success == 1.0 and report.noop.success == 0.0


@pytest.mark.extra
def test_check_passes_on_fit_and_bench():
    need("bwrap")
    from agentgym.checks import check

    for env, tasks in (("swe/fit", 2), ("swe/bench", 4)):
        report = check(env, tasks)
        assert report.passed, [c for c in report.checks if c.status == "fail"]


def test_the_oracle_policy_runs_through_the_rollout_deferred():
    make = lambda: swe("mend", "bwrap", "test")  # noqa: E731
    episodes = anyio.run(Rollout(make=make, policy=resolve("oracle"), grade="deferred", concurrency=2).run, [Job("addict-001"), Job("addict-002")])
    assert all(e.success for e in episodes)
