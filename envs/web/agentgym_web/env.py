"""What the environments of this package share: a session on a leased context, scenes from what is to be seen, verdicts on every action."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from agentgym_verifiers.rules import Aimed, Idle, Progressed, WellFormed

from agentgym.core import Action, AgentEnv, Message, Scene, StopReason, Task, Verifier
from agentgym.errors import EnvironmentFault, UsageError
from agentgym.messages import answer, find_tool, parse_action, short_call
from agentgym.rewards import Spec, outcome, standard, step
from agentgym.verdict import Json
from agentgym_web.browser import host, prefer
from agentgym_web.session import Seen, Session

WITHIN, BEGUN = 60.0, 180.0
"""Seconds in which anything asked of the browser is over, and in which an episode has begun, however many begin at once."""


STEPS: Mapping[str, Verifier] = {"form": WellFormed(), "aimed": Aimed(), "progressed": Progressed(), "idle": Idle()}
REWARDS: Mapping[str, Spec] = standard(
    outcome("task"), 0.02 * step("form") + 0.02 * step("aimed") + 0.02 * step("progressed") - 0.02 * step("idle"), step("progressed")
)
"""The five, for an outcome verdict called ``task``."""


class WebEnv(AgentEnv):
    """An environment in a browser.

    Options: ``screenshot`` adds a picture to observations, ``marks`` draws the numbers of the elements on it; ``observe`` is the text: the
    accessibility ``tree`` or an outline of the ``dom``; ``browser`` is a Chromium of your own.
    """

    verifiers: ClassVar[Mapping[str, Verifier]] = STEPS
    rewards: ClassVar[Mapping[str, Spec]] = REWARDS
    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}
    size: ClassVar[tuple[int, int]]
    guide: ClassVar[str]
    reads: ClassVar[str] = "() => null"

    def __init__(
        self, *, screenshot: bool = False, marks: bool = False, observe: Literal["tree", "dom"] = "tree", browser: str | None = None, **base: Any
    ) -> None:
        if observe not in ("tree", "dom"):
            raise UsageError(f"observe is tree or dom, not {observe!r}")
        if browser is not None:
            prefer(browser)
        self._painted, self._marks, self._observe = screenshot or marks or base.get("render_mode") == "rgb_array", marks, observe
        if screenshot or marks:
            self.screen = (self.size[1], self.size[0])
        self._session: Session | None = None
        self._seen: Seen = {}
        self._state = ""
        super().__init__(**base)

    # What an author of such an environment writes

    @abstractmethod
    async def _open(self, task: Task) -> Session:
        """A session whose page shows the beginning of the task."""

    @abstractmethod
    async def _shut(self, session: Session) -> None:
        """Make the context of a session ready for its next episode, and give it back."""

    def _ended(self) -> StopReason | None:
        """Why the episode is over, by what was seen last."""
        return None

    def _asks(self) -> str:
        """A line above what is to be seen."""
        return ""

    def _world(self) -> Json:
        """The state of the world behind the page."""
        return None

    def _facts(self) -> dict[str, Json]:
        """More facts about the turn."""
        return {}

    # Actions

    @property
    def session(self) -> Session:
        """The tabs of this episode."""
        assert self._session is not None
        return self._session

    def on_browser(self, work: Coroutine[Any, Any, Any], within: float = WITHIN) -> Any:
        """Do something on the browser's loop; a context that breaks is not used again."""
        try:
            return host().run(work, within)
        except EnvironmentFault:
            if self._session is not None:
                self._session.lease.broken = True
            raise

    def act(self, name: str, given: dict[str, Any]) -> str:
        """Do one action on the page, and look."""
        said, self._seen = self.on_browser(self._act(name, given))
        return str(said)

    async def _act(self, name: str, given: dict[str, Any]) -> tuple[str, Seen]:
        async with host().acting:
            try:
                said = await self.session.do(name, given)
            finally:
                seen = await self.session.look()
        return said, seen

    def consequences(self, action: str) -> Mapping[str, Json]:
        """What the site itself says of an action before it is done: ``{"irreversible": "pay"}``, or nothing."""
        parsed = parse_action(action)
        for call in parsed.calls or ([short_call(self.tools, parsed.prose)] if parsed.prose else []):
            if call.name not in ("click", "click_at", "double_click", "press") or (
                call.name == "press" and call.arguments.get("key") not in ("Enter", "Space")
            ):
                continue
            try:
                fitting = msgspec.convert(call.arguments, find_tool(self.tools, call.name).arguments, strict=False)
            except msgspec.ValidationError:
                continue
            if word := self.on_browser(self.session.marked(msgspec.structs.asdict(fitting))):
                return {"irreversible": word}
        return {}

    # The template's own

    def _begin(self, task: Task) -> Scene:
        if self._session is not None and self._session.lease.broken:
            self._leave()
        self._seen = self.on_browser(self._start(task), BEGUN)
        return self._scene([], first=True)

    async def _start(self, task: Task) -> Seen:
        self._session = await self._open(task)
        return await self.session.look()

    def _advance(self, action: Action) -> Scene:
        done = answer(self.tools, self, action, len(self.episode.turns) - 1, lambda: self._ended() is not None, hint="say one, such as click 3", short=True)
        return self._scene(done.messages, malformed=done.malformed, states=done.states)

    def _scene(self, messages: list[Message], *, first: bool = False, malformed: bool = False, states: Iterable[str] = ()) -> Scene:
        now, log, end = self._seen, self.session.lease.log, self._ended()
        said = [*(str(m["content"]) for m in messages if m["content"] != "done"), *log]
        log.clear()
        shown = [self._asks(), self._where(), str(now["seen"])] if end is None else ["The task has ended."]
        text = "\n".join(filter(None, [*([self.task.instruction, ""] if first else []), *said, *shown]))
        told: list[Message] = [{"role": "user", "content": text}]
        if first:
            told = [{"role": "system", "content": self.guide}, *told]
        elif messages and messages[0]["role"] == "tool":
            told = [*messages[:-1], {**messages[-1], "content": text}]
        state = msgspec.json.encode([now, self._world(), sorted(self.session.files)], order="deterministic").decode()
        plain = "\n".join(line.partition("] ")[2] or line for line in f"{self._asks()}\n{self._where()}\n{now['seen']}".split("\n"))
        facts: dict[str, Json] = {"moved": not first and state != self._state, "calls": list(states), **self._facts()}
        self._state = state
        return Scene(
            told, hashlib.blake2b(state.encode(), digest_size=12).hexdigest(), plain, end, malformed, facts, self._picture() if self._painted else None
        )

    def _where(self) -> str:
        """The open tabs, where there are several, and a question of the page that waits for an answer."""
        session = self.session
        if session.asked is not None:
            return f"The page asks ({session.asked.type}): {session.asked.message[:500]}\nAnswer it: dialog true, or dialog false"
        if len(session.tabs) < 2:
            return ""
        here = session.tabs.index(session.page) + 1 if session.page in session.tabs else 0
        return f"Tab {here} of {len(session.tabs)}"

    def _picture(self) -> np.ndarray:
        from agentgym_web.picture import decode, marked

        if self.session.asked is not None:
            return np.zeros((*self.size[::-1], 3), np.uint8)
        data, boxes = self.on_browser(self._paint())
        return marked(decode(data), boxes) if self._marks else decode(data)

    async def _paint(self) -> tuple[bytes, list[list[float]]]:
        page = self.session.page
        return await page.screenshot(type="jpeg", quality=90), await page.evaluate("() => window.__agentgym.boxes()") if self._marks else []

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            host().run(self._shut(session), WITHIN)

    def close(self) -> None:
        """Give the pages back; idempotent."""
        try:
            self._leave()
        finally:
            super().close()
