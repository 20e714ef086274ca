"""Rollouts: faults are retried in fresh environments and never become rewards; budgets end an episode cleanly."""

import threading
import time

import anyio
import pytest
from worlds import Judge, Says, World

from agentgym.budget import Bounds, Meter, Prices
from agentgym.core import Capabilities, Completion, Limits, Tokens, Verdict
from agentgym.episode import EpisodeStore, read_episodes
from agentgym.errors import ContextOverflow, PolicyFault
from agentgym.rollout import Job, Keep, Rollout


def play(rollout: Rollout, *tasks: str):
    return anyio.run(rollout.run, [Job(t) for t in tasks])


def test_many_environments_one_policy_in_the_order_of_the_jobs():
    tasks = [f"t.{i % 6}" for i in range(40)]
    episodes = play(Rollout(make=World, policy=Says(), concurrency=7), *tasks)
    assert [e.task for e in episodes] == tasks
    assert all(e.success and len(e.turns) == int(e.task[2:]) + 1 for e in episodes)


def test_a_fault_is_retried_in_a_fresh_environment_and_every_attempt_is_kept(tmp_path):
    made = []

    class Fragile(World):
        faults = [1, 1]

        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    with EpisodeStore(tmp_path / "e.jsonl") as store:
        (episode,) = play(Rollout(make=Fragile, policy=Says(), concurrency=1, retries=2, keep=Keep(store)), "t.1")
    kept = list(read_episodes(tmp_path / "e.jsonl"))
    assert len(made) == 3 and episode.success and episode.retry == 2
    assert [(e.id, e.status, e.culprit) for e in kept] == [("t.1#0", "invalid", "env"), ("t.1#0.r1", "invalid", "env"), ("t.1#0.r2", "valid", None)]
    assert all(not e.terms and e.fault == "the container died" and len(e.turns) == 1 for e in kept[:2])


def test_beyond_the_retry_budget_an_episode_stays_invalid_and_the_others_go_on():
    class Fragile(World):
        def _advance(self, action):
            if self.task.id == "t.2":
                raise RuntimeError("a bug of the environment's own")
            return super()._advance(action)

    episodes = play(Rollout(make=Fragile, policy=Says(), retries=1), "t.1", "t.2", "t.3")
    assert [e.status for e in episodes] == ["valid", "invalid", "valid"]
    assert episodes[1].culprit == "env" and "RuntimeError" in episodes[1].fault and episodes[1].total == 0 and not episodes[1].terms


def test_an_invalid_outcome_is_the_verifiers_fault():
    class Unsure(World):
        verifiers = {"task": Judge(lambda view: Verdict.invalid("cannot tell"))}

    (episode,) = play(Rollout(make=Unsure, policy=Says(), retries=0), "t.0")
    assert (episode.status, episode.culprit, episode.terms) == ("invalid", "verifier", [])


def test_a_policy_whose_endpoint_fails_is_infrastructure():
    class Down(Says):
        async def act(self, conversation):
            raise PolicyFault("no answer")

    (episode,) = play(Rollout(make=World, policy=Down(), retries=1), "t.0")
    assert (episode.status, episode.culprit) == ("invalid", "infra")


def test_a_prompt_longer_than_the_context_is_a_clean_stop():
    class Small(Says):
        async def act(self, conversation):
            if len(conversation.messages) > 3:
                raise ContextOverflow("full")
            return Completion("go")

    (episode,) = play(Rollout(make=World, policy=Small()), "t.4")
    assert (episode.status, episode.stop_reason) == ("valid", "context_overflow") and len(episode.turns) == 3
    assert episode.verdicts["task"].status == "scored"


def counted(n: int, finish: str) -> Says:
    return Says("go", tokens=Tokens([1] * n, [1] * n, [-1.0] * n), finish=finish)


def test_a_token_budget_reached_inside_a_call_keeps_the_episode_and_does_not_run_the_call():
    (episode,) = play(Rollout(make=World, policy=counted(10, "length"), max_tokens=50, bounds=Bounds(tokens=10)), "t.4")
    assert (episode.status, episode.stop_reason) == ("valid", "max_tokens")
    assert len(episode.turns) == 1 and episode.turns[0].problem.startswith("not executed") and len(episode.turns[0].tokens.ids) == 10


def test_a_spent_budget_ends_the_episode_before_the_next_action():
    (episode,) = play(Rollout(make=World, policy=counted(10, "stop"), bounds=Bounds(tokens=20)), "t.4")
    assert episode.stop_reason == "max_tokens" and sum(len(t.tokens.ids) for t in episode.turns if t.tokens) == 20


