"""Rewards written by a model: what is refused before it runs, what a sandbox stops, and that true success alone chooses."""

import json

import anyio
import pytest
from agentgym_verifiers.design import Field, Found, Refused, Written, by_choice, by_ranking, by_training, criticise, describe, dry_run, save, search, weights_in
from agentgym_verifiers.design.code import arguments_of, prompt_of
from agentgym_verifiers.design.search import code_in
from scripted import Model, episode, view

import agentgym
from agentgym.cli.main import guarded as main
from agentgym.episode import encode
from agentgym.errors import Fault, PolicyFault, UsageError
from agentgym.evaluation.verifiers import view_of
from agentgym.policies import resolve

FIELDS = [Field("action", "str", "what was written"), Field("seen", "str", "what came of it"), Field("turn", "int", "its number")]
GOOD = "def reward(action, seen, turn):\n    return 1.0 if 'closed' in seen else -0.1 * min(turn, 3)"
BAD = "def reward(action, seen, turn):\n    return 1.0 if 'error' in seen else 0.0"


def pool():
    out = []
    for i in range(6):
        out.append(episode(["close it"], id=f"{i}g", task=f"t{i}", answers=["closed 42"], success=True))
        out += [episode(["say done"], id=f"{i}b{k}", task=f"t{i}", answers=["error: no"], success=False) for k in range(3)]
    return out


@pytest.mark.parametrize(
    "code, why",
    [
        ("import os\ndef reward(action, seen, turn):\n    return 0", "one function"),
        ("def reward(action, seen, turn):\n    import os\n    return 0", "Import"),
        ("def reward(action, seen, turn):\n    while True:\n        pass", "While"),
        ("def reward(action, seen, turn):\n    return oracle(action)", "not described"),
        ("def reward(action, seen, turn):\n    return task_done", "not described"),
        ("def reward(action, seen):\n    return 0", "it has action, seen"),
        ("def reward(action, seen, turn=3):\n    return 0", "without defaults"),
        ("def reward(action, seen, turn):\n    return action.__class__", "may not be used"),
        ("def reward(action, seen, turn):\n    return open('/etc/passwd')", "not described"),
        ("def reward(action, seen, turn):\n    return 9 ** 99", "powers"),
        ("def reward(action, seen, turn):\n    return 9 ** turn", "powers"),
        ("def reward(action, seen, turn):\n    return 9 ** 'x'", "powers"),
        ("def reward(action, seen, turn):\n    turn **= 99\n    return turn", "powers"),
        ("def reward(action, seen, turn):\n    return 1e12", "too large"),
        ("def reward(action, seen, turn):\n    f = lambda: 0\n    return 0", "Lambda"),
        ("def reward(action, seen, turn):\n    try:\n        return 0\n    except Exception:\n        return 1", "Try"),
        ("def reward(action, seen, turn) return 0", "no Python"),
        ("x" * 9000, "characters"),
    ],
)
def test_the_static_critic_refuses_with_a_reason(code, why):
    with pytest.raises(Refused, match=why):
        criticise(code, FIELDS)


@pytest.mark.parametrize(
    "code, why",
    [
        (
            "def reward(action, seen, turn):\n    return [i for i in range(999999) for j in range(999999) for k in range(9999)]",
            "did not end|out of memory|code",
        ),
        ("def reward(action, seen, turn):\n    return int(action)", "ValueError"),
        ("def reward(action, seen, turn):\n    return 'much'", "no reward"),
        ("def reward(action, seen, turn):\n    return 1 / turn", "ZeroDivision"),
        ("def reward(action, seen, turn):\n    return True", "no reward"),
        ("def reward(action, seen, turn):\n    return 5000", "no reward"),
    ],
)
def test_the_dry_run_refuses_what_raises_never_ends_or_gives_no_number(code, why):
    with pytest.raises(Refused, match=why):
        dry_run(code, FIELDS, pool()[:2], seconds=2)


def test_a_written_reward_runs_in_a_sandbox_and_is_a_source_by_name(tmp_path):
    assert dry_run(GOOD, FIELDS, pool()[:2]) == [[1.0], [0.0]]
    save(tmp_path / "r.json", GOOD, FIELDS)
    found = anyio.run(Written(str(tmp_path / "r.json")).judge, [view(["x"], answers=["closed"]), view(["x", "y"])], resolve("noop"))
    assert [[v.value for v in row] for row in found] == [[1.0], [0.0, -0.1]]
    broken = Written(code="def reward(action, seen, turn):\n    return 1 / turn", fields=FIELDS)
    assert {v.status for row in anyio.run(broken.judge, [view(["x"])], resolve("noop")) for v in row} == {"invalid"}
    once = Written(code="def reward(action, seen, turn):\n    return float(len(action)) / (len(action) - 1)", fields=FIELDS)
    one, other = anyio.run(once.judge, [view(["x"]), view(["xy"])], resolve("noop"))
    assert one[0].status == "invalid" and "ZeroDivision" in one[0].critique and other[0].value == 2.0  # what fails on one says nothing of another
    for wrong in ("", str(tmp_path / "none.json")):
        with pytest.raises(UsageError):
            Written(wrong)


