"""An episode as a judge reads it: quoted line by line, so that nothing in it can speak for the judge, its end, or its verdict."""

from __future__ import annotations

import re
import unicodedata

from agentgym.episode import Episode
from agentgym.messages import Message

MARK = "| "
"""Begins every line of an episode that a judge is shown."""

LONGEST = 4_000
"""Characters of one message of the world; the middle of a longer one is left out. What the agent wrote is never cut: it could hide there."""

_BLANK = re.compile(r"\s+")


class _Visible(dict[int, int | None]):
    """By code point, itself if it can be seen, None if not; looked up once."""

    def __missing__(self, point: int) -> int | None:
        c = chr(point)
        hidden = c not in "\n\t" and (unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn") or "\ufe00" <= c <= "\ufe0f")
        self[point] = None if hidden else point
        return self[point]


_VISIBLE = _Visible()


def visible(text: str) -> str:
    """Text without what cannot be seen: control and format characters, tags, variation selectors. Line breaks and tabs stay."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def quoted(text: str, longest: int | None = None) -> str:
    """Every line of it behind the mark, whatever else breaks lines made a break too."""
    text = visible(text)
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2]}\n[… {len(text) - longest} characters left out …]\n{text[-longest // 2 :]}"
    return "\n".join(MARK + line for line in text.splitlines() or [""])


def shown(episode: Episode) -> str:
    """The whole episode: each message and each action under a heading of its own, the actions numbered from 0."""
    out = []
    for number, turn in enumerate(episode.turns):
        out += [_told(m) for m in turn.observation]
        out.append(f"[action {number}]\n{quoted(turn.action)}" + (f"\n[this action was malformed]\n{quoted(turn.problem)}" if turn.problem else ""))
    return "\n".join([*out, *(_told(m) for m in episode.closing)])


def _told(message: Message) -> str:
    who = {"system": "rules", "tool": "result"}.get(message["role"], "world")
    return f"[{who}]\n{quoted(str(message['content']), LONGEST)}"


def done_in(episode: Episode) -> str:
    """All that was done and came of it, without what was asked: where evidence has to stand."""
    said = [t.action for t in episode.turns] + [str(m["content"]) for t in episode.turns[1:] for m in t.observation]
    return squeezed("\n".join([*said, *(str(m["content"]) for m in episode.closing)]))


def squeezed(text: str) -> str:
    """Visible text with every run of blanks as one, for comparison."""
    return _BLANK.sub(" ", visible(text).replace(MARK, " ")).strip().casefold()


def occurs(quote: str, text: str) -> bool:
    """Whether a quote stands in a text that is ``squeezed`` already. An empty one, or one of two letters, is no evidence."""
    squeezed_quote = squeezed(quote)
    return len(squeezed_quote) > 2 and squeezed_quote in text
