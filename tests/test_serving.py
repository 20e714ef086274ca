"""Served environments: the client is an environment as any other, agents get no more than a policy would, and nothing is left behind."""

import asyncio
import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref

import anyio
import httpx
import msgspec
import pytest
import uvicorn
from websockets.sync.client import connect

import agentgym
from agentgym.checks.conformance import CHECKS, hashes
from agentgym.checks.subject import Skipped, Subject
from agentgym.cli.main import guarded as main
from agentgym.errors import (
    CapabilityError,
    EnvironmentClosed,
    EpisodeOver,
    Fault,
    ProtocolError,
    ResetNeeded,
    ServerFull,
    SessionBusy,
    SessionGone,
    Unauthorised,
    UnknownName,
)  # fmt: skip
from agentgym.policies import resolve
from agentgym.registry import spec
from agentgym.rollout import Job, Rollout
from agentgym.serving.app import Server, alive, settings
from agentgym.serving.sessions import Bounds, Sessions

TOKEN = "a token for tests"
READ = '<tool_call>{"name": "read_mail", "arguments": {"id": 1}}</tool_call>'


@contextlib.contextmanager
def serving(*envs, recorder=None, **options):
    """A server in this process: what it holds, and its address."""
    sessions = Sessions(envs or ("tools/desk", "text/bandit"), **options)
    listening = socket.create_server(("127.0.0.1", 0))
    alive(listening)
    server = uvicorn.Server(uvicorn.Config(Server(sessions, TOKEN, recorder=recorder).app(), **settings(sessions.bounds.message_bytes)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield sessions, url
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("AGENTGYM_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def told():
    """A server that tells solutions."""
    with serving(oracle=True) as (sessions, url):
        yield sessions, url


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def http(url, token=TOKEN, **headers):
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}", **headers}, timeout=30)


def opened(client, env="tools/desk", **more):
    return client.post("/sessions", json={"env": env, "version": 1, **more}).json()


# A remote environment is an environment


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("env", ["tools/desk", "text/bandit"])
def test_a_remote_environment_passes_the_same_suite(env, check, told):
    try:
        CHECKS[check](Subject(spec(f"{env}@{told[1]}"), 2))
    except Skipped:
        pytest.fail("nothing is skipped: it can do what it can do here")


@pytest.mark.parametrize("env", ["tools/desk", "text/bandit"])
def test_its_hashes_and_verdicts_are_those_of_the_environment_itself(env, told):
    tasks = list(agentgym.make(env).taskset.ids()[:5])
    assert hashes(f"{env}@{told[1]}", "train", tasks, {}) == hashes(env, "train", tasks, {})


def test_the_record_is_the_same_but_for_the_time_it_took(told):
    records = []
    for env in (agentgym.make(f"tools/desk@{told[1]}", reward="stepwise", levels=2), agentgym.make("tools/desk", reward="stepwise", levels=2)):
        env.reset(seed=4)
        for action in ["hello", READ, *env.oracle()]:
            env.step(action)
        record = msgspec.to_builtins(env.episode)
        for turn in record["turns"]:
            turn.pop("duration_s")
        records.append((record, dict(env.artefacts), env.limits, env.task.instruction))
    assert records[0] == records[1] and records[0][0]["verdicts"]


def test_many_are_played_at_once_and_give_what_playing_here_gives(told, tmp_path):
    before = len(told[0].open)

    async def play(env):
        rollout = Rollout(lambda: agentgym.make(env), resolve("oracle"), concurrency=16)
        return await rollout.run([Job(t, seed=i) for i, t in enumerate(agentgym.make("tools/desk").taskset.ids()[:24])])

    there, here = (anyio.run(play, env) for env in (f"tools/desk@{told[1]}", "tools/desk"))
    assert [(e.status, e.total, e.turns[-1].state_hash, e.success) for e in there] == [(e.status, e.total, e.turns[-1].state_hash, e.success) for e in here]
    assert until(lambda: len(told[0].open) <= before)


def test_it_is_evaluated_by_name_from_the_command_line(told, tmp_path, capsys):
    assert main(["eval", "--env", f"tools/desk@{told[1]}", "--policy", "oracle", "--tasks", "3", "--out", str(tmp_path / "r"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["success"]["mean"] == 1.0


def test_a_point_outlives_the_session_that_kept_it(told):
    env = agentgym.make(f"text/bandit@{told[1]}")
    env.reset(seed=2)
    env.step(env.choices()[0])
    point, there = env.snapshot(), env._hash
    forks = env.fork(2, reseed=5)
    env.close()
    assert all(f._hash == there and f.episode.parent for f in forks)
    fresh = agentgym.make(f"text/bandit@{told[1]}")
    fresh.restore(point)
    assert fresh._hash == there and len(fresh.episode.turns) == 1


def test_errors_come_back_as_they_were_raised(told):
    env = agentgym.make(f"tools/desk@{told[1]}")
    with pytest.raises(ResetNeeded):
        env.step("x")
    with pytest.raises(UnknownName, match="unknown task 'nowhere'"):
        env.reset(options={"task": "nowhere"})
    env.reset(seed=1)
    env.end("max_tokens")
    assert env.episode.stop_reason == "max_tokens" and env.episode.status == "valid"
    with pytest.raises(EpisodeOver):
        env.step("x")
    env.close()
    with pytest.raises(EnvironmentClosed):
        env.reset()
    for wrong in ({"levls": 1}, {"split": "nowhere"}):
        with pytest.raises(UnknownName, match=r"level|nowhere"):
            agentgym.make(f"tools/desk@{told[1]}", **wrong)
    with pytest.raises(UnknownName, match="text/bandit"):
        agentgym.make(f"text/bandt@{told[1]}")


# Who may do what


def test_the_oracle_is_told_only_where_the_server_was_told_to():
    with serving() as (_, url):
        env = agentgym.make(f"tools/desk@{url}")
        env.reset(seed=1)
        with pytest.raises(CapabilityError, match="--with-oracle"):
            env.oracle()
        assert env.task.data == {} and env.taskset[0].data == {}


def test_a_server_plays_nothing_itself_unless_it_is_a_worker():
    """The record of a scripted policy would tell the solution."""
    with serving() as (_, url), http(url) as client:
        session = opened(client)["session"]
        answer = client.post(f"/sessions/{session}/play", json={"job": {"task": "x"}, "policy": "oracle"})
        assert answer.status_code == 501 and "--plays" in answer.json()["message"]


def test_an_agents_key_plays_its_own_session_and_does_nothing_else(told):
    with http(told[1]) as all_:
        mine, other = opened(all_), opened(all_)
        all_.post(f"/sessions/{mine['session']}/reset", json={"seed": 1})
        with http(told[1], mine["key"]) as agent:
            assert agent.post(f"/sessions/{mine['session']}/step", json={"action": READ}).status_code == 200
            for told_agent in (agent.post(f"/sessions/{mine['session']}/look"), agent.post(f"/sessions/{mine['session']}/step", json={"action": READ})):
                assert told_agent.json().keys() == {"observation"}
            for op in ("reset", "script", "save", "grade", "tasks", "end"):
                assert agent.post(f"/sessions/{mine['session']}/{op}", json={}).status_code == 403
            assert agent.post(f"/sessions/{other['session']}/step", json={"action": READ}).status_code == 403
            assert agent.post("/sessions", json={"env": "tools/desk", "version": 1}).status_code == 403
            assert agent.get("/environments").status_code == 403 and agent.delete(f"/sessions/{mine['session']}").status_code == 403
        for each in (mine, other):
            assert all_.delete(f"/sessions/{each['session']}").status_code == 200
        with http(told[1], mine["key"]) as late:
            assert late.post(f"/sessions/{mine['session']}/look").status_code == 403  # a key ends with its session


def test_wrong_tokens_foreign_origins_and_other_names_are_refused(told, monkeypatch):
    for headers in ({"token": "wrong"}, {"origin": "http://evil.example"}, {"host": "evil.example"}):
        with http(told[1], **headers) as client:
            answer = client.post("/sessions", json={"env": "tools/desk", "version": 1})
            assert answer.status_code == 403 and answer.json()["error"] == "Unauthorised"
    for header in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}):
        with pytest.raises(Exception, match="403"), connect(told[1].replace("http", "ws") + "/ws", additional_headers=header):
            pass
    assert httpx.get(told[1] + "/health").json()["version"] == 1
    monkeypatch.setenv("AGENTGYM_TOKEN", "wrong")
    with pytest.raises(Unauthorised, match="AGENTGYM_TOKEN"):
        agentgym.make(f"tools/desk@{told[1]}?")


def test_no_file_of_the_servers_is_read_for_a_reward(told, tmp_path):
    (tmp_path / "r.toml").write_text("expression = \"outcome('task')\"")
    with http(told[1]) as client:
        for reward in (str(tmp_path / "r.toml"), "../x", str(tmp_path / "a(b).toml")):
            assert opened(client, reward=reward)["error"] in ("UsageError", "UnknownName")
        assert "session" in opened(client, reward="2 * outcome('task')")


# Wrong messages


def test_what_is_no_request_is_refused_and_the_connection_goes_on(told):
    with connect(told[1].replace("http", "ws") + "/ws", additional_headers={"Authorization": f"Bearer {TOKEN}"}) as ws:

        def ask(message):
            ws.send(message)
            return json.loads(ws.recv())

        for wrong in ("", "{", "[]", '{"op": "fly"}', '{"op": "step", "x": 1}', '{"op": "step", "action": 3}', "[" * 100_000, b"\xff"):
            assert ask(wrong)["error"] == "ProtocolError"
        assert ask('{"op": "step", "action": "x"}')["error"] == "SessionGone"
        assert "version 1" in ask('{"op": "open", "env": "tools/desk", "version": 0}')["message"]
        assert ask('{"op": "open", "env": "tools/desk", "version": 1}')["env"] == "tools/desk-v0"
        assert ask('{"op": "reset", "seed": 1}')["observation"] and ask('{"op": "step", "action": "x"}')["info"]["turn"] == 1


def test_what_is_too_large_is_refused_unread():
    with serving(bounds=Bounds(message_bytes=10_000)) as (sessions, url), http(url) as client:
        session = opened(client)["session"]
        for size in (20_000, 2_000_000):
            assert client.post(f"/sessions/{session}/step", json={"action": "x" * size}).status_code == 413
            parts = (b"x" * 1000 for _ in range(size // 1000))
            assert client.post(f"/sessions/{session}/step", content=parts).status_code == 413
        with connect(url.replace("http", "ws") + "/ws", additional_headers={"Authorization": f"Bearer {TOKEN}"}) as ws:
            ws.send(json.dumps({"op": "step", "session": session, "action": "x" * 15_000}))
            assert json.loads(ws.recv())["error"] == "MessageTooLarge"
            ws.send("x" * 100_000)
            with pytest.raises(Exception, match="1009"):
                ws.recv()
        assert client.post(f"/sessions/{session}/reset", json={}).status_code == 200


def test_whatever_a_model_writes_arrives(told):
    env, here = agentgym.make(f"text/bandit@{told[1]}"), agentgym.make("text/bandit")
    for text in ("\x00\x1f" * 200_000, "\u2028\ud7ff😀", "x" * 3_000_000):
        for each in (env, here):
            each.reset(seed=1)
        assert env.step(text)[1:4] == here.step(text)[1:4]


# Sessions end


def test_a_session_that_is_over_says_why():
    with serving(bounds=Bounds(idle_s=0.3)) as (sessions, url), http(url) as client:
        closed, idle = opened(client)["session"], opened(client)["session"]
        client.delete(f"/sessions/{closed}")
        assert until(lambda: not sessions.open)
        for session, why in ((closed, "it was closed"), (idle, "it stood idle"), ("nothing", "there is no session")):
            answer = client.post(f"/sessions/{session}/step", json={"action": "x"})
            assert answer.status_code == 410 and why in answer.json()["message"]
        env = agentgym.make(f"tools/desk@{url}")
        env.reset(seed=1)
        assert until(lambda: not sessions.open)
        with pytest.raises(SessionGone, match="idle"):
            env.step("x")


def test_a_slow_world_keeps_nobody_else_waiting_and_two_on_one_session_are_told_so(monkeypatch):
    from agentgym_tools.env import DeskEnv

    def slow(env, action):
        if action == "slow":
            time.sleep(1.0)
        return step(env, action)

    step = DeskEnv.step
    monkeypatch.setattr(DeskEnv, "step", slow)
    monkeypatch.setattr(DeskEnv, "capabilities", msgspec.structs.replace(DeskEnv.capabilities, blocking=True))
    with serving() as (_, url), http(url) as client:
        one, other = opened(client)["session"], opened(client)["session"]
        for session in (one, other):
            client.post(f"/sessions/{session}/reset", json={"seed": 1})
        thread = threading.Thread(target=lambda: http(url).post(f"/sessions/{one}/step", json={"action": "slow"}))
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert client.post(f"/sessions/{other}/step", json={"action": "x"}).status_code == 200 and time.monotonic() - began < 0.5
        answer = client.post(f"/sessions/{one}/step", json={"action": "x"})
        assert answer.status_code == 409 and answer.json()["error"] == SessionBusy.__name__
        thread.join()
        assert client.post(f"/sessions/{one}/step", json={"action": "x"}).json()["info"]["turn"] == 2


def test_a_full_server_says_so_and_has_room_again():
    with serving(bounds=Bounds(sessions=3, points=2)) as (sessions, url):
        envs = [agentgym.make(f"tools/desk@{url}") for _ in range(3)]
        with pytest.raises(ServerFull, match="3 sessions"):
            agentgym.make(f"tools/desk@{url}")
        envs[0].reset(seed=1)
        points = [envs[0].snapshot() for _ in range(2)]
        with pytest.raises(ServerFull, match="points"):
            envs[0].snapshot()
        assert points
        envs[1].close()
        assert until(lambda: len(sessions.open) == 2)
        agentgym.make(f"tools/desk@{url}").reset(seed=1)


def test_a_client_that_vanishes_leaves_nothing_behind():
    with serving() as (sessions, url):
        envs = [agentgym.make(f"tools/desk@{url}") for _ in range(40)]
        for i, env in enumerate(envs):
            env.reset(seed=i)
        worlds = [weakref.ref(s.env) for s in sessions.open.values()]
        assert len(worlds) == 40
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        for env in envs:  # no goodbye: a reset of the connection, as when a process is killed
            env._wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            env._wire._socket.close()
        assert until(lambda: not sessions.open) and not sessions._keys
        assert until(lambda: gc.collect() is not None and not any(w() for w in worlds))


def test_half_open_sockets_hold_no_session_and_keep_nobody_out():
    with serving(bounds=Bounds(idle_s=0.5)) as (sessions, url):
        host, port = url.removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        for each in silent[:25]:
            each.sendall(b"POST /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n{")
        env = agentgym.make(f"tools/desk@{url}")
        env.reset(seed=1)
        assert len(sessions.open) == 1
        for each in silent:
            each.close()
        kept = agentgym.make(f"tools/desk@{url}")  # alive, but silent for ever: as a client behind a cut line
        assert until(lambda: not sessions.open)
        kept.close()


def test_memory_is_back_where_it_was():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import gc, os, re, pathlib, agentgym; from test_serving import serving, TOKEN, until\n"
        "os.environ['AGENTGYM_TOKEN'] = TOKEN\n"
        "def rss():\n gc.collect(); return int(re.search(r'VmRSS:\\s*(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]) / 1024\n"
        "def crowd(url):\n envs = [agentgym.make(f'tools/desk@{url}') for _ in range(150)]\n [e.reset(seed=i) for i, e in enumerate(envs)]\n"
        " [e.close() for e in envs]\n"
        "with serving() as (sessions, url):\n crowd(url); until(lambda: not sessions.open); before = rss()\n"
        " for _ in range(4): crowd(url); until(lambda: not sessions.open)\n print(rss() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12, "600 sessions came and went"


def test_a_server_that_goes_is_a_fault_of_the_world_and_no_reward():
    with serving() as (_, url):
        env = agentgym.make(f"tools/desk@{url}")
        env.reset(seed=1)
    with pytest.raises(Fault) as lost:
        env.step("x")
    assert lost.value.culprit == "infra"
    with pytest.raises(Fault, match="no server answers"):
        agentgym.make(f"tools/desk@{url}").reset()

    async def play():
        return await Rollout(lambda: env, resolve("noop"), retries=0).run([Job(env.task.id)])

    (episode,) = anyio.run(play)
    assert episode.status == "invalid" and episode.total == 0 and episode.culprit == "infra"


# MCP


async def _mcp(url, opened, play):
    from mcp.client.session import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {opened['key']}"}, timeout=60) as http,
        streamable_http_client(f"{url}/mcp/{opened['session']}", http_client=http) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await play(session)


def test_an_agent_solves_a_task_over_mcp_and_sees_no_reward(told):
    with http(told[1]) as client:
        session = opened(client, record=True)
        task = client.post(f"/sessions/{session['session']}/reset", json={"seed": 3}).json()
        env = told[0].open[session["session"]].env
        calls = [agentgym.messages.parse_action(a).calls[0] for a in env.oracle()]

        async def play(mcp):
            tools = {t.name: t for t in (await mcp.list_tools()).tools}
            assert set(env.tools) <= set(tools) and tools["read_mail"].input_schema == env.tools["read_mail"].spec.parameters
            first = await mcp.call_tool("observe", {})
            said = [await mcp.call_tool(c.name, dict(c.arguments)) for c in calls]
            late = await mcp.call_tool(calls[-1].name, dict(calls[-1].arguments))
            return first.content[0].text, [s.content[0].text for s in said], late

        first, said, late = asyncio.run(_mcp(told[1], session, play))
        assert first == task["observation"] and said[-1].endswith("(the episode is over)") and late.is_error
        assert env.episode.success and "reward" not in " ".join(said)
        client.delete(f"/sessions/{session['session']}")


def test_prose_is_said_and_wrong_tools_are_answers_not_failures(told):
    with http(told[1]) as client:
        session = opened(client, env="text/bandit")

        async def play(mcp):
            names = [t.name for t in (await mcp.list_tools()).tools]
            arms = (await mcp.call_tool("observe", {})).content[0].text
            pulled = await mcp.call_tool("say", {"text": arms.split("arms: ")[1].split(",")[0]})
            return names, pulled, await mcp.call_tool("fly", {}), await mcp.call_tool("say", {"words": 1})

        names, pulled, *wrong = asyncio.run(_mcp(told[1], session, play))
        assert names == ["observe", "say"] and "pulls left" in pulled.content[0].text and all(w.is_error for w in wrong)
        other = opened(client)
        foreign = httpx.post(f"{told[1]}/mcp/{other['session']}", headers={"Authorization": f"Bearer {session['key']}"}, json={})
        assert foreign.status_code == 403 and "another session" in foreign.json()["message"]


def test_a_hundred_agents_over_mcp_at_once_lose_no_call(told):
    async def all_():
        async with httpx.AsyncClient(base_url=told[1], headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
            made = [(await client.post("/sessions", json={"env": "text/bandit", "version": 1})).json() for _ in range(100)]

        async def play(mcp):
            return [bool((await mcp.call_tool("observe", {})).content) for _ in range(3)]

        return await asyncio.gather(*(_mcp(told[1], each, play) for each in made))

    assert asyncio.run(all_()) == [[True] * 3] * 100


# What it tells of itself


def test_the_description_names_every_op_and_nothing_that_is_not_there(told):
    document = httpx.get(told[1] + "/openapi.json").json()
    assert document["openapi"].startswith("3.1") and {"/sessions", "/sessions/{session}/step", "/environments"} <= set(document["paths"])
    text = json.dumps(document)
    refs = {r.split('"')[0] for r in text.split('"#/components/schemas/')[1:]}
    assert refs <= set(document["components"]["schemas"]) and {"Open", "Step", "Shown", "Refused"} <= refs
    with http(told[1]) as client:
        assert {e["id"] for e in client.get("/environments").json()} == {"tools/desk-v0", "text/bandit-v0"}
        assert client.post("/sessions/x/fly", json={}).json()["error"] == ProtocolError.__name__


def test_the_command_says_where_it_listens_and_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setenv("AGENTGYM_TOKEN", "short")
    for argv, why in (
        (["serve"], "needs ENVS"), (["serve", "no/thing"], "unknown environment"), (["serve", "tools/desk", "--host", "0.0.0.0"], "16 characters"),
        (["serve", "tools/desk", "--port", "99999"], "port"),
    ):  # fmt: skip
        assert main(argv) == 2 and why in capsys.readouterr().err
    process = subprocess.Popen(
        [sys.executable, "-m", "agentgym", "serve", "tools/desk", "text/bandit", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "AGENTGYM_TOKEN": ""},
    )  # fmt: skip
    try:
        line = json.loads(process.stdout.readline())
        assert len(line["token"]) >= 16 and line["environments"] == ["tools/desk-v0", "text/bandit-v0"]
        with http(line["url"], line["token"]) as client:
            assert opened(client)["env"] == "tools/desk-v0"
    finally:
        process.send_signal(2)
        assert process.wait(20) in (0, 130)


# A model, recorded


ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what now?"}]
FUNCTION = {
    "type": "function",
    "function": {"name": "read_mail", "description": "", "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def model():
    """A tiny model that knows the desk's words."""
    from agentgym_trainers.engine import TransformersEngine
    from agentgym_trainers.model import tiny_model, tiny_tokenizer
    from agentgym_trainers.renderer import ChatRenderer

    tokenizer = tiny_tokenizer(["what now? be brief read_mail done the desk", READ] * 50, 600)
    return TransformersEngine(tiny_model(tokenizer, 0).eval(), ChatRenderer(tokenizer), name="hf:tiny", temperature=1.0, max_tokens=12)


class Says:
    """A model that says what it is told to."""

    name = "says"

    def __init__(self, *lines):
        self.lines = list(lines)
        self.asked = []

    async def act(self, conversation):
        self.asked.append(conversation)
        return agentgym.core.Completion(self.lines.pop(0))


@contextlib.contextmanager
def modelled(policy, tmp_path, *envs):
    from agentgym.episode import EpisodeStore
    from agentgym.serving.recorder import Recorder

    store = EpisodeStore(tmp_path / "episodes.jsonl")
    with serving(*(envs or ("tools/desk",)), recorder=Recorder(policy, store)) as (sessions, url), http(url) as client:
        yield sessions, url, client


def test_an_openai_agent_is_recorded_token_by_token(model, tmp_path):
    import openai

    with modelled(model, tmp_path) as (sessions, url, client):
        session = opened(client)
        client.post(f"/sessions/{session['session']}/reset", json={"seed": 3})
        agent = openai.OpenAI(base_url=f"{url}/v1", api_key=session["key"])
        assert [m.id for m in openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN).models.list()] == ["hf:tiny"]
        messages = list(ASKED)
        for _ in range(3):
            answer = agent.chat.completions.create(model="any", messages=messages, logprobs=True, max_tokens=6)
            assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content) <= 6
            messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "and then?"}]
        agent.chat.completions.create(model="any", messages=ASKED)  # beside it: a history that does not go on
        client.post(f"/sessions/{session['session']}/step", json={"action": READ})
        episode = msgspec.json.decode(client.post(f"/sessions/{session['session']}/record").content, type=agentgym.episode.Episode)
        client.delete(f"/sessions/{session['session']}")
    assert [t.tokens.segment for t in episode.turns] == [0, 0, 0, 1] and episode.policy == "hf:tiny"
    whole, engine = [i for t in episode.turns[:3] for i in t.tokens.ids], model.renderer
    assert all(len(t.tokens.ids) == len(t.tokens.mask) == len(t.tokens.logprobs) and sum(t.tokens.mask) for t in episode.turns)
    assert whole[: len(episode.turns[0].tokens.ids)] == [
        *engine.open([], ASKED),
        *[i for i, m in zip(episode.turns[0].tokens.ids, episode.turns[0].tokens.mask, strict=True) if m],
    ]
    assert all(t.tokens.weight_versions and t.tokens.sampling["temperature"] == 1.0 for t in episode.turns)
    (kept,) = agentgym.episode.read_episodes(tmp_path / "episodes.jsonl")
    assert kept.status == "valid" and kept.stop_reason == "timeout" and kept.turns[3].verdicts and len(kept.turns) == 4
    assert [t.tokens for t in kept.turns] == [t.tokens for t in episode.turns]


def test_what_is_recorded_can_be_trained_on(model, tmp_path):
    """The ids and log-probabilities in the record are those that the weights give: the ratio of a first update is 1."""
    import openai
    from agentgym_trainers.streams import make_batch
    from agentgym_trainers.update import score

    with modelled(model, tmp_path) as (_, url, client):
        session = opened(client)
        client.post(f"/sessions/{session['session']}/reset", json={"seed": 3})
        agent, messages = openai.OpenAI(base_url=f"{url}/v1", api_key=session["key"]), list(ASKED)
        for _ in range(2):
            answer = agent.chat.completions.create(model="any", messages=messages)
            messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "and then?"}]
        client.delete(f"/sessions/{session['session']}")
    batch = make_batch(list(agentgym.episode.read_episodes(tmp_path / "episodes.jsonl")), [1.0], "token")
    sampled = batch.mask_N > 0
    assert sampled.sum() > 2 and (score(model.model, batch) - batch.behaviour_logp_N)[sampled].abs().max() < 1e-4


def test_an_anthropic_agent_works_the_desk_with_calls_and_answers(tmp_path):
    import anthropic

    policy = Says(READ, f"one more {READ}", "all is done")
    with modelled(policy, tmp_path) as (sessions, url, client):
        session = opened(client)
        client.post(f"/sessions/{session['session']}/reset", json={"seed": 3})
        agent = anthropic.Anthropic(base_url=url, api_key=session["key"])
        tools = [{"name": "read_mail", "description": "", "input_schema": FUNCTION["function"]["parameters"]}]
        messages, reasons = [{"role": "user", "content": "what now?"}], []
        for _ in range(3):
            answer = agent.messages.create(model="any", max_tokens=50, system="be brief", messages=messages, tools=tools)
            reasons.append(answer.stop_reason)
            messages.append({"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in answer.content]})
            for block in answer.content:
                if block.type == "tool_use":
                    world = client.post(f"/sessions/{session['session']}/step", json={"action": agentgym.messages.call(block.name, **block.input)}).json()
                    messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": world["observation"]}]})
        client.delete(f"/sessions/{session['session']}")
    assert reasons == ["tool_use", "tool_use", "end_turn"] and [t.name for t in policy.asked[0].tools] == ["read_mail"]
    (kept,) = agentgym.episode.read_episodes(tmp_path / "episodes.jsonl")
    assert [t.action for t in kept.turns] == [READ, f"one more\n{READ}", "all is done"] or [len(t.calls) for t in kept.turns] == [1, 1, 0]
    assert [len(t.observation) for t in kept.turns] == [2, 1, 1], "each turn holds what was new"
    assert kept.turns[1].observation[0]["role"] == "tool" and all(t.verdicts for t in kept.turns[:2])


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_what_is_streamed_is_what_would_have_been_sent(dialect, tmp_path):
    import anthropic
    import openai

    with modelled(Says(f"look {READ}"), tmp_path) as (_, url, client):
        key = opened(client)["key"]
        if dialect == "openai":
            text, name, arguments = "", "", ""
            for part in openai.OpenAI(base_url=f"{url}/v1", api_key=key).chat.completions.create(model="m", messages=ASKED, tools=[FUNCTION], stream=True):
                delta = part.choices[0].delta
                text += delta.content or ""
                for call in delta.tool_calls or []:
                    name, arguments = name + call.function.name, arguments + call.function.arguments
            assert (text, name, json.loads(arguments)) == ("look", "read_mail", {"id": 1})
        else:
            with anthropic.Anthropic(base_url=url, api_key=key).messages.stream(model="m", max_tokens=9, messages=ASKED[1:]) as stream:
                final = stream.get_final_message()
            assert final.content[0].text == "look" and final.content[1].input == {"id": 1} and final.stop_reason == "tool_use"


def test_a_model_is_asked_with_a_sessions_key_and_in_sense(tmp_path):
    with modelled(Says(), tmp_path) as (_, url, client):
        key = opened(client)["key"]

        def post(token, body):
            return httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {token}"}, json=body)

        assert post(TOKEN, {"messages": ASKED}).status_code == 403 and post("wrong", {"messages": ASKED}).status_code == 403
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
        for wrong in ({}, {"messages": []}, {"messages": ASKED, "n": 2}, {"messages": picture}, {"messages": [3]}, {"messages": [{"role": "user"}, {}]}):
            answer = post(key, wrong)
            assert answer.status_code == 400 and answer.json()["error"]["type"] == "ProtocolError", wrong
        assert httpx.post(f"{url}/v1/messages", headers={"x-api-key": key}, json={"messages": [{"role": "user", "content": [3]}]}).status_code == 400


def test_each_episode_of_a_session_is_kept_by_itself(tmp_path):
    with modelled(Says("one", "two", "three"), tmp_path) as (_, url, client):
        session = opened(client)
        for seed in (1, 2):
            client.post(f"/sessions/{session['session']}/reset", json={"seed": seed})
            for _ in range(3 - seed):
                answer = httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {session['key']}"}, json={"messages": ASKED})
                assert answer.status_code == 200
    assert [len(e.turns) for e in agentgym.episode.read_episodes(tmp_path / "episodes.jsonl")] == [2, 1]


def test_another_history_or_other_tools_begin_another_segment(model, tmp_path):
    """An answer that was not sampled here, put between: what is new would be read without it."""
    with modelled(model, tmp_path) as (_, url, client):
        session = opened(client)

        def ask(messages, **more):
            body = {"messages": messages, "max_tokens": 4, **more}
            return httpx.post(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {session['key']}"}, json=body).json()["choices"][0]["message"]

        client.post(f"/sessions/{session['session']}/reset", json={"seed": 3})
        said = [*ASKED, ask(ASKED)]
        more = {"role": "user", "content": "and then?"}
        for messages, tools in (([*said, more], None), ([*said, more, {"role": "assistant", "content": "done"}, more], None), ([*said, more], [FUNCTION])):
            ask(messages, **({"tools": tools} if tools else {}))
        client.delete(f"/sessions/{session['session']}")
    (kept,) = agentgym.episode.read_episodes(tmp_path / "episodes.jsonl")
    assert [t.tokens.segment for t in kept.turns] == [0, 0, 1, 2] and len(kept.turns[2].observation) == 6
