"""Registration: by metadata alone, from plain Gymnasium, and for a third party's package."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import msgspec
import pytest

import agentgym
from agentgym import registry
from agentgym.errors import UnknownName
from agentgym.registry import environment_class, resolve, spec


def python(code: str, **env: str) -> str:
    import os

    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **env}).stdout


def test_importing_the_core_registers_ids_and_imports_no_environment_and_nothing_heavy():
    code = "import agentgym, gymnasium, sys; print('tools/desk-v0' in gymnasium.registry, [m for m in ('agentgym_tools', 'torch', 'scipy', 'pyarrow', 'matplotlib', 'transformers') if m in sys.modules])"
    assert python(code).strip() == "True []"


def test_listing_imports_no_environment_behind_its_spec():
    code = "import sys; from agentgym.cli.main import guarded; guarded(['list', '--json']); print([m for m in ('agentgym_tools.env', 'torch', 'sqlite3') if m in sys.modules])"
    assert python(code).splitlines()[-1] == "[]"


def test_plain_gymnasium_makes_it():
    env = gymnasium.make("agentgym:tools/desk-v0")
    observation, info = env.reset(seed=1)
    assert info["task_id"] and env.observation_space.contains(observation)
    assert python("import gymnasium as gym; print(len(gym.make('agentgym:tools/desk-v0').reset(seed=1)[0]) > 50)").strip() == "True"


def test_ids_with_and_without_version():
    assert resolve("tools/desk") == resolve("tools/desk-v0") == "tools/desk-v0"
    assert environment_class("tools/desk").id == "tools/desk-v0" == spec("tools/desk").id
    assert agentgym.make("tools/desk", split="dev", reward="gated", levels=1).reward_name == "gated"


def test_several_ids_may_share_a_class(monkeypatch):
    desk, known = spec("tools/desk"), registry.resolve
    others = {f"tools/{n}-v0": msgspec.structs.replace(desk, id=f"tools/{n}-v0") for n in ("one", "two")}
    monkeypatch.setattr(registry, "resolve", lambda env_id: env_id if env_id in others else known(env_id))
    monkeypatch.setattr(registry, "spec", lambda env_id: others.get(env_id, desk))
    one, two, plain = (agentgym.make(name) for name in (*others, "tools/desk"))
    assert [e.id for e in (one, two, plain)] == ["tools/one-v0", "tools/two-v0", "tools/desk-v0"]
    one.reset(seed=1)
    assert one.fork(1)[0].episode.env == "tools/one-v0" and type(one) is environment_class("tools/one-v0")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: agentgym.make("tools/dsk"), "nearest: tools/desk-v0"),
        (lambda: agentgym.make("tools/desk-v9"), "unknown environment"),
        (lambda: agentgym.make("tools/desk", reward="gatd"), "nearest: gated"),
        (lambda: agentgym.make("tools/desk", split="tran"), "nearest: train"),
        (lambda: agentgym.make("tools/desk", template="x"), "nearest: templates"),
        (lambda: agentgym.make("tools/desk").reset(options={"tsk": "x"}), "nearest: task"),
    ],
)
def test_unknown_names_say_the_nearest(call, said):
    with pytest.raises(UnknownName, match=said):
        call()


@pytest.fixture(scope="module")
def third_party(tmp_path_factory):
    """A package made by ``agentgym new``, pip-installed outside the tree."""
    folder = tmp_path_factory.mktemp("third")
    subprocess.run([sys.executable, "-m", "agentgym", "new", "my-world", "--out", str(folder)], check=True, capture_output=True)
    site = folder / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(folder / "my-world")], check=True, capture_output=True
    )
    return folder, str(site)


def agentgym_json(third_party, *words: str):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "agentgym", *words, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": third_party[1]},
        cwd=third_party[0],
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


def test_a_third_partys_environment_is_listed_made_and_checked(third_party):
    row = next(r for r in agentgym_json(third_party, "list") if r["id"] == "my-world/count-v0")
    assert row["available"] and row["package"] == "agentgym_my_world"
    report = agentgym_json(third_party, "check", "my-world/count-v0", "--tasks", "10")
    assert report["passed"] and report["oracle"]["success"] == 1.0 and report["noop"]["success"] == 0.0
    code = "import gymnasium as gym; print(gym.make('agentgym:my-world/count-v0').reset(seed=1)[0])"
    assert "Bring it to" in python(code, PYTHONPATH=third_party[1])


def test_a_third_partys_environment_is_trained_on_with_no_core_file_touched(third_party):
    words = [
        "train",
        "--env",
        "my-world/count",
        "--warm-steps",
        "60",
        "--steps",
        "2",
        "--groups",
        "4",
        "--group-size",
        "4",
        "--eval-tasks",
        "10",
        "--reward",
        "stepwise",
        "--out",
        "run",
    ]
    result = agentgym_json(third_party, *words)
    assert result["env"] == "my-world/count-v0" and result["steps"] == 2 and result["tokens_generated"] > 0


def test_its_own_tests_pass(third_party):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(third_party[0] / "my-world" / "tests")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": third_party[1]},
    )
    assert done.returncode == 0, done.stdout


def test_the_core_works_on_the_newest_gymnasium_too():
    newest = Path(sys.prefix) / "gymnasium-newest"
    code = """
import gymnasium, agentgym
from agentgym.checks import check
report = check("tools/desk-v0", tasks=2)
vector = agentgym.make_vec("tools/desk", 2)
print(gymnasium.__version__, report.passed, len(vector.reset(seed=1)[0]), [c for c in report.checks if c.status == "fail"])
"""
    said = python(code, PYTHONPATH=str(newest))
    assert said.split()[:3] == ["1.4.0", "True", "2"], said
    assert python("import gymnasium; print(gymnasium.__version__)").strip() == "1.2.0"
