"""What an environment costs a worker, and from that what 10, 1,000 and 100,000 at once need. One JSON line; ``--table`` prints docs/scaling.md's tables.

Measured: processor time and memory of each kind of environment, bytes over the wire and on disk, and what a step costs who plays it from elsewhere. A
simulation of workers, players and model servers with these costs gives throughput and the first bottleneck; it is held against a real run on this machine.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENVS: dict[str, dict[str, Any]] = {
    "text/bandit": {}, "tools/desk": {}, "text/world": {}, "arena/board": {"options": {"games": "tictactoe"}}, "nethack/score": {"policy": "random"},
    "web/miniwob": {"held": 4, "episodes": 8, "policy": "random"}, "gui/desk": {"held": 2, "episodes": 3},
    "swe/mend": {"held": 6, "episodes": 4, "options": {"sandbox": "bwrap"}}, "swe/mend docker": {"held": 4, "episodes": 3, "options": {"sandbox": "docker"}},
}  # fmt: skip
NEEDS = (10, 1_000, 100_000)


# What is measured, each kind in a process of its own


def tree(pid: int) -> Iterator[int]:
    """A process and all that it has started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield from tree(int(child))


def memory() -> int:
    """Proportional bytes of this process and its children."""
    total = 0
    for pid in set(tree(os.getpid())):
        with suppress(OSError):
            total += sum(int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")) * 1024
    return total


def contained() -> int:
    """Bytes that this machine's containers hold, beside this process's own."""
    from agentgym.sandbox.docker import engine
    from agentgym.sandbox.owner import LABEL

    client = engine()
    return sum(client.stats(c["Id"], stream=False)["memory_stats"].get("usage", 0) for c in client.containers(filters={"label": LABEL}))


def processor(docker: bool) -> float:
    """Seconds of processor that this process, what it has started, and (``docker``) this machine's containers have used."""
    ticks, containers = 0, Path("/sys/fs/cgroup/cpuacct/docker/cpuacct.usage")
    for pid in set(tree(os.getpid())):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[13:15] if pid == os.getpid() else fields[11:15]))  # its own is told more finely
    told = (int(containers.read_text()) / 1e9 if containers.exists() else math.nan) if docker else 0.0
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") + told


def measure(name: str) -> dict[str, float]:
    """Costs of one kind of environment, played by its oracle (or at random), one at a time."""
    import anyio
    import msgspec

    import agentgym
    from agentgym.policies import resolve
    from agentgym.rollout import Job, Rollout

    about = ENVS[name]
    env, options, held = name.partition(" ")[0], about.get("options", {}), about.get("held", 200)
    policy = resolve(about.get("policy", "oracle"))

    def make() -> Any:
        return agentgym.make(env, **options)

    first = make()
    ids = first.taskset.ids()
    first.close()

    def play(n: int, seed: int) -> list[Any]:
        return anyio.run(Rollout(make, policy, concurrency=1, max_tokens=None).run, [Job(ids[(seed + i) % len(ids)], seed=seed + i) for i in range(n)])

    play(2, 900)
    docker = options.get("sandbox") == "docker"
    before, began = processor(docker), time.perf_counter()
    episodes = play(about.get("episodes", 60), 1)
    used, wall = processor(docker) - before, time.perf_counter() - began
    steps = sum(len(e.turns) for e in episodes)
    said = [(t.observation, t.action) for e in episodes for t in e.turns]
    wire = sum(len(msgspec.json.encode(pair)) for pair in said) + sum(len(msgspec.json.encode(e.closing)) for e in episodes)
    opened = [make()]
    opened[0].reset(seed=900)
    base, started = contained() if docker else memory(), time.perf_counter()
    for i in range(held):
        opened.append(make())
        opened[-1].reset(seed=i)
    start = (time.perf_counter() - started) / held
    each = ((contained() if docker else memory()) - base) / held
    for one in opened:
        one.close()
    return {
        "cpu_ms_step": 1000 * used / steps, "wall_ms_step": 1000 * wall / steps, "memory_kb": each / 1024, "start_ms": 1000 * start,
        "turns": steps / len(episodes), "wire_bytes_step": wire / steps, "disk_bytes_episode": statistics.mean(len(msgspec.json.encode(e)) for e in episodes),
    }  # fmt: skip


