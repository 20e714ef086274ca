"""Prime's ``verifiers`` itself, in an environment of its own (``make test-trainers``): its runner plays our tasks, its client samples ids, its traces are stamped.

How far a CPU goes: ``verifiers`` runs whole, over stand-ins for the servers it calls: one that chats, one that samples ids from a model of ours as vLLM's
``/inference/v1/generate`` does. ``prime-rl`` itself is on no index and needs GPUs; it reads the same traces.
"""

import asyncio
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1")
import agentgym_trainers
import torch
from agentgym_trainers.adapters.verifiers import AgentGymEnv, AgentGymEnvConfig, stamp
from agentgym_trainers.model import load_model
from aiohttp import web
from verifiers.v1.clients import ModelContext
from verifiers.v1.configs.client import EvalClientConfig, TrainClientConfig
from verifiers.v1.types import SamplingConfig
from verifiers.v1.utils.loaders import environment_class

import agentgym

MODEL = str(Path(agentgym_trainers.__file__).with_name("warm"))
ID = "agentgym_taskset"


@contextmanager
def serving(**routes):
    """A server on a thread of its own; its address."""
    loop, started, found = asyncio.new_event_loop(), threading.Event(), []

    async def begin():
        app = web.Application()
        for path, handler in routes.items():
            app.router.add_route("*", "/" + path.replace("__", "/"), handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.append(site._server.sockets[0].getsockname()[1])
        started.set()

    def run():
        loop.run_until_complete(begin())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait(20)
    try:
        yield f"http://127.0.0.1:{found[0]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def config(**taskset):
    return AgentGymEnvConfig.model_validate(
        {"taskset": {"id": ID, "env": "tools/desk", "options": {"levels": 1}, "reward": "stepwise", **taskset}, "player": {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}}}
    )  # fmt: skip


