"""What an agent, and a record, are shown of a sandbox: how a command went, and a digest of what the agent may write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from agentgym.sandbox.base import HOME, WORK, Completed, Sandbox
from agentgym.sandbox.link import Entry

SHOWN = 8_000
IGNORED = (".git", "__pycache__", ".pytest_cache", ".hypothesis")


def shorten(text: str, most: int = SHOWN) -> str:
    """Head and tail of a long text, the cut marked."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[… {len(text) - most:,} characters left out …]\n{text[-(most // 2) :]}"


def told(done: Completed, seconds: float) -> str:
    """What a command said and how it ended, for the agent."""
    lines = [shorten(done.output.rstrip("\n"))] if done.output.strip() else []
    if done.timed_out:
        lines.append(f"[timed out after {seconds:g} s; {done.ended} processes were killed]")
    elif done.disk_full:
        lines.append("[killed: the disk quota is used up]")
    elif done.oom:
        lines.append("[killed: out of memory]")
    elif done.ended:
        lines.append(f"[{done.ended} processes that it left running were killed: the limit of processes was met]")
    if done.refused:
        lines.append("[there is no network here]")
    if done.code and not done.timed_out:
        lines.append(f"[exit code {done.code}]")
    return "\n".join(lines) or "[no output]"


def look(sandbox: Sandbox, ignored: Sequence[str] = IGNORED) -> tuple[Mapping[str, Entry], str]:
    """The entries of ``/work``, and a digest of all files that the agent may write.

    Raises:
        FileNotFoundError: it holds more than may be copied out.
    """
    entries = sandbox.collect(WORK)
    digest = hashlib.blake2b(digest_size=16)
    for place, found in ((WORK, entries), ("/tmp", sandbox.collect("/tmp")), (HOME, sandbox.collect(HOME))):
        for path in sorted(found):
            entry = found[path]
            if path and not any(part in ignored for part in path.split("/")):
                digest.update(f"{place}/{path}\0{entry.type}{entry.mode:o}\0{len(entry.data)}\0".encode("utf-8", "surrogateescape") + entry.data)
    return entries, digest.hexdigest()
