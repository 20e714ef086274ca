"""The record and its store: framing, group commit, torn tails, kill -9, Parquet."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from worlds import wait_for

from agentgym.episode import ArtefactStore, Episode, EpisodeStore, Tokens, Turn, decode, encode, read_episodes, read_parquet, write_parquet
from agentgym.errors import RecordError
from agentgym.verdict import Place, Term, Verdict


def made(number: int, text: str = "hello") -> Episode:
    turn = Turn(
        [{"role": "user", "content": text}],
        text,
        tokens=Tokens([1, 2], [0, 1], [0.0, -0.5], {"temperature": 1.0}, [("3", 1)]),
        verdicts={"v": Verdict.scored(0.5)},
    )
    return Episode(f"e{number}#0", "test/world-v0", f"e{number}", "d", "train", turns=[turn], terms=[Term("v", 0.5, Place("turn", 0), 0)], status="valid")


def write(path: Path, episodes: list[Episode]) -> None:
    async def run() -> None:
        with EpisodeStore(path) as store:
            async with anyio.create_task_group() as group:
                for e in episodes:
                    group.start_soon(store.append, e)

    anyio.run(run)


def test_records_come_back_equal_whatever_their_text(tmp_path):
    episodes = [made(i, t) for i, t in enumerate(["a\nb", "\u2028\u2029\u0085", "\x00\x1b[31m", "\U0001f600 ü", '{"x": "\\n"}'])]
    write(tmp_path / "e.jsonl", episodes)
    assert list(read_episodes(tmp_path / "e.jsonl")) == episodes
    assert (tmp_path / "e.jsonl").read_bytes().count(b"\n") == len(episodes)


def test_a_torn_last_line_is_passed_over_and_repaired_once(tmp_path):
    path = tmp_path / "e.jsonl"
    write(path, [made(0), made(1)])
    whole = path.read_bytes()
    path.write_bytes(whole + encode(made(2))[:-20])
    assert [e.task for e in read_episodes(path)] == ["e0", "e1"]
    write(path, [made(3)])
    assert [e.task for e in read_episodes(path)] == ["e0", "e1", "e3"]


def test_two_writers_are_refused(tmp_path):
    with EpisodeStore(tmp_path / "e.jsonl"):
        code = f"from agentgym.episode import EpisodeStore; from pathlib import Path; EpisodeStore(Path({str(tmp_path / 'e.jsonl')!r}))"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode == 1 and "being written by another process" in other.stderr


def test_a_newer_schema_and_garbage_are_refused_with_the_place(tmp_path):
    path = tmp_path / "e.jsonl"
    newer = made(0)
    newer.schema = 99
    path.write_bytes(encode(made(1)) + encode(newer))
    with pytest.raises(RecordError, match=r"e\.jsonl:2: schema 99"):
        list(read_episodes(path))
    with pytest.raises(RecordError, match="not an episode"):
        decode(b"{}\n")


def test_appends_that_wait_together_share_one_fsync(tmp_path, monkeypatch):
    calls, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(fd), time.sleep(0.01), real(fd)))
    write(tmp_path / "e.jsonl", [made(i) for i in range(64)])
    assert len(list(read_episodes(tmp_path / "e.jsonl"))) == 64 and len(calls) < 16


def test_a_full_disk_is_an_error_for_everyone_who_waits_and_leaves_the_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "e.jsonl"
    write(path, [made(0)])

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    async def run() -> list[str]:
        seen: list[str] = []
        with EpisodeStore(path) as store:
            monkeypatch.setattr(os, "pwrite", full)

            async def one(i: int) -> None:
                try:
                    await store.append(made(i))
                except RecordError as error:
                    seen.append(str(error))

            async with anyio.create_task_group() as group:
                for i in range(1, 5):
                    group.start_soon(one, i)
        return seen

    assert all("No space left" in s for s in anyio.run(run)) and len(anyio.run(run)) == 4
    monkeypatch.undo()
    assert [e.task for e in read_episodes(path)] == ["e0"]


def test_kill_9_loses_nothing_that_was_acknowledged_and_the_run_resumes_by_id(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "agentgym",
        "eval",
        "--env",
        "tools/desk",
        "--policy",
        "random",
        "--episodes",
        "600",
        "--concurrency",
        "2",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = out / "episodes.jsonl"
    wait_for(path, 100_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {e.id for e in read_episodes(path)}
    assert 0 < len(kept) < 600
    subprocess.run(command, check=True, capture_output=True)
    everything = [e.id for e in read_episodes(path)]
    assert len(everything) == len(set(everything)) == 600 and kept <= set(everything)
    unbroken = tmp_path / "unbroken"
    subprocess.run([*command[:-1], str(unbroken)], check=True, capture_output=True)
    actions = [{e.id: [t.action for t in e.turns] for e in read_episodes(f / "episodes.jsonl")} for f in (out, unbroken)]
    assert actions[0] == actions[1]


def test_parquet_round_trip(tmp_path):
    episodes = [made(i, "x\ny") for i in range(5)]
    assert write_parquet(episodes, tmp_path / "e.parquet") == 5
    assert list(read_parquet(tmp_path / "e.parquet")) == episodes


def test_artefacts_are_named_by_their_content(tmp_path):
    store = ArtefactStore(tmp_path)
    name = store.put(b"final state")
    assert store.get(name) == b"final state"
    (tmp_path / name[:2] / name).write_bytes(b"other")
    with pytest.raises(RecordError, match="was changed"):
        store.get(name)
    with pytest.raises(RecordError, match="not an artefact's digest"):
        store.get("../../etc/passwd")
    with pytest.raises(RecordError, match="is missing"):
        store.get("0" * 64)
