"""A run in a terminal: the same list, conversation, terms and verdicts as in the browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Group
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.geometry import Size
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from agentgym.core import Term, Verdict
from agentgym.episode import Episode, Turn, decode
from agentgym.errors import RecordError
from agentgym.messages import Message, inert
from agentgym.view.index import ROWS, Index, Row

WIDE = 28
"""Cells of a bar of terms."""

PALETTE = ("dodger_blue1", "orange3", "green3", "deep_pink3", "medium_purple1", "gold3", "dark_cyan", "red3", "steel_blue", "dark_olive_green3")
SIGNS = {"valid": ("✓", "✗"), "running": ("…", "…")}


def matches(row: Row, words: Sequence[str]) -> bool:
    """Whether a row has every word of a filter: ``success``, ``failure``, ``invalid``, ``kind:K``, or letters of its names."""
    valid = row.status == "valid"
    told = {"success": row.success, "failure": valid and not row.success, "invalid": row.status == "invalid"}
    names = f"{row.id} {row.task} {row.kind} {row.policy} {row.stop} {row.why}".lower()
    return all(told[w] if w in told else row.kind == w[5:] if w.startswith("kind:") else w in names for w in words)


class Rows(ScrollView, can_focus=True):
    """The list. Only the lines on the screen are made, so its length costs nothing."""

    at = reactive(-1)
    rows: Sequence[Row] = ()

    def show(self, rows: Sequence[Row]) -> None:
        """Show these."""
        self.rows = rows
        self.virtual_size = Size(self.size.width, len(rows))
        self.refresh()

    def watch_at(self) -> None:
        """Keep the chosen one in sight."""
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if not top <= self.at < top + height:
            self.scroll_to(y=max(0, self.at - height // 2), animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One row, or nothing."""
        n = y + self.scroll_offset.y
        if n >= len(self.rows):
            return Strip.blank(self.size.width)
        row = self.rows[n]
        good, bad = SIGNS.get(row.status, ("!", "!"))
        colour = "yellow" if good == bad else "green" if row.success else "red"
        chosen = Style(reverse=n == self.at)
        text = f" {inert(row.id).replace(chr(10), ' ')}  {inert(row.policy)}  {row.reward:+.2f}  {row.turns} turns"
        line = [Segment(f" {good if row.success else bad}", Style(color=colour) + chosen), Segment(text, chosen)]
        return Strip(line).adjust_cell_length(self.size.width, chosen)


def bar(terms: Sequence[Term], colours: dict[str, str], most: float) -> Group:
    """Reward terms as a stacked bar, ``most`` across, and what they are; those below 0 are hatched."""
    line, legend = Text(), Text()
    for t in terms:
        colour = colours.setdefault(t.source, PALETTE[len(colours) % len(PALETTE)])
        line.append(("█" if t.value >= 0 else "▒") * (max(1, round(WIDE * abs(t.value) / most)) if t.value else 0), colour)
        legend.append("■ ", colour).append(f"{inert(t.source)} {t.value:+.3g}   ")
    return Group(line, legend)


def _spoken(message: Message) -> Iterator[Text]:
    yield Text(message["role"], "dim")
    yield Text(inert(str(message["content"])))


def _judged(verdicts: dict[str, Verdict]) -> Iterator[Text]:
    for name, v in verdicts.items():
        value = "" if v.value is None else f" {v.value:g}"
        line = Text(f"{inert(name)}: {v.status}{value}", "green" if v.value == 1.0 else "red" if v.status != "scored" or v.value == 0.0 else "")
        told = [f"{k} = {x!r:.200}" for k, x in v.evidence.items()] + ([v.critique] if v.critique else [])
        yield line.append(f"  {inert('; '.join(told))}", "dim") if told else line


def _turn(number: int, turn: Turn, terms: Sequence[Term], colours: dict[str, str], most: float) -> Group:
    parts: list[Any] = [part for m in turn.observation for part in _spoken(m)]
    parts += [Text(f"turn {number}", "bold dodger_blue1"), Text(inert(turn.action))]
    parts += [Text(inert(turn.problem), "red")] if turn.problem else []
    parts += [bar(terms, colours, most)] if terms else []
    return Group(*parts, *_judged(turn.verdicts))


class Conversation(VerticalScroll):
    """One episode, that of ``row``."""

    row = -1

    def show(self, episode: Episode | None, why: str = "", beside: Episode | None = None) -> None:
        """Show it, or why there is none; turns with another action than those ``beside`` are marked."""
        self.remove_children()
        self.scroll_home(animate=False)
        if episode is None:
            self.mount(Static(Text(inert(why))))
            return
        colours: dict[str, str] = {}
        terms = list(episode.terms)
        most = max((abs(t.value) for t in terms), default=1.0) or 1.0
        head = Text(inert(episode.id), "bold").append(
            f"\n{episode.env} {episode.split} · {inert(episode.policy)} · {episode.status} · {episode.stop_reason or 'running'}", "dim"
        )
        if episode.parent:
            head.append(f"\nbranches from {inert(episode.parent[0])} after turn {episode.parent[1]}", "dim")
        cards = [Static(head, classes="head")]
        for n, turn in enumerate(episode.turns):
            mine = [t for t in terms if t.place.level != "episode" and t.place.turn == n]
            apart = beside is not None and (n >= len(beside.turns) or beside.turns[n].action != turn.action)
            cards.append(Static(_turn(n, turn, mine, colours, most), classes="turn apart" if apart else "turn"))
        last = [t for t in terms if t.place.level == "episode" or t.place.turn is None]
        end: list[Any] = [part for m in episode.closing for part in _spoken(m)]
        end += [bar(last, colours, most)] if last else []
        end += [Text(inert(episode.fault), "red")] if episode.fault else []
        cards.append(Static(Group(*end, *_judged(episode.verdicts), Text(f"reward {episode.total:+.3g}", "bold")), classes="turn"))
        self.mount_all(cards)

    def turn(self, by: int) -> None:
        """Go that many turns on."""
        tops = [w.virtual_region.y for w in self.query(".turn")]
        now = self.scroll_offset.y
        wanted = [y for y in tops if y > now] if by > 0 else [y for y in reversed(tops) if y < now]
        self.scroll_to(y=wanted[0] if wanted else 0 if by < 0 else now, animate=False)