def streamed(text):
    """A completion as its stream."""
    parts = [{"delta": {"role": "assistant", "content": text}, "finish_reason": None}, {"delta": {}, "finish_reason": "stop"}]
    lines = [{"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, **p}]} for p in parts]
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    return web.Response(text=body, content_type="text/event-stream")


def play(env, tasks, ctx):
    async def go():
        async with env.serving():
            return [await env.run_episode(t, ctx) for t in tasks]

    return asyncio.run(go())


def test_the_loader_finds_tasks_and_environment():
    assert environment_class(ID) is AgentGymEnv
    env = AgentGymEnv(config())
    tasks = list(env.taskset.take(3))
    assert [t.data.task for t in tasks] == list(agentgym.make("tools/desk", levels=1).taskset.ids()[:3])
    assert "<tool_call>" in tasks[0].data.system_prompt and tasks[0].data.prompt is None


def test_an_agent_of_theirs_plays_our_tasks_and_is_paid_turn_by_turn():
    env = AgentGymEnv(config())
    tasks = list(env.taskset.take(2))
    scripts = {}
    ours = agentgym.make("tools/desk", levels=1, reward="stepwise")
    for task in tasks:
        ours.reset(options={"task": task.data.task})
        scripts[ours.task.instruction] = list(ours.oracle())

    async def chat(request):
        asked = await request.json()
        said = [m for m in asked["messages"] if m["role"] == "assistant"]
        script = next(s for instruction, s in scripts.items() if any(instruction in str(m["content"]) for m in asked["messages"]))
        return streamed(script[len(said)])

    with serving(v1__chat__completions=chat) as url:
        ctx = ModelContext(model="oracle", client=EvalClientConfig(base_url=url, api_key_var="NONE"), sampling=SamplingConfig())
        episodes = play(env, tasks, ctx)
    for episode in episodes:
        (trace,) = episode.traces
        assert episode.ok and not trace.has_error, (episode.errors, trace.errors)
        told = trace.info["agentgym"]
        assert trace.metrics["success"] == 1.0 and trace.rewards["agentgym"].score == pytest.approx(sum(told["turn_rewards"]) + told["whole"])
        assert len(told["turn_rewards"]) == sum(n.message.role == "assistant" for n in trace.nodes) and told["stop_reason"] in ("done", "submitted")


def test_sampled_ids_are_kept_and_each_has_the_advantage_of_its_turn():
    env, (model, _) = AgentGymEnv(config(env="text/bandit", options={"horizon": 4})), load_model(MODEL)
    model.eval()
    (task,) = env.taskset.take(1)
    torch.manual_seed(5)
    asked = []

    async def generate(request):
        body = await request.json()
        asked.append(body)
        ids, logprobs = list(body["token_ids"]), []
        with torch.no_grad():
            for _ in range(30):
                found = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
                ids.append(int(torch.multinomial(found.exp(), 1)))
                logprobs.append(float(found[ids[-1]]))
                if ids[-1] in body["sampling_params"]["stop_token_ids"]:
                    break
        said = ids[len(body["token_ids"]) :]
        content = [{"token": f"token_id:{i}", "logprob": p, "bytes": [], "top_logprobs": []} for i, p in zip(said, logprobs, strict=True)]
        return web.json_response({"request_id": "r", "choices": [{"index": 0, "token_ids": said, "finish_reason": "stop", "logprobs": {"content": content}}]})  # fmt: skip

    async def models(request):
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 2048}]})

    with serving(inference__v1__generate=generate, v1__models=models) as url:
        ctx = ModelContext(model=MODEL, client=TrainClientConfig(base_url=url, api_key_var="NONE"), sampling=SamplingConfig(max_tokens=30))
        episodes = play(env, [task] * 3, ctx)
    traces = [t for e in episodes for t in e.traces]
    assert all(e.ok for e in episodes), [e.errors for e in episodes] + [t.errors for t in traces]
    assert sum(sum(n.mask) for t in traces for n in t.nodes) > 20 and len(asked) >= 6
    count = stamp(traces, "turn")
    assert count == sum(sum(n.mask) for t in traces for n in t.nodes)
    for trace in traces:
        assert sum(1 for n in trace.nodes if sum(n.mask)) == len(trace.info["agentgym"]["turn_rewards"])
        for branch in trace.branches:
            assert branch.advantages is not None and len(branch.advantages) == len(branch.token_ids) == len(branch.logprobs)
        for node in trace.nodes:
            if sum(node.mask):
                assert len(node.advantages) == len(node.logprobs) == sum(node.mask) and len(set(node.advantages)) == 1
    whole = [sum(t.info["agentgym"]["turn_rewards"]) + t.info["agentgym"]["whole"] for t in traces]
    stamp(traces, "dr_grpo")
    for trace, total in zip(traces, whole, strict=True):
        assert {round(a, 6) for n in trace.nodes for a in n.advantages or []} == {round(total - sum(whole) / 3, 6)}


class Breaks(agentgym.make("tools/desk").__class__):
    def _advance(self, action):
        raise agentgym.errors.EnvironmentFault("the world broke")


def test_a_world_that_breaks_is_an_error_and_no_reward(monkeypatch):
    import agentgym_trainers.adapters.verifiers as ours

    env = AgentGymEnv(config())
    tasks = list(env.taskset.take(1))
    monkeypatch.setattr(ours, "make", lambda name, **options: Breaks(**options))

    async def chat(request):
        return streamed("hello")

    with serving(v1__chat__completions=chat) as url:
        (episode,) = play(env, tasks, ModelContext(model="m", client=EvalClientConfig(base_url=url, api_key_var="NONE"), sampling=SamplingConfig()))
    assert not episode.ok and "the world broke" in str(episode.errors) and not episode.traces[0].rewards


def test_a_model_that_fails_is_no_reward_either():
    env = AgentGymEnv(config())

    async def chat(request):
        return web.Response(status=500, text="no")

    with serving(v1__chat__completions=chat) as url:
        (episode,) = play(
            env, list(env.taskset.take(1)), ModelContext(model="m", client=EvalClientConfig(base_url=url, api_key_var="NONE"), sampling=SamplingConfig())
        )
    (trace,) = episode.traces
    assert not trace.rewards and not episode.ok
