"""``text/search-v0``: questions of several hops over a corpus, by a search and by reading. The home of information-gain credit."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from agentgym_verifiers.rules import Exact, Noted, WellFormed
from msgspec import Meta

from agentgym.core import Action, AgentEnv, Capabilities, Limits, Scene, StopReason, Task, TaskSet, Verifier
from agentgym.errors import ToolError, UnknownName, UsageError
from agentgym.messages import Tool, call, tool
from agentgym.messages import answer as answers
from agentgym.rewards import Spec, delta, outcome, standard, step
from agentgym_text.corpus import Corpus, corpus

HOPS = (2, 3, 4)
COUNT = {"train": 1200, "dev": 200, "test": 300}
SHARED = "all"
SIDES = (*("train",) * 7, "dev", "test", "test")
SYSTEM = "You answer questions over a library, through tools. No document holds a whole answer: go from one to the next."


class Desk:
    """What one episode has done in the library."""

    def __init__(self, library: Corpus, gold: Iterable[str], hits: int) -> None:
        self.library, self.gold, self.hits = library, tuple(gold), hits
        self.read: list[str] = []
        self.answered: str | None = None
        self.calls = 0


def search(desk: Desk, query: Annotated[str, Meta(max_length=300)]) -> str:
    """Find documents: the best titles for some words, with the beginning of each."""
    found = desk.library.search(query, desk.hits)
    return "\n".join(f"{title}: {text}…" for title, text in found) or "nothing found"


def read(desk: Desk, title: Annotated[str, Meta(max_length=200)]) -> str:
    """Read the document of this title."""
    text = desk.library.documents.get(title)
    if text is None:
        raise ToolError(f"there is no document {title!r}; search for its title")
    if title not in desk.read:
        desk.read.append(title)
    return text


def answer(desk: Desk, value: Annotated[str, Meta(max_length=200)]) -> str:
    """Answer the question, and end."""
    desk.answered = value
    return "answered"


TOOLS: Mapping[str, Tool] = {"search": tool(search), "read": tool(read), "answer": tool(answer)}


class SearchEnv(AgentEnv):
    """The library. Options: ``hops`` (one or several of 2, 3, 4), ``hits`` (documents that a search tells), and ``libraries``: so many for each split,
    each with questions of its own, where what was learned of one helps at no other. ``shared``: the same libraries for all splits, whose questions differ.
    """

    id = "text/search-v0"
    capabilities = Capabilities(snapshot=True)
    tools: Mapping[str, Tool] = TOOLS
    verifiers: ClassVar[Mapping[str, Verifier]] = {
        "form": WellFormed(), "found": Noted(fact="found", kept=True), "answer": Exact(answer="call:answer.value", gold="task:answer"),
    }  # fmt: skip
    rewards: ClassVar[Mapping[str, Spec]] = standard(outcome("answer"), 0.02 * step("form") + 0.2 * delta(step("found")), step("found"))

    def __init__(self, *, hops: int | Iterable[int] = (), hits: int = 5, libraries: int = 1, shared: bool = False, **base: Any) -> None:
        if not 1 <= hits <= 20 or not 1 <= libraries <= 1000:
            raise UsageError(f"hits are 1 to 20 and libraries 1 to 1000, not {hits} and {libraries}")
        self._hits, self._libraries, self._shared = hits, libraries, shared
        self._hops = (hops,) if isinstance(hops, int) else tuple(hops) or HOPS
        for each in self._hops:
            if each not in HOPS:
                raise UnknownName("number of hops", str(each), map(str, HOPS))
        super().__init__(**base)

    def tasks(self, split: str) -> TaskSet:
        """Questions by number, the hops in turn; each split has libraries of its own, unless they are shared."""
        first = f"{split}.{SHARED}" if self._shared else split
        places = [first, *(f"{first}.{k}" for k in range(1, self._libraries))]
        ids = [f"{place}/{i:04d}-{HOPS[i % 3]}" for i in range(COUNT[split]) if HOPS[i % 3] in self._hops for place in places]
        return TaskSet(ids, lambda name: _task(split, name))

    def _begin(self, task: Task) -> Scene:
        self._desk = Desk(corpus(task.data["corpus"]), task.data["titles"], self._hits)
        return self._scene([{"role": "system", "content": SYSTEM}, {"role": "user", "content": task.instruction}])

    def _advance(self, action: Action) -> Scene:
        desk = self._desk
        done = answers(self.tools, desk, action, len(self.episode.turns) - 1, lambda: desk.answered is not None, hint="end with answer")
        desk.calls += len(done.states)
        return self._scene(done.messages, StopReason.SUBMITTED if desk.answered is not None else None, done.malformed, done.states)

    def _scene(self, messages: Any, end: StopReason | None = None, malformed: bool = False, states: Iterable[str] = ()) -> Scene:
        desk = self._desk
        found = sum(t in desk.read for t in desk.gold) / len(desk.gold)
        seen = "|".join(m["content"] for m in messages)
        return Scene(messages, f"{desk.read}|{desk.answered}|{desk.calls}", seen, end, malformed, {"found": found, "calls": list(states)})

    def oracle(self) -> Iterator[str]:
        """Search and read what leads to the answer, and give it."""
        self._require_running()
        for title in self._desk.gold:
            if title not in self._desk.read:
                yield call("search", query=title)
                yield call("read", title=title)
        yield call("answer", value=self.task.data["answer"])

    def _save(self) -> bytes:
        return msgspec.msgpack.encode((self._desk.read, self._desk.answered, self._desk.calls))

    def _load(self, payload: bytes) -> None:
        self._desk = Desk(corpus(self.task.data["corpus"]), self.task.data["titles"], self._hits)
        self._desk.read, self._desk.answered, self._desk.calls = msgspec.msgpack.decode(payload, type=tuple[list[str], str | None, int])


def _task(split: str, name: str) -> Task:
    hops, place = name.rpartition("-")[2], name.partition("/")[0]
    shared = place.startswith(f"{split}.{SHARED}")
    place = f"library/{place.removeprefix(f'{split}.') if shared else place}"
    library, dice = corpus(place), random.Random(f"question/{name}")
    asked = library.question(dice, int(hops))
    while shared and _side(asked.text) != split:  # of a shared library each question is of one split alone
        asked = library.question(dice, int(hops))
    data = {"corpus": place, "titles": list(asked.titles), "answer": asked.answer}
    return Task(name, asked.text, split, data, Limits(max_turns=8 + 6 * int(hops)), kind=f"{hops}-hop")


def _side(question: str) -> str:
    """The split that a question of a shared library is of: seven of ten are for training."""
    return SIDES[zlib.crc32(question.encode()) % 10]