class Terminal(App[None]):
    """``agentgym view DIR --tui``."""

    CSS = """
    #left { width: 34%; min-width: 30; border-right: solid $primary-darken-2; }
    #find { height: 3; } Rows { height: 1fr; } #count { height: 1; color: $text-muted; padding: 0 1; }
    Conversation { padding: 0 2; } .head { padding: 1 0; } .turn { border-left: thick $primary-darken-2; padding: 0 1; margin-bottom: 1; }
    .apart { border-left: thick $warning; }
    #other { display: none; } #other.on { display: block; }
    """
    BINDINGS: ClassVar = [
        Binding("j,down", "move(1)", "next"), Binding("k,up", "move(-1)", "before"), Binding("l,right", "turn(1)", "turn on"),
        Binding("h,left", "turn(-1)", "turn back"), Binding("slash", "find", "filter"), Binding("d", "beside", "beside another attempt"),
        Binding("q", "quit", "end"),
    ]  # fmt: skip

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.index, self.words = Index(folder), list[str]()
        self.title = inert(folder.resolve().name)

    def compose(self) -> ComposeResult:
        """The list, one episode, room for another."""
        with Horizontal():
            with Vertical(id="left"):
                yield Input(placeholder="filter: words, success, failure, invalid, kind:…", id="find")
                yield Static("", id="count")
                yield Rows(id="rows")
            yield Conversation(id="one", can_focus=False)
            yield Conversation(id="other", can_focus=False)
        yield Footer()

    def on_mount(self) -> None:
        """Read what is there, and go on reading."""
        self.query_one(Rows).focus()
        self.follow()
        self.set_interval(0.5, self.follow)

    def follow(self) -> None:
        """Read on, a part at a time."""
        known = len(self.index.rows)
        whole = self.index.refresh(ROWS)
        if len(self.index.rows) != known or not known:
            self.sieve()
        if not whole:
            self.call_later(self.follow)

    def sieve(self) -> None:
        """The rows that the filter lets through; the chosen one stays chosen."""
        rows = self.query_one(Rows)
        before = rows.rows[rows.at] if 0 <= rows.at < len(rows.rows) else None
        kept = [r for r in self.index.rows if matches(r, self.words)]
        rows.show(kept)
        self.query_one("#count", Static).update(Text(f"{len(kept)} of {len(self.index.rows)} episodes"))
        at = next((i for i, r in enumerate(kept) if before is not None and r.n == before.n), 0 if kept else -1)
        rows.at = at
        if not kept or before is None or kept[at].n != before.n:
            self.show()

    def show(self) -> None:
        """The chosen episode."""
        self.query_one("#other").remove_class("on")
        self._into("#one", self._chosen())

    def _chosen(self) -> Row | None:
        rows = self.query_one(Rows)
        return rows.rows[rows.at] if 0 <= rows.at < len(rows.rows) else None

    def _read(self, row: Row) -> Episode | str:
        """An episode, or why it cannot be read."""
        try:
            return decode(self.index.line(row.n))
        except (RecordError, IndexError, OSError) as error:
            return f"this line cannot be read: {error}"

    def _into(self, place: str, row: Row | None, beside: Row | None = None) -> None:
        pane = self.query_one(place, Conversation)
        pane.row = -1 if row is None else row.n
        found = "no episode yet" if row is None else self._read(row)
        other = None if beside is None else self._read(beside)
        if isinstance(found, str):
            pane.show(None, found)
        else:
            pane.show(found, beside=other if isinstance(other, Episode) else None)

    def action_move(self, by: int) -> None:
        """Another episode."""
        rows = self.query_one(Rows)
        if rows.rows:
            rows.at = min(max(rows.at + by, 0), len(rows.rows) - 1)
            self.show()

    def action_turn(self, by: int) -> None:
        """Another turn, on both sides."""
        for pane in self.query(Conversation):
            pane.turn(by)

    def action_find(self) -> None:
        """Write a filter."""
        self.query_one(Input).focus()

    def action_beside(self) -> None:
        """The next attempt at the same task, beside this one; none again when all have been."""
        chosen, other = self._chosen(), self.query_one("#other", Conversation)
        if chosen is None:
            return
        seen = other.row if other.has_class("on") else -1
        mate = next((r for r in self.index.rows if r.task == chosen.task and r.n != chosen.n and r.n > seen), None)
        other.set_class(mate is not None, "on")
        self._into("#one", chosen, mate)
        if mate is not None:
            self._into("#other", mate, chosen)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is written."""
        self.words = event.value.lower().split()
        self.sieve()

    def on_input_submitted(self) -> None:
        """Back to the list."""
        self.query_one(Rows).focus()
