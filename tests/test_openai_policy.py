"""The endpoint policy against a real HTTP server that misbehaves (row 23 of the list of faults)."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import msgspec
import pytest
from worlds import World

from agentgym import make
from agentgym.core import Conversation
from agentgym.errors import ContextOverflow, PolicyFault, UsageError
from agentgym.messages import parse_action
from agentgym.policies.openai import OpenAI
from agentgym.rollout import Job, Rollout


def reply(content="go", calls=None, finish="stop"):
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return msgspec.json.encode({"choices": [{"message": message, "finish_reason": finish}], "usage": {"completion_tokens": 3, "details": {}}})


class Server:
    """Plays ``script``: per request (status, headers, body, how); then repeats the last."""

    def __init__(self):
        self.script, self.asked = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((dict(self.headers), msgspec.json.decode(body)))
                status, headers, data, how = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                self.send_response(status)
                for k, v in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(k, v)
                self.end_headers()
                if how == "hang":
                    outer.release.wait(20)
                self.wfile.write(data[: len(data) // 2] if how == "truncate" else data)

        self.release = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def plays(self, *script):
        self.script = [(s, h, d, how) for s, h, d, how in script]
        self.asked.clear()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.release.set()
    made.http.shutdown()
    made.http.server_close()


OK = (200, {}, reply(), "")


def ask(server, messages=None, tools=(), **settings):
    policy = OpenAI(f"small@{server.url}", **{"budget_s": 5.0, "timeout_s": 0.5, **settings})

    async def run():
        try:
            return await policy.act(Conversation("c", messages or [{"role": "user", "content": "hi"}], tools, seed=1))
        finally:
            await policy.aclose()

    return policy, anyio.run(run)


@pytest.mark.parametrize(
    "bad",
    [
        (429, {"Retry-After": "0.3"}, b"slow down", ""),
        (500, {}, b"oops", ""),
        (200, {}, reply(), "hang"),
        (200, {}, reply(), "truncate"),
        (200, {"Content-Type": "text/html"}, b"<html>gateway</html>", ""),
        (200, {}, b'{"choices": []}', ""),
        (200, {}, b'{"error": {"message": "overloaded"}}', ""),
    ],
    ids=["429", "500", "hang after headers", "truncated", "wrong content type", "no choices", "200 with an error"],
)
def test_what_is_transient_is_retried_and_waiting_is_counted_apart(server, bad):
    server.plays(bad, OK)
    policy, completion = ask(server)
    assert completion.action == "go" and len(server.asked) == 2 and completion.usage == {"completion_tokens": 3}
    assert completion.waited_s >= (0.3 if bad[0] == 429 else 0.2)


def test_beyond_the_budget_it_is_a_fault_of_the_infrastructure(server):
    server.plays((503, {}, b"down", ""))
    began = time.monotonic()
    with pytest.raises(PolicyFault, match="HTTP 503: down") as caught:
        ask(server, budget_s=3.0)
    assert caught.value.culprit == "infra" and time.monotonic() - began < 60.0


def test_a_retry_after_beyond_the_budget_is_not_waited_for(server):
    server.plays((429, {"Retry-After": "3600"}, b"", ""))
    began = time.monotonic()
    with pytest.raises(PolicyFault):
        ask(server)
    assert time.monotonic() - began < 60.0  # and not an hour


def test_what_would_not_change_is_not_asked_again(server):
    server.plays((401, {}, b"bad key", ""))
    with pytest.raises(PolicyFault, match="401"):
        ask(server)
    server.plays((400, {}, b'{"error": "maximum context length is 10 tokens"}', ""))
    with pytest.raises(ContextOverflow):
        ask(server)
    assert len(server.asked) == 1


def test_tool_calls_become_canonical_actions_and_broken_ones_stay_visible(server):
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"id": 3}'}}]
    server.plays((200, {}, reply("Let me look.", calls, "tool_calls"), ""))
    action = parse_action(ask(server)[1].action)
    assert action.prose == "Let me look." and action.calls[0].arguments == {"id": 3}
    calls[0]["function"]["arguments"] = '{"id": '
    server.plays((200, {}, reply("", calls), ""))
    assert parse_action(ask(server)[1].action).problem


def test_a_whole_episode_over_the_endpoint_with_tools_and_history(server):
    env = make("tools/desk", split="dev")
    task = "close_by_title.dev.0"
    env.reset(options={"task": task})
    answers = []
    for text in env.oracle():
        made = parse_action(text).calls[0]
        answers.append((200, {}, reply(None, [{"function": {"name": made.name, "arguments": msgspec.json.encode(made.arguments).decode()}}]), ""))
        env.step(text)
    server.plays(*answers)
    policy = OpenAI(f"small@{server.url}")
    (episode,) = anyio.run(Rollout(make=lambda: make("tools/desk", split="dev"), policy=policy).run, [Job(task)])
    assert episode.success and len(server.asked) == 3
    last = server.asked[-1][1]["messages"]
    assert [m["role"] for m in last] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert last[2]["tool_calls"][0]["id"] == last[3]["tool_call_id"] and len(server.asked[0][1]["tools"]) == len(env.tools)


def test_a_fault_of_the_endpoint_never_becomes_a_reward(server):
    server.plays((500, {}, b"", ""))
    policy = OpenAI(f"small@{server.url}", budget_s=0.3)
    (episode,) = anyio.run(Rollout(make=World, policy=policy, retries=1).run, [Job("t.0")])
    assert (episode.status, episode.culprit, episode.terms) == ("invalid", "infra", [])


def test_the_key_is_sent_and_never_recorded(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.plays(OK)
    policy, completion = ask(server)
    assert server.asked[0][0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{vars(policy)}{completion}"


@pytest.mark.parametrize("text", ["", "small", "@http://x", "small@ftp://x"])
def test_a_wrong_address_is_a_usage_error(text):
    with pytest.raises(UsageError):
        OpenAI(text)


def test_waiting_to_ask_again_is_not_the_agents_working_time(server):
    server.plays((429, {"Retry-After": "1.5"}, b"", ""), OK)
    (episode,) = anyio.run(Rollout(make=World, policy=OpenAI(f"small@{server.url}")).run, [Job("t.0")])
    assert episode.success and episode.turns[0].duration_s < 1.0
