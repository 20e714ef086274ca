"""``web/shop-v0``: a shop whose database decides."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.process import Critiqued
from agentgym_verifiers.rules.match import same
from msgspec import Meta, Struct

from agentgym.core import Capabilities, EpisodeView, Limits, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import CapabilityError, EnvironmentFault, UnknownName
from agentgym.messages import Tool, call, tool
from agentgym.verdict import Json
from agentgym_web import PER_TEMPLATE, SHOP
from agentgym_web.browser import host
from agentgym_web.env import BEGUN, STEPS, WebEnv
from agentgym_web.session import BROWSING, Session, tools
from agentgym_web.shop.site import app
from agentgym_web.shop.tasks import TEMPLATES, Bench
from agentgym_web.shop.world import LAYOUTS, World

NAME = "shop.test"
ORIGIN = f"http://{NAME}"
CATALOGUES = {"train": range(16), "dev": range(16, 18), "test": range(18, 20)}
"""The seeds of the shops of each split."""
LINE = re.compile(r'\s*\[(\d+)\] (\w+)(?: "((?:[^"\\]|\\.)*)")?(.*)')
WIDGETS = {"fill": ("textbox", "searchbox", "spinbutton"), "choose": ("combobox",), "upload": ("file",), "click": ("button", "link", "checkbox")}

KEEP = """() => {
  const kept = window.__agentgym, found = kept.read('tree'), focused = kept.ids.get(document.activeElement) || 0;
  const numbers = found.seen.split('\\n').map((line) => /^ *\\[(\\d+)\\]/.exec(line)).filter(Boolean).map((m) => +m[1]);
  const open = [...document.querySelectorAll('[aria-expanded=true]')].map((e) => e.dataset.opens);
  return [found.values, document.scrollingElement.scrollTop, numbers, kept.next, focused, open];
}"""
PUT_BACK = """([values, top, numbers, next, focused, open]) => {
  const kept = window.__agentgym;
  for (const menu of open) document.querySelector(`[data-opens=${menu}]`).click();
  kept.refill([values, top]);
  kept.renumber(numbers, next);
  if (focused && kept.find(focused)) kept.find(focused).focus({ preventScroll: true }); else if (document.activeElement) document.activeElement.blur();
}"""
"""What a page holds beside its address, and how it is put back."""


class Settled(Struct, frozen=True):
    """The database is as it should be, with nothing else changed, and what was asked for was answered. What the page shows does not count."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        data = view.task.data
        wanted: Any = data["changes"]
        found = msgspec.json.decode(view.artefacts["changes.json"])
        wrong = sorted(table for table in wanted.keys() | found.keys() if wanted.get(table) != found.get(table))
        said = next((c.arguments.get("text") for t in reversed(view.episode.turns) for c in reversed(t.calls) if c.name == "answer"), None)
        if said is None:
            said = next((t.action[7:] for t in reversed(view.episode.turns) if t.action.startswith("answer ")), None)
        right = data.get("answer") is None or (said is not None and same(data["answer"], str(said)))
        return Verdict.scored(float(right and not wrong), wrong=list(wrong), answer=None if said is None else str(said)[:200], right=right)


@cache
def tasks_of(split: str, kinds: tuple[str, ...] = ()) -> TaskSet:
    """All templates, or those of some kinds or names, each with seeds of its own: number n of every template, then number n + 1."""
    known = [*TEMPLATES, "errands", *dict.fromkeys(kind for kind, _ in TEMPLATES.values())]
    for kind in kinds:
        if kind not in known:
            raise UnknownName("template or kind of web/shop", kind, known)
    names = [name for name, (kind, _) in TEMPLATES.items() if not kinds or {name, kind, name.rpartition("-")[0]} & {*kinds}]
    return TaskSet([f"{name}.{split}.{n}" for n in range(PER_TEMPLATE[split]) for name in names], _task)


