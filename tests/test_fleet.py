"""Episodes on other processes and on Ray: what comes back is what would have been played here, whoever is lost on the way."""

import json
import socket
import time
from collections import Counter
from pathlib import Path

import agentgym_trainers
import anyio
import pytest

import agentgym
from agentgym.cli.main import guarded
from agentgym.episode import EpisodeStore, read_episodes
from agentgym.errors import UsageError
from agentgym.policies import resolve
from agentgym.rollout import Job, Keep, Rollout
from agentgym.serving import fleet
from agentgym.serving import protocol as p
from agentgym.serving.fleet import Environments, Fleet, LocalServers, RayServers, servers_of
from agentgym.serving.wire import Lost

OPENS = p.Open(env="text/bandit", options={"horizon": 40}, version=p.VERSION)


def jobs(n):
    ids = agentgym.make("text/bandit").taskset.ids()
    return [Job(ids[i % 20], i // 20, i, ids[i % 20]) for i in range(n)]


def play(servers, n=60, tell=None, tmp_path=None, policy="random", concurrency=12):
    """All episodes, and every attempt that was kept."""
    tasks = agentgym.make("text/bandit", horizon=40).taskset
    fleet = Fleet(servers, OPENS, policy, {"temperature": 0.0}, tasks.get) if servers else None
    keep = Keep(EpisodeStore(tmp_path / "episodes.jsonl")) if tmp_path else Keep()
    rollout = Rollout(lambda: agentgym.make("text/bandit", horizon=40), resolve(policy), concurrency=concurrency, keep=keep, on_episode=tell, elsewhere=fleet)
    try:
        return anyio.run(rollout.run, jobs(n))
    finally:
        if fleet:
            fleet.close()


def essence(episodes):
    return [(e.id.partition(".r")[0], e.status, e.total, [t.action for t in e.turns], e.turns[-1].state_hash, e.env) for e in episodes]


def test_what_comes_back_is_what_would_have_been_played_here():
    there = play(LocalServers(2, ["text/bandit"]))
    assert essence(there) == essence(play(None)) and {e.provenance["worker"] for e in there} == {0, 1}


def killed(kill, tmp_path, servers, n=120, plays=None):
    """``kill`` is called once after 15 episodes, three of them of the worker ``plays``: one that is late has nothing to lose.

    From then on the others are held up, for as long as that worker needs to come back: they must not have played everything before it can.
    """
    seen, called = [], []

    def tell(episode):
        seen.append(episode.provenance.get("worker"))
        if called:
            back = plays is None or seen[called[0] :].count(plays) > 12  # more than were under way
            time.sleep(0 if back else 0.05)
        elif len(seen) >= 15 and (plays is None or seen.count(plays) >= 3):
            called.append(len(seen))
            kill()

    there = play(servers, n, tell, tmp_path)
    assert essence(there) == essence(play(None, n)), "nothing is lost or changed"
    kept = list(read_episodes(tmp_path / "episodes.jsonl"))
    assert Counter((e.task, e.attempt) for e in kept if e.status == "valid") == Counter({j.key: 1 for j in jobs(n)}), "and nothing counts twice"
    lost = [e for e in kept if e.status == "invalid"]
    assert lost and all(e.culprit == "infra" and e.total == 0 and not e.turns for e in lost)
    return there


def answers(url):
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as tried:
        return tried.connect_ex((host, int(port))) == 0


def test_a_process_that_is_killed_takes_nothing_with_it(tmp_path):
    servers = LocalServers(2, ["text/bandit"])
    there = killed(lambda: servers.processes[0].kill(), tmp_path, servers, 700, plays=0)
    assert {e.provenance["worker"] for e in there[-200:]} == {0, 1}, "it was started again"


def test_a_ray_node_that_is_killed_takes_nothing_with_it(tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
    try:
        doomed = [cluster.add_node(**node), cluster.add_node(**node)][1]
        ray.init(address=cluster.address, log_to_driver=False)
        servers = RayServers(3, ["text/bandit"])
        urls = set(ray.get([a.url.remote() for a in servers.actors]))
        assert len(urls) == 3
        began = time.monotonic()

        def kill():
            cluster.remove_node(doomed, allow_graceful=False)
            while all(map(answers, urls)) and time.monotonic() - began < 100:  # its workers go a little after it
                time.sleep(0.1)

        there = killed(kill, tmp_path, servers)
        assert len({e.provenance["worker"] for e in there[-40:]}) >= 2 and time.monotonic() - began < 200, "those that are left go on together"
        made = Environments(RayServers(2, ["text/bandit"]), "text/bandit", agentgym.make("text/bandit").tasks)
        try:
            rollout = Rollout(lambda: made(split="train", horizon=40), resolve("random"), concurrency=8)
            assert essence(anyio.run(rollout.run, jobs(40))) == essence(play(None, 40)), "and a policy that is here plays there"
        finally:
            made.close()
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_workers_from_the_command_line(tmp_path, capsys):
    common = ["--env", "tools/desk", "--policy", "oracle", "--tasks", "12", "--json"]
    assert guarded(["eval", *common, "--workers", "2", "--out", str(tmp_path / "there")]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["success"]["mean"] == 1.0 and there["valid"] == 12
    assert guarded(["verify", str(tmp_path / "there")]) == 0 and guarded(["replay", str(tmp_path / "there")]) == 0
    capsys.readouterr()
    for wrong in ("0", "two", "ray:x", "2:3"):
        assert guarded(["eval", *common, "--workers", wrong]) == 2 and "--workers" in capsys.readouterr().err
    with pytest.raises(UsageError, match="match"):
        anyio.run(Fleet(servers_of("1", []), OPENS, "noop", {}, lambda t: None).attempt, None, Job("x", match="m"), 0)


WARM = str(Path(agentgym_trainers.__file__).with_name("warm"))
TRAINED = ["--env", "tools/desk", "--option", "levels=1", "--model", WARM, "--context", "512", "--eval-tasks", "6"]
TRAINED += ["--steps", "3", "--groups", "4", "--group-size", "4", "--threads", "1", "--plain"]


def sampled(folder):
    return [
        (e.id, e.total, e.reward, str(e.terms), [(t.action, t.state_hash, t.tokens.ids) for t in e.turns]) for e in read_episodes(folder / "episodes.jsonl")
    ]


def test_training_with_environments_elsewhere_is_the_same_training(tmp_path, capsys):
    for name, more in (("here", []), ("there", ["--workers", "2"])):
        assert guarded(["train", *TRAINED, *more, "--out", str(tmp_path / name)]) == 0
    here, there = (sorted(sampled(tmp_path / name)) for name in ("here", "there"))
    assert len(here) == 48 and here == there and 0 < sum(e[1] for e in here) < 48
    losses = [[json.loads(line).get("loss") for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("here", "there")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert guarded(["train", *TRAINED, "--workers", "none", "--out", str(tmp_path / "wrong")]) == 2
    assert guarded(["train", "--env", "arena/board", "--workers", "2", "--warm-steps", "1", "--out", str(tmp_path / "game")]) == 2
    assert "one process" in capsys.readouterr().err


def test_a_worker_that_is_killed_while_a_policy_plays_there_costs_attempts_alone(tmp_path):
    servers, kept = LocalServers(2, ["text/bandit"]), EpisodeStore(tmp_path / "episodes.jsonl")
    there = Environments(servers, "text/bandit", agentgym.make("text/bandit", horizon=40).tasks)
    try:
        seen = []

        def tell(episode):
            seen.append(episode)
            if len(seen) == 30:
                servers.processes[1].kill()

        assert all(f.result() for f in there._urls), "both are there before anything is played: a late one is not played at"
        rollout = Rollout(lambda: there(split="train", horizon=40), resolve("random"), concurrency=8, keep=Keep(kept), on_episode=tell)
        assert essence(anyio.run(rollout.run, jobs(400))) == essence(play(None, 400))
        lost = [e for e in read_episodes(tmp_path / "episodes.jsonl") if e.status == "invalid"]
        assert lost and all(e.culprit == "infra" for e in lost)
        assert [answers(f.result()) for f in there._urls] == [True, True], "it was started again"
    finally:
        there.close()


class Nowhere:
    count, token = 2, ""

    def url(self, number, patience):
        raise Lost("no")

    def close(self):
        pass


def test_without_any_worker_there_is_no_environment(monkeypatch):
    monkeypatch.setattr(fleet, "START_S", 0.2)
    there = Environments(Nowhere(), "text/bandit", agentgym.make("text/bandit").tasks)
    with pytest.raises(Lost, match="none of 2"):
        there(split="train")
    there.close()