def test_an_action_cut_by_its_own_limit_is_played_as_it_is():
    (episode,) = play(Rollout(make=World, policy=counted(5, "length"), max_tokens=5), "t.2")
    assert episode.stop_reason == "done"


def test_a_context_that_fills_while_writing_is_an_overflow():
    (episode,) = play(Rollout(make=World, policy=counted(3, "length"), max_tokens=5), "t.2")
    assert episode.stop_reason == "context_overflow"


def test_the_limits_of_a_task_bound_its_tokens():
    class Tight(World):
        given = Limits(max_tokens=10)

    (episode,) = play(Rollout(make=Tight, policy=counted(10, "stop")), "t.4")
    assert episode.stop_reason == "max_tokens"


def test_environments_that_block_are_stepped_on_threads():
    seen, inside, most = set(), [], []

    class Slow(World):
        capabilities = Capabilities(blocking=True)

        def _advance(self, action):
            seen.add(threading.current_thread().name)
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.2)
            inside.pop()
            return super()._advance(action)

    play(Rollout(make=Slow, policy=Says(), concurrency=8), *["t.0"] * 8)
    assert threading.main_thread().name not in seen and max(most) > 2


def test_a_policy_sees_messages_and_nothing_else():
    asked = []

    class Spy(Says):
        async def act(self, conversation):
            asked.append(conversation)
            return await super().act(conversation)

    play(Rollout(make=World, policy=Spy()), "t.2")
    assert [m["role"] for m in asked[-1].messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in asked[-1].messages] == ["Say go 3 times.", "go", "turn 1 of t.2", "go", "turn 2 of t.2"]


@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_the_result_does_not_depend_on_the_number_of_workers(concurrency):
    from agentgym.policies import resolve
    from agentgym.registry import make

    rollout = Rollout(make=lambda: make("tools/desk", split="dev"), policy=resolve("random"), concurrency=concurrency)
    ids = make("tools/desk", split="dev").taskset.ids()[:12]
    episodes = anyio.run(rollout.run, [Job(t, seed=i) for i, t in enumerate(ids)])
    again = anyio.run(rollout.run, [Job(t, seed=i) for i, t in enumerate(ids)])
    assert [[t.state_hash for t in e.turns] for e in episodes] == [[t.state_hash for t in e.turns] for e in again]


def test_an_asynchronous_environment_is_awaited_and_its_waits_overlap():
    inside, most = [], []

    class Async(World):
        async def astep(self, action):
            inside.append(1)
            most.append(len(inside))
            await anyio.sleep(0.2)
            inside.pop()
            return self.step(action)

    episodes = play(Rollout(make=Async, policy=Says(), concurrency=8), *["t.1"] * 8)
    assert all(e.success for e in episodes) and max(most) == 8
    assert all(t.duration_s >= 0.2 for e in episodes for t in e.turns)  # its waits are its working time


class Clock(Says):
    async def act(self, conversation):
        await anyio.sleep(0.06)
        return await super().act(conversation)


def test_working_time_ends_an_episode_and_it_is_still_graded():
    (episode,) = play(Rollout(make=World, policy=Clock(), bounds=Bounds(seconds=0.1)), "t.5")
    assert (episode.status, episode.stop_reason) == ("valid", "timeout") and 2 <= len(episode.turns) <= 3
    assert episode.verdicts["task"].status == "scored"


def test_a_policy_that_hangs_is_cut_at_the_bound():
    class Hangs(Says):
        async def act(self, conversation):
            await anyio.sleep(3600)

    (episode,) = play(Rollout(make=World, policy=Hangs(), bounds=Bounds(seconds=0.1)), "t.5")
    assert (episode.status, episode.stop_reason) == ("valid", "timeout")


def test_waiting_to_ask_again_is_no_working_time():
    class Waits(Says):
        async def act(self, conversation):
            return Completion("go", waited_s=10.0)

    (episode,) = play(Rollout(make=World, policy=Waits(), bounds=Bounds(seconds=5.0)), "t.3")
    assert episode.stop_reason == "done"


def test_grading_is_no_working_time():
    def slow(view):
        time.sleep(0.4)
        return Verdict.scored(1.0)

    class Slow(World):
        verifiers = {"task": Judge(slow)}

    (episode,) = play(Rollout(make=Slow, policy=Says("go")), "t.1")
    assert episode.success and [t.duration_s < 0.3 for t in episode.turns] == [True, True] and all(t.duration_s > 0 for t in episode.turns)


def costing(n: int) -> Says:
    return Says("go", usage={"prompt_tokens": 1000, "completion_tokens": n})


