"""``make_vec`` equals single environments, with ragged episode lengths and a reset of its own for each."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from worlds import World

import agentgym
from agentgym.core import Conversation
from agentgym.errors import UsageError
from agentgym.policies.scripted import Random
from agentgym.vector import ProseVectorEnv


def test_ragged_episodes_equal_single_environments_with_next_step_resets():
    n, steps = 5, 40
    vector, singles = ProseVectorEnv([World() for _ in range(n)]), [World() for _ in range(n)]
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, infos = vector.reset(seed=[3, 1, 4, 1, 5])
    expected = [s.reset(seed=k) for s, k in zip(singles, [3, 1, 4, 1, 5], strict=True)]
    assert observations == tuple(o for o, _ in expected)
    ended, lengths = [False] * n, [[0] for _ in range(n)]
    for number in range(steps):
        actions = [f"go{i}" if number % 7 == i else "go" for i in range(n)]
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for i, single in enumerate(singles):
            if ended[i]:
                o, info = single.reset()
                r, te, tr = 0.0, False, False
                lengths[i].append(0)
            else:
                o, r, te, tr, info = single.step(actions[i])
                lengths[i][-1] += 1
            ended[i] = te or tr
            assert (observations[i], rewards[i], terminated[i], truncated[i]) == (o, r, te, tr)
            assert infos["state_hash"][i] == info["state_hash"] and infos["task_id"][i] == info["task_id"]
    assert len({length for each in lengths for length in each}) > 2
    assert vector.observation_space.contains(observations)


def test_desk_in_a_vector_equals_desk_alone():
    ids = agentgym.make("tools/desk").taskset.ids()[:6]
    vector = agentgym.make_vec("tools/desk", 6, reward="stepwise")
    vector.reset(seed=0, options={"task": list(ids)})
    total = np.zeros(6)
    oracles = [e.oracle() for e in vector.envs]
    done = np.zeros(6, dtype=bool)
    while not done.all():
        actions = ["" if done[i] else next(o) for i, o in enumerate(oracles)]
        _, rewards, terminated, truncated, _ = vector.step(actions)
        total += np.where(done, 0, rewards)
        done |= terminated | truncated
    for i, task in enumerate(ids):
        env = agentgym.make("tools/desk", reward="stepwise")
        env.reset(options={"task": task})
        assert total[i] == pytest.approx(sum(env.step(a)[1] for a in env.oracle()))
    vector.close()


def test_wrong_counts_are_refused():
    vector = ProseVectorEnv([World(), World()])
    for wrong in (lambda: vector.reset(seed=[1]), lambda: vector.step(["go"]), lambda: agentgym.make_vec("tools/desk", 0)):
        with pytest.raises(UsageError):
            wrong()


def test_random_policy_is_seeded_by_its_conversation():
    import anyio

    asked = Conversation("c", [{"role": "user", "content": "a b"}], [t.spec for t in agentgym.make("tools/desk").tools.values()], seed=3)
    assert anyio.run(Random().act, asked) == anyio.run(Random().act, asked)
