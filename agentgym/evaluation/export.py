"""Runs in the forms that others read: training chats, a dataset folder, agent trajectories, session traces, Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agentgym.episode import Episode, Turn, write_parquet
from agentgym.errors import MissingExtra
from agentgym.evaluation.regrade import Environments, episodes_of
from agentgym.evaluation.transcript import messages_of
from agentgym.messages import Message, call_id
from agentgym.verdict import Json

Row = dict[str, Any]
PARQUET = "pip install 'agentgym-core[parquet]'"


def _tools(environments: Environments, episode: Episode) -> list[Row]:
    return [t.spec.openai() for t in environments.of(episode).tools.values()]


def openai_rows(episodes: Iterable[Episode]) -> Iterator[Row]:
    """Lines of a chat fine-tuning file: ``messages`` and ``tools``. Only episodes that succeeded: they are to be imitated."""
    environments = Environments()
    for e in episodes:
        if e.success:
            row: Row = {"messages": [m for m in messages_of(e) if m["role"] != "assistant" or m.get("tool_calls") or m["content"]]}
            tools = _tools(environments, e)
            yield {**row, "tools": tools} if tools else row


def atif(episode: Episode, tools: Sequence[Row]) -> Row:
    """An episode as one trajectory of the Agent Trajectory Interchange Format, version 1.7."""
    steps: list[Row] = []
    for number, turn in enumerate(episode.turns):
        steps += [_said(m) for m in turn.observation if m["role"] in ("system", "user")]
        after = episode.turns[number + 1].observation if number + 1 < len(episode.turns) else episode.closing
        steps.append(_acted(turn, number, after, episode))
    steps += [_said(m) for m in episode.closing if m["role"] in ("system", "user")]
    usage = [t.usage for t in episode.turns]
    about = {"name": "agentgym", "version": str(episode.provenance.get("agentgym-core", "0")), "model_name": episode.policy}
    return {
        "schema_version": "ATIF-v1.7",
        "session_id": episode.id,
        "trajectory_id": episode.id,
        "agent": {**about, **({"tool_definitions": list(tools)} if tools else {})},
        "steps": [{"step_id": i, **step} for i, step in enumerate(steps, 1)],
        "final_metrics": {
            "total_prompt_tokens": sum(u.get("prompt_tokens", 0) for u in usage),
            "total_completion_tokens": sum(u.get("completion_tokens", 0) for u in usage),
            "total_cost_usd": episode.cost,
            "total_steps": len(steps),
        },
        "extra": {
            "env": episode.env, "task": episode.task, "split": episode.split, "seed": episode.seed, "status": episode.status,
            "stop_reason": episode.stop_reason and episode.stop_reason.value, "reward": episode.total, "success": episode.success,
            "verdicts": msgspec.to_builtins(episode.verdicts), "terms": msgspec.to_builtins(episode.terms),
        },
    }  # fmt: skip


def _said(message: Message) -> Row:
    return {"source": message["role"], "message": str(message["content"])}


def _acted(turn: Turn, number: int, after: Sequence[Message], episode: Episode) -> Row:
    """The policy's step: prose, calls, what they gave, and what it cost."""
    step: Row = {"source": "agent", "message": turn.action.partition("<tool_call>")[0].strip() if turn.calls else turn.action}
    if turn.calls:
        step["tool_calls"] = [{"tool_call_id": call_id(number, i), "function_name": c.name, "arguments": c.arguments} for i, c in enumerate(turn.calls)]
    ids = {call_id(number, i) for i in range(len(turn.calls))}
    results = [m for m in after if m["role"] == "tool" and m.get("tool_call_id") in ids]
    if results:
        step["observation"] = {"results": [{"source_call_id": m["tool_call_id"], "content": str(m["content"])} for m in results]}
    metrics: Row = {k: turn.usage[k] for k in ("prompt_tokens", "completion_tokens") if k in turn.usage}
    if turn.tokens is not None:
        sampled = [i for i, m in enumerate(turn.tokens.mask) if m]
        metrics |= {"completion_token_ids": [turn.tokens.ids[i] for i in sampled], "logprobs": [turn.tokens.logprobs[i] for i in sampled]}
    if metrics:
        step["metrics"] = metrics
    verdicts = msgspec.to_builtins(turn.verdicts)
    return {**step, "extra": {"turn": number, "state_hash": turn.state_hash, "verdicts": verdicts, **({"problem": turn.problem} if turn.problem else {})}}


