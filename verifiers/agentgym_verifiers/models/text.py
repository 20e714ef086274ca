"""An episode as the ids a reward model reads, and where each turn ends in them: one rendering, whatever the number of turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agentgym.episode import Episode
from agentgym.messages import Message

MARKS = "\ue000\ue001"
"""Characters for private use: where an action ends in a rendering, before they are taken out again."""

TEMPLATE = "{%- for m in messages -%}{{- '[' + m.role + ']\\n' + m.content + '\\n' -}}{%- endfor -%}"
"""For models that have no chat template."""


class Read(Struct, frozen=True):
    """Ids of an episode, and for each turn the index of the last token of its action."""

    ids: list[int]
    ends: list[int]


def defuser(tokenizer: Any) -> Callable[[str], str]:
    """What breaks the special tokens that somebody wrote in a message by an invisible space: they stay text, and open and end no turn."""
    special = sorted((t for t in tokenizer.all_special_tokens if len(t) > 1), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    return lambda text: pattern.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


def plain_messages(episode: Episode, closing: bool = False) -> list[Message]:
    """The conversation with actions as they were written, and answers of tools as messages of the user: any template renders that.

    ``closing`` adds what came after the last action; a reward model does not read it, since a policy's last word comes before it.
    """
    out: list[Message] = []
    for turn in episode.turns:
        out += [_plain(m) for m in turn.observation]
        out.append({"role": "assistant", "content": turn.action.translate(_GONE) + MARKS})
    return [*out, *(_plain(m) for m in episode.closing)] if closing else out


_GONE = dict.fromkeys(map(ord, MARKS))


def _plain(message: Message) -> Message:
    content = str(message["content"]).translate(_GONE)
    return {"role": message["role"] if message["role"] in ("system", "user") else "user", "content": content}


def rendered(episode: Episode, tokenizer: Any, reference: Episode | None = None) -> tuple[str, list[int]]:
    """The text, and the offset at which each turn's action ends. A ``reference`` (another attempt at the task) is told before it.

    Two messages of one role in a row become one, since many templates refuse them.
    """
    messages, defused = plain_messages(episode), defuser(tokenizer)
    if reference is not None:
        told = "\n".join(f"[{m['role']}] {m['content']}" for m in plain_messages(reference)).translate(_GONE)
        messages = [{"role": "user", "content": f"A reference attempt:\n{told}"}, *messages]
    merged: list[Message] = []
    for m in messages:
        if merged and merged[-1]["role"] == m["role"]:
            merged[-1] = {**m, "content": f"{merged[-1]['content']}\n\n{m['content']}"}
        else:
            merged.append(m)
    merged = [{**m, "content": defused(m["content"])} for m in merged]
    text = tokenizer.apply_chat_template(merged, tokenize=False, **({} if tokenizer.chat_template else {"chat_template": TEMPLATE}))
    ends, pieces, at = [], text.split(MARKS), 0
    for piece in pieces[:-1]:
        at += len(piece)
        ends.append(at)
    return "".join(pieces), ends


def read(episode: Episode, tokenizer: Any, reference: Episode | None = None) -> Read:
    """The ids of an episode and its turns' ends."""
    text, ends = rendered(episode, tokenizer, reference)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Read(list(found["input_ids"]), _last_before([start for start, _ in found["offset_mapping"]], ends))


def _last_before(starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """For each offset the last token that begins before it; both are in order."""
    out, i = [], 0
    for end in ends:
        while i + 1 < len(starts) and starts[i + 1] < end:
            i += 1
        out.append(i)
    return out