def test_a_designer_that_fails_costs_its_candidate_alone():
    def designer(text, c):
        if c.id.endswith("-0"):
            raise PolicyFault("the endpoint is down")
        return GOOD

    found = anyio.run(lambda: search(Model(designer), FIELDS, "close tickets", pool(), by_choice(pool()), generations=1, candidates=2))
    assert "not written: the endpoint is down" in found.candidates[0].why and found.winner.code == GOOD


def test_fitness_by_a_training_run_is_held_out_success(tmp_path):
    env = agentgym.make("tools/desk", split="dev")
    env.reset(seed=1, options={"task": "close_by_title.dev.0"})
    fields = describe(env, [env.episode])
    code = f"def reward({', '.join(f.name for f in fields)}):\n    return 0.1 if calls else 0.0"
    train = [
        "--env",
        "tools/desk",
        "--model",
        "tiny",
        "--warm-steps",
        "2",
        "--steps",
        "1",
        "--groups",
        "1",
        "--group-size",
        "2",
        "--eval-tasks",
        "2",
        "--context",
        "2048",
    ]
    fitness, told = anyio.run(by_training(train, fields), code, [])
    assert 0.0 <= fitness <= 1.0 and "Training with it took held-out success from" in told
    with pytest.raises(Fault, match="training failed"):
        anyio.run(by_training(["--env", "no/such"], fields), code, [])


def test_the_view_of_an_environment_names_facts_with_types_and_no_outcome():
    env = agentgym.make("tools/desk", split="dev")
    env.reset(seed=1, options={"task": "close_by_title.dev.0"})
    for action in env.oracle():
        env.step(action)
    fields = describe(env, [env.episode])
    names = {f.name: f.type for f in fields}
    assert names["action"] == "str" and names["verdict_progress"] == "float" and not any(n in names for n in ("verdict_task", "success"))
    rows = arguments_of(env.episode, fields)
    assert len(rows) == len(env.episode.turns) and set(rows[0]) == set(names) and "close_by_title" not in prompt_of(fields, "an office desk")


def test_fitness_is_true_success_and_the_best_never_falls():
    """The designer's second reward pays errors: its own sums are higher, its fitness is not."""
    codes = iter([BAD, "no code at all", GOOD, BAD.replace("1.0", "90.0")])
    model = Model(lambda text, c: f"```python\n{next(codes)}\n```")
    found: Found = anyio.run(lambda: search(model, FIELDS, "close tickets", pool(), by_choice(pool()), generations=2, candidates=2))
    fitness = [c.fitness for c in found.candidates]
    assert fitness[0] == 0.0 and fitness[1] is None and fitness[2] == 1.0 and fitness[3] == 0.0 and found.asked == 4
    assert found.best == [0.0, 1.0] and found.winner.code == GOOD and "refused" in found.candidates[1].why
    told = model.asked[-1].messages[0]["content"]
    assert "The best so far has true success 0.000" in told and "refused: it is no Python" in told  # what came of the first round
    assert len(found.candidates) == 4 and all(c.code for c in found.candidates)  # every round's code is kept


def test_a_ranker_sees_episodes_and_no_code_and_is_counted():
    views, seen, found = [view_of(e) for e in pool()], [], Found([], [])

    async def ranker(shown):
        seen.extend(shown)
        return [float(v.episode.success) for v in shown]

    fitness = by_ranking(views, ranker, found)
    good, bad = (anyio.run(fitness, code, dry_run(code, FIELDS, pool())) for code in (GOOD, BAD))
    assert good[0] == 1.0 and bad[0] == 0.0 and found.ranked == 12 and len(seen) == 12 and all(hasattr(v, "episode") for v in seen)


def test_weights_of_declared_components_and_nothing_else():
    known = ["step('progress')", "outcome('task')"]
    spec = weights_in("""I choose {"step('progress')": 0.5, "outcome('task')": 1}""", known)
    assert str(spec) == str(weights_in("""{"outcome('task')": 1.0, "step('progress')": 0.5}""", known))
    for wrong in ("{\"step('other')\": 1}", "{}", "none", "{\"outcome('task')\": 99}", '{"outcome(\'task\')": "x"}'):
        with pytest.raises(Refused):
            weights_in(wrong, known)
    assert code_in("text\n```python\na\n```\n```\nb\n```") == "b" and code_in(" c ") == "c"


def test_new_reward_from_the_command_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "episodes.jsonl").write_bytes(b"".join(map(encode, pool())))
    import agentgym_verifiers.design.command as command

    def writer(text, c):
        names = [line.split(":")[0].strip() for line in text.splitlines() if line.startswith("    ") and ":" in line]
        return f"def reward({', '.join(names)}):\n    return 1.0 if 'closed' in seen else 0.0"

    monkeypatch.setattr(command, "resolve", lambda name, **settings: Model(writer))
    flags = [
        "new",
        "reward",
        "--env",
        "tools/desk",
        "--policy",
        "x",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--generations",
        "1",
        "--candidates",
        "2",
    ]
    assert main([*flags, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["best"] == [1.0] and (tmp_path / "out" / "reward.json").exists() and len(said["candidates"]) == 2
    assert main(["eval", "--verifier", f"written:{tmp_path}/out/reward.json", "--on", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"]["mean"] == 1.0
    assert main(["new", "reward", "--env", "tools/desk"]) == 2 and "--policy" in capsys.readouterr().err
    assert main(["new", "reward", "--env", "tools/desk", "--policy", "x", "--data", "/nowhere"]) == 2