def sts(episode: Episode) -> list[Row]:
    """An episode as lines of a session trace, as the Hub's viewer and its dataset loader read them: a header, then messages."""
    began = episode.began or "1970-01-01T00:00:00.000Z"
    lines: list[Row] = [{"type": "session", "version": 3, "id": episode.id, "timestamp": began, "cwd": f"/{episode.env}"}]
    lines.append({"type": "model_change", "id": "model", "parentId": None, "timestamp": began, "provider": "agentgym", "modelId": episode.policy})
    for number, message in enumerate(messages_of(episode)):
        parent = f"m{number - 1}" if number else "model"
        lines.append({"type": "message", "id": f"m{number}", "parentId": parent, "timestamp": began, "message": _traced(message)})
    told = {"reward": episode.total, "success": episode.success, "status": episode.status, "task": episode.task}
    lines.append({"type": "custom", "id": "result", "parentId": lines[-1]["id"], "timestamp": began, "customType": "agentgym.result", "data": told})
    return lines


def _traced(message: Message) -> Row:
    text = [{"type": "text", "text": str(message["content"])}]
    if message["role"] == "tool":
        return {"role": "toolResult", "toolCallId": message["tool_call_id"], "toolName": message.get("name", ""), "content": text, "isError": False}
    calls: list[Row] = [
        {"type": "toolCall", "id": c["id"], "name": c["function"]["name"], "arguments": _object(c["function"]["arguments"])}
        for c in message.get("tool_calls", [])
    ]
    return {"role": message["role"], "content": [*(text if message["content"] else []), *calls]}


def _object(arguments: Json) -> Json:
    return msgspec.json.decode(arguments) if isinstance(arguments, str) else arguments


def hf_rows(episodes: Iterable[Episode]) -> Iterator[Row]:
    """Rows of a dataset: the conversation, what it was paid, and where it comes from. Structured cells are JSON text."""
    for e in episodes:
        yield {
            "id": e.id, "env": e.env, "task": e.task, "kind": e.kind, "split": e.split, "attempt": e.attempt, "policy": e.policy,
            "messages": [_flat(m) for m in messages_of(e)],
            "reward": e.total, "success": e.success, "valid": e.status == "valid", "stop_reason": e.stop_reason and e.stop_reason.value,
            "verdicts": _text(msgspec.to_builtins(e.verdicts)), "terms": _text(msgspec.to_builtins(e.terms)),
        }  # fmt: skip


def _flat(message: Message) -> Row:
    return {"role": message["role"], "content": str(message["content"]), "tool_calls": _text(message.get("tool_calls")), "name": message.get("name")}


def _text(value: Json) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


# Each format: a folder of a run, and where to write


def _write_openai(folder: Path, to: Path) -> int:
    return _lines(to, openai_rows(episodes_of(folder)))


def _write_atif(folder: Path, to: Path) -> int:
    environments = Environments()
    rows = ((e, atif(e, _tools(environments, e))) for e in episodes_of(folder) if e.turns)
    return _each(to, ((f"{_file(e.id)}.json", msgspec.json.format(msgspec.json.encode(row), indent=1)) for e, row in rows))


def _write_sts(folder: Path, to: Path) -> int:
    rows = ((e, b"".join(msgspec.json.encode(line) + b"\n" for line in sts(e))) for e in episodes_of(folder) if e.turns)
    return _each(to, ((f"{_file(e.id)}.jsonl", data) for e, data in rows))


def _write_parquet(folder: Path, to: Path) -> int:
    return write_parquet(episodes_of(folder), to)


def _write_hf(folder: Path, to: Path) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", PARQUET) from None
    rows = list(hf_rows(episodes_of(folder)))
    (to / "data").mkdir(parents=True, exist_ok=True)
    splits = sorted({r["split"] for r in rows})
    for split in splits:
        table = pyarrow.Table.from_pylist([r for r in rows if r["split"] == split])
        pyarrow.parquet.write_table(table, to / "data" / f"{split}-00000-of-00001.parquet")
    named = "".join(f"  - split: {s}\n    path: data/{s}-*.parquet\n" for s in splits)
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{named}---\n\n# {rows[0]['env'] if rows else 'episodes'}\n\n"
    (to / "README.md").write_text(card + f"{len(rows)} episodes of {', '.join(sorted({r['policy'] for r in rows}))}, made with agentgym.\n")
    return len(rows)


def _lines(to: Path, rows: Iterable[Row]) -> int:
    count = 0
    with to.open("wb") as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count


def _each(to: Path, files: Iterable[tuple[str, bytes]]) -> int:
    to.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, data in files:
        (to / name).write_bytes(data)
        count += 1
    return count


def _file(episode: str) -> str:
    """An episode's id as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", episode)


FORMATS: dict[str, Callable[[Path, Path], int]] = {
    "atif": _write_atif, "sts": _write_sts, "openai": _write_openai, "hf": _write_hf, "parquet": _write_parquet,
}  # fmt: skip
"""Name to function: writes a run folder's episodes to a file or folder, returns how many."""
