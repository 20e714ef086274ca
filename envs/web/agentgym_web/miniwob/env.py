"""``web/miniwob-v0``: MiniWoB's tasks, each with its own seed, on a page that is kept and begun anew by a script."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.process import Critiqued
from msgspec import Struct
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from agentgym.core import Capabilities, EpisodeView, Limits, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import UnknownName
from agentgym.messages import Tool, parse_action
from agentgym.verdict import Json
from agentgym_web import MINIWOB, PER_TASK, TASKS
from agentgym_web.browser import host
from agentgym_web.env import BEGUN, STEPS, WebEnv
from agentgym_web.miniwob.fetch import pages
from agentgym_web.miniwob.oracles import script
from agentgym_web.session import POINTING, Session, tools

NOW = 1_767_225_600_000
"""When every episode begins, for the page: milliseconds since 1970, the first of January 2026."""
NAME = "miniwob.test"
READ = """() => ({ asks: (u => typeof u === 'string' ? u : u.utterance)(core.getUtterance()), done: WOB_DONE_GLOBAL, raw: WOB_RAW_REWARD_GLOBAL,
  reason: WOB_REWARD_REASON })"""
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; caret-color: transparent !important; }"
"""What moves by the machine's clock and not by the page's."""
WHOLLY = ("use-colorwheel", "use-colorwheel-2")
"""Pages that keep an open widget: they are loaded anew."""
PICTURES = """async () => {
  const found = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules].flatMap((rule) =>
    [...(rule.cssText || '').matchAll(/url\\("([^"]+)"\\)/g)].map((m) => new URL(m[1], sheet.href || location.href).href)));
  window.__agentgym.pictures = found.map((url) => Object.assign(new Image(), { src: url }));
  await Promise.all(window.__agentgym.pictures.map((i) => i.decode().catch(() => null)));
}"""
"""A picture of a style sheet has no size before it is there."""
BEGIN = """seed => {
  if (document.activeElement) document.activeElement.blur();
  for (const each of document.querySelectorAll('*')) if (each.scrollTop) each.scrollTop = 0;
  if (location.hash) history.replaceState(null, '', location.pathname);
  window.__agentgym.forget(); Math.seedrandom(seed); core.startEpisodeReal();
}"""


class Reached(Struct, frozen=True):
    """The page's own reward, without its share for speed: 1 if it paid in full, what it paid if in part, 0 if nothing or less, or time ran out.

    A few pages pay by degree, for a mouse that was in a circle some of the time, say: trying everything gets three quarters there, following it nine
    tenths. What is below 0.8 counts as 0.
    """

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        facts = view.episode.turns[-1].facts if view.episode.turns else {}
        raw = float(facts.get("raw", 0.0)) if facts.get("done") else 0.0
        return Verdict.scored(min(1.0, raw) if raw >= 0.8 else 0.0, raw=raw, reason=str(facts.get("reason") or ""))


@cache
def tasks_of(split: str, kinds: tuple[str, ...] = ()) -> TaskSet:
    """The pages (or some of them), each with seeds of its own: number n of every page, then number n + 1."""
    for kind in kinds:
        if kind not in TASKS:
            raise UnknownName("page of web/miniwob", kind, TASKS)
    return TaskSet([f"{name}.{split}.{n}" for n in range(PER_TASK[split]) for name in (kinds or TASKS)], _task)


def _task(task_id: str) -> Task:
    name, split, _ = task_id.rsplit(".", 2)
    seed = hashlib.blake2b(task_id.encode(), digest_size=8).hexdigest()
    return Task(task_id, "Do what the page asks at its top.", split, {"page": name, "seed": seed}, Limits(max_turns=30, max_malformed=5, max_calls=4), name)


class MiniwobEnv(Critiqued, WebEnv):
    """A page of MiniWoB. Option ``kinds`` (one or several) plays some of them only."""

    id = "web/miniwob-v0"
    capabilities: ClassVar[Capabilities] = MINIWOB.capabilities
    tools: Mapping[str, Tool] = tools(*POINTING)
    verifiers: ClassVar[Mapping[str, Verifier]] = {**STEPS, "task": Reached()}
    size = (500, 320)
    reads = READ
    guide = (
        "You use a web page through short actions, one a turn: click 91, fill 92 some text, select 93 an option, press Enter, type_text hello, "
        "hover 94, drag 95 96, scroll 100 97, double_click 98, highlight 99, click_at 60 80, drag_at 10 20 80 90, wait. Numbers in brackets are elements."
    )

    def __init__(self, *, kinds: str | Iterable[str] = (), **base: Any) -> None:
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        folder = str(pages())
        host().serve(NAME, lambda: Starlette(routes=[Mount("/", StaticFiles(directory=folder))]))
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split, self._kinds)

    async def _open(self, task: Task) -> Session:
        """A page for the task: the one at hand if it is of the same kind, else one that was kept, or a new one; begun with the task's seed."""
        name = str(task.data["page"])
        if self._session is not None and self._session.lease.key != name:
            await self._shut(self._session)
            self._session = None
        session = self._session
        if session is None:
            lease = await host().lease(name, self.size)
            lease.visit.at(NAME, None)
            session = Session(lease, f"http://{NAME}", kind=self._observe, read=READ, ticking=True)
        page = session.page
        if page.url == "about:blank" or name in WHOLLY:
            await page.clock.install(time=NOW)
            async with host().loading:
                await page.goto(f"http://{NAME}/miniwob/{name}.html", wait_until="load", timeout=BEGUN * 1000)
            await page.clock.pause_at(NOW + 10_000)
            await page.add_style_tag(content=STILL)
            await page.evaluate(PICTURES)
        # what the last episode began comes to its end; the mouse goes away, with an event after the move, which else waits for the next frame
        await asyncio.gather(session.tick(600), page.mouse.move(0, 0), page.mouse.up())
        await page.evaluate(BEGIN, str(task.data["seed"]))
        session.run_on(100)
        return session

    async def _shut(self, session: Session) -> None:
        session.detach()
        await host().give_back(session.lease)

    def _asks(self) -> str:
        return f"The page asks: {self._seen['more']['asks']}"

    def _ended(self) -> StopReason | None:
        return StopReason.DONE if (self._seen["more"] or {}).get("done") else None

    def _facts(self) -> dict[str, Json]:
        more = self._seen["more"]
        return {"done": more["done"], "raw": more["raw"], "reason": more["reason"]}

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"page.txt": self._state.encode()}

    def oracle(self) -> Iterator[str]:
        """A scripted solution, for the pages that have one (``oracles``)."""
        self._require_running()
        return script(self)

    def seen(self) -> tuple[str, str]:
        """What the page asks, and what it shows, as an oracle reads them."""
        return str(self._seen["more"]["asks"]), str(self._seen["seen"])

    def _save(self) -> bytes:
        return msgspec.msgpack.encode([turn.action for turn in self.episode.turns])

    def _load(self, payload: bytes) -> None:
        turns = self.episode.turns
        self._begin(self.task)
        for n, action in enumerate(msgspec.msgpack.decode(payload, type=list[str])):
            self.episode.turns = turns[: n + 1]
            parsed = parse_action(action, max_chars=self.limits.max_action_chars, max_calls=self.limits.max_calls)
            if parsed.problem is None:
                self._advance(parsed)
        self.episode.turns = turns