def test_cost_is_counted_and_bounds_an_episode():
    prices = Prices(prompt=1.0, completion=10.0)
    (episode,) = play(Rollout(make=World, policy=costing(900), prices=prices, bounds=Bounds(cost=0.025)), "t.5")
    assert episode.stop_reason == "resource_limit" and episode.cost == pytest.approx(0.03) and episode.status == "valid"
    assert [t.usage["completion_tokens"] for t in episode.turns if t.usage] == [900] * 3


def test_a_spent_run_begins_no_further_episode_and_keeps_what_it_has():
    meter = Meter(Bounds(tokens=45))
    episodes = play(Rollout(make=World, policy=counted(10, "stop"), run_meter=meter, concurrency=1), "t.1", "t.1", "t.1", "t.1")
    assert len(episodes) == 3 and all(e.status == "valid" for e in episodes) and meter.tokens == 60


def test_the_turns_of_a_run_are_bounded_too():
    meter = Meter(Bounds(turns=3))
    assert len(play(Rollout(make=World, policy=Says(), run_meter=meter, concurrency=1), "t.1", "t.1", "t.1", "t.1")) == 2 and meter.turns == 4


def test_deferred_grading_gives_the_same_records_and_does_not_hold_up_stepping():
    graded_on, held = set(), []

    class Slow(World):
        verifiers = {
            "task": Judge(lambda view: held.append(view.task.id) or graded_on.add(threading.current_thread().name) or time.sleep(0.15) or Verdict.scored(1.0))
        }

    began = time.perf_counter()
    late = play(Rollout(make=Slow, policy=Says(), grade="deferred", graders=8, concurrency=1), *[f"t.{i % 6}" for i in range(8)])
    took = time.perf_counter() - began
    now = play(Rollout(make=Slow, policy=Says()), *[f"t.{i % 6}" for i in range(8)])
    assert took < 0.9 and threading.main_thread().name not in {n for n in graded_on if n.startswith("Any")}
    assert [(e.id, e.status, e.verdicts, e.terms) for e in late] == [(e.id, e.status, e.verdicts, e.terms) for e in now]


def test_a_grading_that_fails_is_played_again():
    asked = []

    class Once(World):
        verifiers = {"task": Judge(lambda view: Verdict.invalid("gone") if asked.append(1) or len(asked) == 1 else Verdict.scored(1.0))}

    (episode,) = play(Rollout(make=Once, policy=Says(), grade="deferred", retries=1), "t.2")
    assert (episode.status, episode.retry, len(asked)) == ("valid", 1, 2)
    (lost,) = play(
        Rollout(make=type("Never", (World,), {"verifiers": {"task": Judge(lambda v: Verdict.invalid("gone"))}}), policy=Says(), grade="deferred"), "t.2"
    )
    assert (lost.status, lost.culprit, lost.terms, lost.retry) == ("invalid", "verifier", [], 2)


def test_a_full_disk_is_one_error_and_loses_nothing_that_was_acknowledged(tmp_path, monkeypatch):
    from agentgym.errors import RecordError

    told = []
    with EpisodeStore(tmp_path / "e.jsonl") as store:
        write = store._commit

        def full(batch):
            if len(told) >= 3:
                raise RecordError("cannot write: No space left on device")
            write(batch)

        monkeypatch.setattr(store, "_commit", full)
        monkeypatch.setattr("agentgym.rollout.GATHER_S", 0.0)
        rollout = Rollout(make=World, policy=Clock(), keep=Keep(store), concurrency=2, on_episode=lambda e: told.append(e.id))
        with pytest.raises(BaseExceptionGroup) as caught:
            anyio.run(rollout.run, [Job("t.0", attempt=i) for i in range(20)])
    assert caught.group_contains(RecordError, match="No space left")
    assert [e.id for e in read_episodes(tmp_path / "e.jsonl")] == told and len(told) >= 3


def test_a_reset_that_fails_does_not_touch_the_episode_before_it():
    class Stubborn(World):
        resets = 0

        def reset(self, *, seed=None, options=None):
            Stubborn.resets += 1
            if Stubborn.resets == 2:
                raise RuntimeError("the container did not start")
            return super().reset(seed=seed, options=options)

    rollout = Rollout(make=Stubborn, policy=Says(), concurrency=1, retries=0)
    first, second = anyio.run(rollout.run, [Job("t.1", attempt=0), Job("t.1", attempt=1)])
    assert (first.status, first.id, first.success) == ("valid", "t.1#0", True) and (second.status, second.id) == ("invalid", "t.1#1")
