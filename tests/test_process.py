"""Critics before the act: what is judged bad does not touch the world; and the best of several candidates."""

import anyio
import msgspec
import pytest
from agentgym_verifiers.process import Asked, Careful, critiqued

import agentgym
from agentgym.core import Completion, Conversation, Verdict
from agentgym.errors import PolicyFault, UnknownName, UsageError
from agentgym.messages import call
from agentgym.policies import resolve
from agentgym.policies.search import Guided, Proposal
from agentgym.registry import environment_class


class Against(msgspec.Struct, frozen=True):
    """Against one tool."""

    tool: str = "answer"

    def __call__(self, proposals):
        return [msgspec.structs.replace(Verdict.scored(float(f'"{self.tool}"' not in p.action)), critique="try something else") for p in proposals]


def shop(mode, critic="careful"):
    env = agentgym.make("web/shop", critic=critic, critic_mode=mode)
    env.reset(options={"task": "buy-one.train.1"})
    return env


def test_an_irreversible_action_judged_bad_leaves_the_world_as_it_is_and_the_suggestion_is_the_observation():
    for mode in ("block", "suggest", "log"):
        env = shop(mode)
        held = 0
        for action in env.oracle():
            before = env._state, env.world.artefact()
            seen = env.step(action)[0]
            told = env.episode.turns[-1].facts["critic"]
            if told["held"]:
                held += 1
                assert (env._state, env.world.artefact()) == before and "cannot be undone" in seen
                again = env.step(action)[0]
                assert ("not done" in again) == (mode == "block")
        assert held == (mode != "log")
        assert env.episode.success == (mode != "block")
        env.close()


def test_logged_is_as_if_nobody_had_judged():
    seen = []
    for options in ({}, {"critic": "careful", "critic_mode": "log"}):
        env = agentgym.make("web/shop", reward="stepwise", **options)
        told = [env.reset(options={"task": "cancel-order.train.0"})[1]["state_hash"]]
        for action in env.oracle():
            observation, reward, *_, info = env.step(action)
            told += [observation, reward, info["state_hash"], info["anchor"]]
        seen.append(told)
        values = [t.facts["critic"]["value"] for t in env.episode.turns] if options else [0.0]
        assert 0.0 in values
        env.close()
    assert seen[0] == seen[1]


def test_what_was_asked_for_is_not_held_back():
    env = shop("block", "asked")
    for action in env.oracle():
        env.step(action)
    assert env.episode.success
    env.close()
    words = [{"role": "user", "content": "What would it cost? Answer, and do nothing else."}]
    (verdict,) = Asked()([Proposal(words, "click 3", {"irreversible": "pay"})])
    assert verdict.value == 0.0 and "nobody asked you to pay" in verdict.critique
    assert Careful()([Proposal(words, "click 3", {})])[0].value == 1.0


def test_any_environment_can_be_judged_forks_too_and_a_critic_that_fails_is_no_reward():
    env = critiqued(environment_class("tools/desk-v0"))(critic=Against("list_mail"), split="train")
    env.reset(seed=0)
    state, first = env._shown.state, call("list_mail")
    assert "not done: try something else" in env.step(first)[0] and env._shown.state == state
    assert "not done" in env.fork(1)[0].step(first)[0]
    broken = critiqued(environment_class("tools/desk-v0"))(critic=lambda proposals: [Verdict.invalid("no answer from the judge")])
    broken.reset(seed=0)
    with pytest.raises(Exception, match="no answer from the judge"):
        broken.step(first)
    with pytest.raises(UsageError, match="block, suggest or log"):
        agentgym.make("web/shop", critic="careful", critic_mode="stop")
    with pytest.raises(UnknownName, match="careful"):
        agentgym.make("web/shop", critic="carefull")


class Scripted:
    """Says the next of its lines, whatever was asked."""

    name = "scripted"

    def __init__(self, *lines):
        self.lines = list(lines)

    async def act(self, conversation):
        return Completion(self.lines[conversation.seed % 1009 % len(self.lines)], usage={"completion_tokens": 3})


def test_the_best_of_several_candidates_by_a_critic():
    guided = Guided(Scripted(call("answer", text="x"), call("read_mail", id=1), call("answer", text="y")), Against(), k=3)
    done = anyio.run(guided.act, Conversation("c", [], seed=0))
    assert "read_mail" in done.action and done.usage == {"completion_tokens": 9}
    with pytest.raises(PolicyFault, match="no verdict"):
        anyio.run(Guided(Scripted("a"), lambda ps: [Verdict.invalid("down") for _ in ps], k=2).act, Conversation("c", []))
    assert resolve("guided:2/careful/random").name == "guided:2/random"
    for text in ("guided", "guided:x/careful/random", "guided:0/careful/random"):
        with pytest.raises(UsageError):
            resolve(text)


def test_guided_hears_what_the_environment_says_of_a_candidate():
    env = agentgym.make("web/shop")
    env.reset(options={"task": "cancel-order.train.0"})
    env.step(next(env.oracle()))
    risky = next(line for line in env._seen["seen"].split("\n") if "irreversible" in line)
    click = call("click", element=int(risky.split("]")[0].strip(" [")))
    assert env.consequences(click) == {"irreversible": "cancel"} and env.consequences("wait") == {}
    guided = Guided(Scripted(click, "scroll 100"), Careful(), k=2).attach(env)
    assert anyio.run(guided.act, Conversation("c", [], seed=0)).action == "scroll 100"
    env.close()