class Slow:
    """The random policy, after ``think_s`` as a model would take it: log-normal about that mean."""

    name = "slow"

    def __init__(self, think_s: float, inner: Any = None, draw: random.Random | None = None) -> None:
        from agentgym.policies import resolve

        self.think_s, self.inner, self.draw = think_s, inner or resolve("random"), draw or random.Random(1)

    def attach(self, env: Any) -> Slow:
        return Slow(self.think_s, self.inner.attach(env), self.draw)

    async def act(self, conversation: Any) -> Any:
        import anyio

        await anyio.sleep(self.think_s * self.draw.lognormvariate(-0.125, 0.5))
        return await self.inner.act(conversation)


def elsewhere(workers: int, n: int, think_s: float, episodes: int) -> dict[str, float]:
    """``n`` bandits at once on workers of this machine: steps a second while all are busy, and what a step costs here and there, in ms of processor."""
    import anyio

    import agentgym
    from agentgym.rollout import Job, Rollout
    from agentgym.serving.fleet import Environments, LocalServers

    servers, ended = LocalServers(workers, ["text/bandit"]), list[tuple[float, int]]()
    there = Environments(servers, "text/bandit", agentgym.make("text/bandit").tasks)
    there(split="train").close()
    ids = agentgym.make("text/bandit").taskset.ids()

    def used() -> float:
        fields = [Path(f"/proc/{p.pid}/stat").read_text().rpartition(")")[2].split() for p in servers.processes.values()]
        return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")

    rollout = Rollout(
        lambda: there(split="train", horizon=20), Slow(think_s), concurrency=n, on_episode=lambda e: ended.append((time.perf_counter(), len(e.turns)))
    )
    here, away = time.process_time(), used()
    played = anyio.run(rollout.run, [Job(ids[i % len(ids)], i // len(ids), i) for i in range(episodes)])
    here, away = time.process_time() - here, used() - away
    there.close()
    middle, steps = ended[len(ended) // 4 : 3 * len(ended) // 4], sum(len(e.turns) for e in played)
    return {
        "steps_s": sum(n for _, n in middle[1:]) / (middle[-1][0] - middle[0][0]),
        "player_ms_step": 1000 * here / steps,
        "worker_ms_step": 1000 * away / steps,
    }


# What is worked out from that


@dataclass(frozen=True)
class Needs:
    """Assumptions, each a flag. ``think_s``: a model's turn; ``tokens``: what it writes in one; ``rate``: tokens a second of one accelerator."""

    think_s: float = 2.0
    tokens: float = 150.0
    rate: float = 5_000.0
    cores: int = 64
    ram_gb: float = 256.0
    net_gbit: float = 10.0
    core_hour: float = 0.04
    gpu_hour: float = 2.5
    busy: float = 0.7
    """The share of a resource that is planned for: queues grow without bound towards 1."""


def arithmetic(cost: dict[str, float], player_ms: float, n: int, needs: Needs) -> dict[str, Any]:
    """What ``n`` environments at once need, if none waits for anything but its model."""
    turn_s = needs.think_s + (cost["wall_ms_step"] + player_ms) / 1000
    steps = n / turn_s
    worker_cores = steps * cost["cpu_ms_step"] / 1000 / needs.busy
    player_cores = steps * player_ms / 1000 / needs.busy
    memory_gb = n * cost["memory_kb"] / 2**20
    machines = max(math.ceil(worker_cores / needs.cores), math.ceil(memory_gb / (needs.ram_gb * needs.busy)))
    gpus = steps * needs.tokens / needs.rate / needs.busy
    disk_gb_hour = steps * 3600 / cost["turns"] * cost["disk_bytes_episode"] / 2**30
    shares = {"model": gpus * needs.gpu_hour, "workers": (worker_cores or 0) * needs.core_hour, "players": player_cores * needs.core_hour}
    limits = {  # how many of each unit are wanted, where one is the least that can be had: the largest is what is met first
        "model servers": gpus, "players (one event loop each)": player_cores, "workers' processors": worker_cores / needs.cores,
        "workers' memory": memory_gb / (needs.ram_gb * needs.busy), "a machine's network": steps * cost["wire_bytes_step"] * 8e-9 / needs.net_gbit / needs.busy,
    }  # fmt: skip
    return {
        "environments": n, "steps_s": steps, "gpus": gpus, "worker_cores": worker_cores, "players": player_cores, "memory_gb": memory_gb, "machines": machines,
        "mbit_s": steps * cost["wire_bytes_step"] * 8 / 1e6, "disk_gb_hour": disk_gb_hour, "dollars_hour": sum(shares.values()),
        "first": max(limits, key=lambda k: limits[k]), "first_without_model": max((k for k in limits if k != "model servers"), key=lambda k: limits[k]),
    }  # fmt: skip


class Queue:
    """Servers of one kind, and who waits for one."""

    def __init__(self, servers: int) -> None:
        self.free, self.waiting, self.busy = servers, list[tuple[int, float]](), 0.0


def simulate(n: int, stations: dict[str, tuple[int, float]], think_s: float, seconds: float, seed: int = 0, spread: float = 0.5) -> dict[str, float]:
    """``n`` environments in turn at a model (a delay without a queue) and at ``stations``: servers, and seconds of one for a step.

    Delays are log-normal about their means, times of service exponential. Throughput, delay of a step beyond the model's, and how busy each station is,
    over the last two thirds of ``seconds``.
    """
    draw, names = random.Random(seed), list(stations)
    queues = {name: Queue(servers) for name, (servers, _) in stations.items()}
    events: list[tuple[float, int, int, int]] = []  # when, tie, environment, station that ends (-1: the model's turn)
    entered, done, waits, tie, warm = [0.0] * n, 0, list[float](), 0, seconds / 3

    def push(at: float, who: int, stage: int) -> None:
        nonlocal tie
        tie += 1
        heapq.heappush(events, (at, tie, who, stage))

    def think(at: float, who: int) -> None:
        push(at + think_s * draw.lognormvariate(-spread * spread / 2, spread), who, -1)

    def begin(at: float, who: int, stage: int) -> None:
        queue, (_, service) = queues[names[stage]], stations[names[stage]]
        if not queue.free:
            queue.waiting.append((who, at))
            return
        queue.free -= 1
        taken = draw.expovariate(1 / service)
        queue.busy += taken if at > warm else 0.0
        push(at + taken, who, stage)

    for who in range(n):
        push(think_s * draw.random(), who, -1)
    heads = dict.fromkeys(names, 0)
    while events:
        at, _, who, stage = heapq.heappop(events)
        if at > seconds:
            break
        if stage == -1:
            entered[who] = at
            begin(at, who, 0)
            continue
        queue = queues[names[stage]]
        queue.free += 1
        if heads[names[stage]] < len(queue.waiting):
            waiter, _ = queue.waiting[heads[names[stage]]]
            heads[names[stage]] += 1
            begin(at, waiter, stage)
        if stage + 1 < len(names):
            begin(at, who, stage + 1)
        else:
            if at > warm:
                done += 1
                waits.append(at - entered[who])
            think(at, who)
    span = seconds - warm
    waits.sort()
    if not waits:
        return {"steps_s": 0.0, "delay_ms": math.nan, "p99_ms": math.nan}
    return {
        "steps_s": done / span, "delay_ms": 1000 * statistics.mean(waits), "p99_ms": 1000 * waits[int(0.99 * len(waits))],
        **{f"busy_{name}": queues[name].busy / span / stations[name][0] for name in names},
    }  # fmt: skip


def measured(name: str) -> dict[str, float] | None:
    """Costs by a process of its own; None where the kind cannot be had here."""
    done = subprocess.run([sys.executable, __file__, "--measure", name], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, float] | None = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
    if found is None:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return found


def checked(costs: dict[str, float], think_s: float = 0.05, seconds: float = 10.0) -> list[dict[str, float]]:
    """The simulation beside this machine, below and beyond what it can do: one core plays, the others are workers."""
    stations = {"player": (1, costs["player_ms_step"] / 1000), "workers": (max(1, (os.cpu_count() or 2) - 1), costs["worker_ms_step"] / 1000)}
    rows = []
    for n in (16, 64, 256, 1024):
        found = elsewhere(max(1, (os.cpu_count() or 2) - 1), n, think_s, max(4 * n, int(min(n / think_s, 4000) * seconds / 20)))
        rows.append({"environments": n, "real": found["steps_s"], "simulated": simulate(n, stations, think_s, seconds)["steps_s"]})
    return rows


def scaled(cost: dict[str, float], player_ms: float, n: int, needs: Needs) -> dict[str, Any]:
    """The arithmetic's plan, simulated as it stands and with half of what it found to be met first."""
    plan = arithmetic(cost, player_ms, n, needs)
    share = 1 if n <= 50_000 else n // 50_000  # a cell of the whole: all stations in the same proportion
    cores, loops = max(1, round(plan["worker_cores"] / share)), max(1, round(plan["players"] / share))
    stations = {"players": (loops, player_ms / 1000), "workers": (cores, cost["cpu_ms_step"] / 1000)}
    waits = needs.think_s + max(0.0, cost["wall_ms_step"] - cost["cpu_ms_step"]) / 1000  # a desktop that settles takes time, but no processor
    found = simulate(n // share, stations, waits, 12.0)
    fewer = {k: (max(1, servers // 2) if k == "players" else servers, ms) for k, (servers, ms) in stations.items()}
    halved = simulate(n // share, fewer, waits, 12.0)
    return {**plan, "simulated": {**found, "steps_s": found["steps_s"] * share}, "with_half_the_players": {**halved, "steps_s": halved["steps_s"] * share}}


def rounded(value: Any) -> Any:
    """Four figures."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help="costs of one kind, in this process")
    parser.add_argument("--table", action="store_true", help="tables in Markdown, on standard error")
    parser.add_argument("--only", help="these kinds, separated by commas")
    for name, default in asdict(Needs()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    needs = Needs(**{k: getattr(given, k) for k in asdict(Needs())})
    names = given.only.split(",") if given.only else list(ENVS)
    costs = {name: found for name in names if (found := measured(name)) is not None}
    served = elsewhere(1, 64, 0.0005, 400)
    player_ms, served_ms = served["player_ms_step"], max(0.0, served["worker_ms_step"] - costs["text/bandit"]["cpu_ms_step"])
    planned = {name: {**costs[name], "cpu_ms_step": costs[name]["cpu_ms_step"] + served_ms} for name in ("tools/desk", "gui/desk", "swe/mend") if name in costs}
    plans = {name: [scaled(cost, player_ms, n, needs) for n in NEEDS] for name, cost in planned.items()}
    line = {
        "benchmark": "scaling", "costs": costs, "player_ms_step": player_ms, "served_ms_step": served_ms, "needs": asdict(needs), "checked": checked(served),
        "plans": plans,
    }  # fmt: skip
    print(json.dumps(rounded(line)))
    if given.table:
        tables(rounded(line))


COLUMNS: dict[str, Any] = {
    "at once": lambda p: f"{p['environments']:,}", "steps/s": lambda p: f"{p['steps_s']:,.0f}", "accelerators": lambda p: f"{p['gpus']:.3g}",
    "players": lambda p: f"{p['players']:.2g}", "workers' cores": lambda p: f"{p['worker_cores']:.3g}", "memory": lambda p: f"{p['memory_gb']:.3g} GiB",
    "network": lambda p: f"{p['mbit_s']:.3g} Mbit/s", "disk an hour": lambda p: f"{p['disk_gb_hour']:.3g} GiB",
    "$ an hour": lambda p: f"{p['dollars_hour']:.3g}",
    "first met": lambda p: p["first"], "then": lambda p: p["first_without_model"], "simulated steps/s": lambda p: f"{p['simulated']['steps_s']:,.0f}",
    "delay": lambda p: f"{p['simulated']['delay_ms']:.3g} ms", "half the players": lambda p: f"{p['with_half_the_players']['steps_s']:,.0f}",
}  # fmt: skip


def row(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def tables(line: dict[str, Any]) -> None:
    """The tables of docs/scaling.md."""
    out = [row(["environment", "processor, ms a step", "memory", "start", "turns", "bytes a step", "an episode on disk"]), "|---" * 7 + "|"]
    for name, c in line["costs"].items():
        size = f"{c['memory_kb'] / 1024:.0f} MiB" if c["memory_kb"] > 2048 else f"{c['memory_kb']:.0f} KiB"
        ends = [f"{c['turns']:.1f}", f"{c['wire_bytes_step']:.0f}", f"{c['disk_bytes_episode'] / 1024:.1f} KiB"]
        out.append(row([f"`{name}`", f"{c['cpu_ms_step']:.3g}", size, f"{c['start_ms']:.3g} ms", *ends]))
    out += ["", row(["environments", "real steps/s", "simulated"]), "|---|---|---|"]
    out += [row([str(r["environments"]), f"{r['real']:.0f}", f"{r['simulated']:.0f}"]) for r in line["checked"]]
    for name, plans in line["plans"].items():
        out += ["", f"`{name}`", "", row(list(COLUMNS)), "|---" * len(COLUMNS) + "|", *(row([tell(p) for tell in COLUMNS.values()]) for p in plans)]
    print("\n".join(out), file=sys.stderr)


if __name__ == "__main__":
    main()
