"""``web/miniwob-v0``: MiniWoB's tasks, each with its own seed, on a page that is kept and begun anew by a script."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from agentgym_verifiers.rules import WellFormed
from msgspec import Struct

from agentgym.core import Action, AgentEnv, Capabilities, EpisodeView, Limits, Message, Scene, StopReason, Task, TaskSet, Verdict, Verifier
from agentgym.errors import EnvironmentFault, UnknownName
from agentgym.messages import Tool, answer, parse_action
from agentgym.rewards import Spec, outcome, standard, step
from agentgym_web import MINIWOB, PER_TASK, TASKS
from agentgym_web.browser import host, served
from agentgym_web.fetch import pages
from agentgym_web.oracles import script
from agentgym_web.session import OUTLINE, TOOLS, Session

SIZE = (500, 320)
"""Width and height of the page."""
PATIENCE = 30.0
NOW = 1_767_225_600_000
"""When every episode begins, for the page: milliseconds since 1970, the first of January 2026."""
SYSTEM = (
    "You use a web page through short actions, one a turn: click 91, fill 92 some text, select 93 an option, press Enter, type_text hello, hover 94, "
    "drag 95 96, scroll 97 100, double_click 98, highlight 99, click_at 60 80, drag_at 10 20 80 90, wait. Numbers in brackets are elements."
)
TELL = "Do what the page asks at its top."
SETTLED = "await Promise.all([...document.images].map((i) => i.complete || new Promise((done) => { i.onload = i.onerror = done; })));"
"""Layout is not what it will be until every picture is there."""
READ = (
    "async () => { "
    + SETTLED
    + """ return {
  asks: (u => typeof u === 'string' ? u : u.utterance)(core.getUtterance()), done: WOB_DONE_GLOBAL, raw: WOB_RAW_REWARD_GLOBAL,
  reason: WOB_REWARD_REASON, seen: window.__agentgym.outline(),
  values: [...document.querySelectorAll('input, textarea, select')].map((e) => ['checkbox', 'radio'].includes(e.type) ? e.checked : e.value),
  scrolled: [...document.querySelectorAll('*')].filter((e) => e.scrollTop).map((e) => e.scrollTop),
}; }"""
)
BEGIN = "seed => { if (document.activeElement) document.activeElement.blur(); window.__agentgym.forget(); Math.seedrandom(seed); core.startEpisodeReal(); }"


class Reached(Struct, frozen=True):
    """The page's own reward, without its share for speed: 1 if it paid in full, what it paid if in part, 0 if nothing or less, or time ran out."""

    level: ClassVar[Literal["outcome"]] = "outcome"

    def __call__(self, view: EpisodeView) -> Verdict:
        facts = view.episode.turns[-1].facts if view.episode.turns else {}
        raw = float(facts.get("raw", 0.0)) if facts.get("done") else 0.0
        return Verdict.scored(min(1.0, max(0.0, raw)), raw=raw, reason=str(facts.get("reason") or ""))


class Moved(Struct, frozen=True):
    """A step verdict: 1 if the last action changed what is to be seen, else 0."""

    level: ClassVar[Literal["step"]] = "step"

    def __call__(self, view: EpisodeView) -> Verdict:
        return Verdict.scored(float(bool(view.episode.turns[-1].facts.get("moved"))))


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
    return Task(task_id, TELL, split, {"page": name, "seed": seed}, Limits(max_turns=30, max_malformed=5), name)


