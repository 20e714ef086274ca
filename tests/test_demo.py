"""The demo's configuration is what its text says; the run itself is in ``make demo`` and ``make test-extra``."""

import tomllib
from pathlib import Path

import agentgym_trainers
import msgspec
import pytest
from agentgym_tools.plan import TEMPLATES
from agentgym_tools.tasks import DEMO, tasks_of
from agentgym_trainers.commands import DemoConfig, demo
from agentgym_trainers.config import TrainConfig

from agentgym import make


def config() -> TrainConfig:
    path = Path(agentgym_trainers.__file__).with_name("demo.toml")
    return msgspec.convert(tomllib.loads(path.read_text()), TrainConfig)


def test_the_demo_trains_on_train_and_is_measured_on_tasks_neither_stage_sees():
    found = config()
    assert tuple(found.option["templates"]) == DEMO and found.split == "train" and found.eval_split == "demo" and found.eval_tasks == 300
    seen = {make("tools/desk", **found.option).taskset.get(t).instruction for t in make("tools/desk", **found.option).taskset.ids()}
    assert not seen & {tasks_of("demo").get(t).instruction for t in tasks_of("demo").ids()}
    assert {TEMPLATES[t].level for t in DEMO} == {1, 2}


@pytest.mark.extra
@pytest.mark.timeout(900)
def test_the_demo_rises_by_twenty_points_with_intervals_apart(tmp_path):
    from agentgym.cli.screen import Screen

    result = demo(DemoConfig(out=str(tmp_path / "demo")), Screen(plain=True)).data
    assert result.after.success.mean - result.before.success.mean >= 0.20 and result.after.success.low > result.before.success.high
    assert result.wall_s < 480 and (tmp_path / "demo" / "report.html").exists()


def test_the_model_that_ships_is_small_and_says_what_it_saw():
    from agentgym_trainers.checkpoint import notes_of

    folder = Path(agentgym_trainers.__file__).with_name("warm")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8_000_000
    made = tomllib.loads(folder.with_name("warm.toml").read_text())
    notes = notes_of(str(folder))
    assert (notes["updates"], notes["distinct_tasks"], notes["episodes_per_update"]) == (made["warm_steps"], made["warm_tasks"], made["warm_batch"])
    assert made["option"]["templates"] == config().option["templates"]


@pytest.mark.extra
def test_the_model_that_ships_is_the_one_that_its_table_makes(tmp_path):
    """By what it can do: bits differ between machines, a percent or two do not matter, another recipe does."""
    from agentgym_trainers.config import SftConfig
    from agentgym_trainers.train import sft

    folder = Path(agentgym_trainers.__file__).with_name("warm")
    table = tomllib.loads(folder.with_name("warm.toml").read_text())
    made = sft(SftConfig(**table, out=str(tmp_path / "made")), lambda *_: None)
    shipped = sft(SftConfig(**{**table, "model": str(folder), "warm_steps": 0}, out=str(tmp_path / "shipped")), lambda *_: None)
    assert abs(made.after.success.mean - shipped.after.success.mean) < 0.08