def _task(task_id: str) -> Task:
    name, split, number = task_id.rsplit(".", 2)
    rng = random.Random(f"web/shop/{task_id}")
    seed = CATALOGUES[split][int(number) % len(CATALOGUES[split])]
    bench = Bench(seed, rng)
    draft = TEMPLATES[name][1](bench)
    data: dict[str, Json] = {
        "catalogue": seed, "who": draft.who, "answer": draft.answer, "way": draft.way, "files": dict(draft.files),
        "changes": msgspec.json.decode(bench.world.artefact()),
    }  # fmt: skip
    limits = Limits(max_turns=80 if name.startswith("errands") else 30, max_malformed=5)
    return Task(task_id, draft.asks, split, data, limits, name)


class ShopEnv(Critiqued, WebEnv):
    """A shop of 1,000 products: accounts, orders, returns, reviews, a forum, and a side for those who run it.

    Options: ``kinds`` plays some kinds (find, buy, account, compare, admin, and errands of 2 to 6 parts) or templates only; ``layout`` shows
    the same shop with other words, places or looks, or all of it (``perturbed``).
    """

    id = "web/shop-v0"
    capabilities: ClassVar[Capabilities] = SHOP.capabilities
    verifiers: ClassVar[Mapping[str, Verifier]] = {**STEPS, "task": Settled()}
    size = (1024, 768)
    guide = (
        "You use a web shop through short actions, one a turn: click 91, fill 92 some text, select 93 an option, press Enter, hover 94, scroll 400, "
        "goto /cart, back, tab_new /orders, tab_switch 2, upload 95 name.csv, dialog true, click_at 60 80, drag 96 97, wait. Numbers in brackets are "
        "elements. What is marked irreversible cannot be undone. When all is done: answer, followed by what was asked for, if anything was."
    )

    def __init__(self, *, kinds: str | Iterable[str] = (), layout: str = "plain", **base: Any) -> None:
        if layout not in LAYOUTS:
            raise UnknownName("layout", layout, LAYOUTS)
        self._kinds, self.layout = (kinds,) if isinstance(kinds, str) else tuple(kinds), layout
        self._answered = False
        host().serve(NAME, app)
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split, self._kinds)

    @property
    def world(self) -> World:
        """The shop of this episode."""
        world: World = self.session.lease.visit.world
        return world

    async def _open(self, task: Task) -> Session:
        self._answered = False
        world = World(int(task.data["catalogue"]), self.layout)
        session = await self._visit(world, {name: text.encode() for name, text in task.data["files"].items()})
        if task.data["who"]:
            await self._cookie(session, world.log_in(int(task.data["who"])))
        async with host().loading:
            await session.page.goto(f"{ORIGIN}/", wait_until="load", timeout=BEGUN * 1000)
        return session

    async def _visit(self, world: World, files: dict[str, bytes]) -> Session:
        if self._session is not None:
            await self._shut(self._session)
        lease = await host().lease(NAME, self.size, ahead=True)
        lease.visit.at(NAME, world)
        session = Session(lease, ORIGIN, kind=self._observe, holds=True)
        session.files = files
        return session

    async def _cookie(self, session: Session, token: str) -> None:
        await session.lease.context.add_cookies([{"name": "session", "value": token, "url": ORIGIN, "httpOnly": True}])

    async def _shut(self, session: Session) -> None:
        """Nothing of an episode is left in its context but a page that the next one leaves; the site keeps nothing there but a cookie."""
        session.detach()
        lease = session.lease
        if session.asked is not None:
            lease.broken = True
        if not lease.broken:
            for page in session.tabs:
                if page is not lease.page:
                    await page.close()
            lease.broken = lease.page.is_closed()
        if not lease.broken:
            await lease.context.clear_cookies()
        await host().give_back(lease)

    def _world(self) -> Json:
        return [self.world.changes(), self.world.said, self._answered, [page.url for page in self.session.tabs]]

    def _ended(self) -> StopReason | None:
        return StopReason.SUBMITTED if self._answered else None

    def _asks(self) -> str:
        return f"{self._seen['title']} ({self._seen['url'].removeprefix(ORIGIN) or '/'})"

    def answer(self, text: Annotated[str, Meta(max_length=2000)] = "") -> str:
        """End the task, with what was asked for, if anything was."""
        self._answered = True
        return "done"

    tools: Mapping[str, Tool] = {
        **tools("click", "fill", "select", "press", "type_text", "hover", "drag", "scroll", "click_at", "drag_at", "wait", *BROWSING), "answer": tool(answer)
    }  # fmt: skip

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"changes.json": self.world.artefact()}

    # Snapshots: the database, the cookies, and of each tab its way here and what is typed in it

    def _save(self) -> bytes:
        if self.session.asked is not None:
            raise CapabilityError("a question of the page is open; answer it first")
        tabs, cookies = self.on_browser(self._tabs())
        world, session = self.world, self.session
        return msgspec.msgpack.encode([world.db.serialize(), world.said, tabs, session.tabs.index(session.page), cookies, session.files])

    async def _tabs(self) -> tuple[list[Any], list[Any]]:
        tabs = []
        for page in self.session.tabs:
            tabs.append([self.session.ways.get(page, [page.url]), *await page.evaluate(KEEP)])
        return tabs, [{"name": c["name"], "value": c["value"]} for c in await self.session.lease.context.cookies()]

    def _load(self, payload: bytes) -> None:
        database, said, tabs, here, cookies, files = msgspec.msgpack.decode(payload)
        world = World(int(self.task.data["catalogue"]), self.layout, database)
        self._answered = False
        if self._session is not None and self._session.lease.broken:
            self._leave()
        self._session, self._seen = self.on_browser(self._restored(world, tabs, here, cookies, files))
        self.world.said = said
        self._scene([])

    async def _restored(self, world: World, tabs: list[Any], here: int, cookies: list[Any], files: dict[str, bytes]) -> tuple[Session, dict[str, Any]]:
        session = await self._visit(world, files)
        for cookie in cookies:
            await self._cookie(session, cookie["value"])
        for n, (way, *kept) in enumerate(tabs):
            session.page = session.page if n == 0 else await session.lease.context.new_page()
            for url in way:
                await session.page.goto(url, wait_until="load")
            await session.look()
            await session.page.evaluate(PUT_BACK, kept)
        session.page = session.tabs[here]
        session.lease.log.clear()
        return session, await session.look()

    # The oracle

    def oracle(self) -> Iterator[str]:
        """The way of the template, in the words of this layout."""
        self._require_running()
        return self._way()

    def _way(self) -> Iterator[str]:
        way: Any = self.task.data["way"]
        for verb, *given in way:
            if verb == "goto":
                yield call("goto", address=given[0])
            elif verb == "ok":
                yield call("dialog", accept=True)
            elif verb == "tab":
                yield call("tab_switch", tab=given[0])
            elif verb == "click":
                yield call("click", element=self._find(verb, *given))
            else:
                name, key = {"fill": ("fill", "text"), "choose": ("select", "option"), "upload": ("upload", "file")}[verb]
                yield call(name, element=self._find(verb, given[0]), **{key: given[1]})
        answer = self.task.data["answer"]
        yield call("answer") if answer is None else call("answer", text=f"{answer:g}" if isinstance(answer, float) else str(answer))

    def _find(self, verb: str, label: str, after: str = "") -> int:
        """The element with a label, below a line that has another text."""
        wanted, passed, found = self.world.t(label), not after, list[int]()
        for line in str(self._seen["seen"]).split("\n"):
            match = LINE.match(line)
            passed = passed or after in line
            if match and passed and match[2] in WIDGETS[verb] and (match[3] or "").replace('\\"', '"') == wanted:
                found.append(int(match[1]))
        if not found:
            raise EnvironmentFault(f"the oracle finds no {wanted!r} on {self._seen['url']}")
        return found[0]