class MiniwobEnv(AgentEnv):
    """A page of MiniWoB. Option ``kinds`` (one or several) plays some of them only; ``screenshot`` adds pictures."""

    id = "web/miniwob-v0"
    capabilities: ClassVar[Capabilities] = MINIWOB.capabilities
    tools: Mapping[str, Tool] = TOOLS
    verifiers: ClassVar[Mapping[str, Verifier]] = {"form": WellFormed(), "moved": Moved(), "task": Reached()}
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("task"), 0.02 * step("form") + 0.02 * step("moved"), step("moved"))
    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}

    def __init__(self, *, kinds: str | Iterable[str] = (), screenshot: bool = False, **base: Any) -> None:
        self._kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        self._painted = screenshot or base.get("render_mode") == "rgb_array"
        if screenshot:
            self.screen = (SIZE[1], SIZE[0])
        self._session: Session | None = None
        self._before = ""
        self._origin = served(str(pages()))
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split."""
        return tasks_of(split, self._kinds)

    @property
    def session(self) -> Session:
        """The page of this episode."""
        assert self._session is not None
        return self._session

    def act(self, name: str, given: dict[str, Any]) -> str:
        """Do one action on the page, and move its clock."""
        said: str = self._run(self.session.act(name, given))
        return said

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the browser's loop; a page that breaks is not used again."""
        try:
            return host().run(work, PATIENCE)
        except EnvironmentFault:
            if self._session is not None:
                self._session.leased.broken = True
            raise

    def _begin(self, task: Task) -> Scene:
        self._run(self._open(task))
        return self._scene([], first=True)

    async def _open(self, task: Task) -> None:
        """A page for the task: the one at hand if it is of the same kind, else one that was kept, or a new one; begun with the task's seed."""
        name = str(task.data["page"])
        if self._session is not None and (self._session.leased.broken or self._session.leased.key != name):
            left, self._session = self._session, None
            await host().give_back(left.leased)
        if self._session is None:
            self._session = Session(await host().lease(name, self._origin, SIZE))
        page, url = self._session.page, f"{self._origin}/miniwob/{name}.html"
        if page.url == "about:blank":
            await page.clock.install(time=NOW)
            await page.add_init_script(OUTLINE)
            await page.goto(url, wait_until="load")
            await page.clock.pause_at(NOW + 10_000)
        await page.evaluate(BEGIN, str(task.data["seed"]))
        await page.mouse.move(0, 0)
        await page.clock.run_for(100)

    def _advance(self, action: Action) -> Scene:
        done = answer(self.tools, self, action, len(self.episode.turns) - 1, lambda: self._read()["done"], hint="say one, such as click 3", short=True)
        return self._scene(done.messages, malformed=done.malformed, states=done.states)

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = self._run(self.session.page.evaluate(READ))
        return found

    def _scene(self, messages: list[Message], *, first: bool = False, malformed: bool = False, states: Iterable[str] = ()) -> Scene:
        now, log = self._read(), self.session.leased.log
        said = [str(m["content"]) for m in messages if m["content"] != "done"] + log
        log.clear()
        text = "\n".join(
            [
                *([self.task.instruction, ""] if first else []),
                *said,
                *([f"The page asks: {now['asks']}", str(now["seen"])] if not now["done"] else ["The task has ended."]),
            ]
        )
        shown: list[Message] = [{"role": "user", "content": text}]
        if first:
            shown = [{"role": "system", "content": SYSTEM}, *shown]
        elif messages and messages[0]["role"] == "tool":
            shown = [*messages[:-1], {**messages[-1], "content": text}]
        state = msgspec.json.encode([now["asks"], now["seen"], now["values"], now["scrolled"], now["done"], now["raw"]]).decode()
        facts = {"done": now["done"], "raw": now["raw"], "reason": now["reason"], "moved": not first and state != self._before, "calls": list(states)}
        self._before = state
        picture = self._picture() if self._painted else None
        seen = "\n".join(line.partition("] ")[2] or line for line in str(now["seen"]).split("\n"))
        end = StopReason.DONE if now["done"] else None
        return Scene(shown, hashlib.blake2b(state.encode(), digest_size=12).hexdigest(), seen, end, malformed, facts, picture)

    def _picture(self) -> np.ndarray:
        from io import BytesIO

        from PIL import Image

        data = self._run(self.session.page.screenshot(type="jpeg", quality=90))
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

    def _artefacts(self) -> Mapping[str, bytes]:
        return {"page.txt": self._before.encode()}

    def oracle(self) -> Iterator[str]:
        """A scripted solution, for the pages that have one (``oracles``)."""
        self._require_running()
        return script(self)

    def seen(self) -> tuple[str, str]:
        """What the page asks, and what it shows, as an oracle reads them."""
        now = self._read()
        return str(now["asks"]), str(now["seen"])

    def _save(self) -> bytes:
        return msgspec.msgpack.encode([turn.action for turn in self.episode.turns])

    def _load(self, payload: bytes) -> None:
        record = self.episode
        self._begin(self.task)
        for n, action in enumerate(msgspec.msgpack.decode(payload, type=list[str])):
            self.episode.turns = record.turns[: n + 1]
            self._replay(action)
        self.episode.turns = record.turns

    def _replay(self, action: str) -> None:
        parsed = parse_action(action, max_chars=self.limits.max_action_chars, max_calls=self.limits.max_calls)
        if parsed.problem is None:
            self._advance(parsed)

    def close(self) -> None:
        """Give the page back; idempotent."""
        if self._session is not None:
            session, self._session = self._session, None
            host().run(host().give_back(session.leased), PATIENCE)
        super().close()
