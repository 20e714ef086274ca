"""``tools/desk-user-v0``: the office desk with the person on the other seat. Both act: what only they know and only they can do is needed.

The agent works at the desk and speaks; the person has a phone, and answers. Speech hands the turn over; calls do not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from agentgym_verifiers.rules import seat_verdicts
from msgspec import Meta

from agentgym.core import Capabilities, Limits, Task, TaskSet, Verifier
from agentgym.errors import CapabilityError, ToolError
from agentgym.game import MOST_SAID, Game, Player, Talk, TalkSeat
from agentgym.messages import Action, Tool, ToolCall, answer, parse_action, print_action, tool
from agentgym_tools.desk import Desk
from agentgym_tools.plan import Plan
from agentgym_tools.talk import SETTINGS
from agentgym_tools.tasks import plan_of, tasks_of, world_of
from agentgym_tools.tools import TOOLS
from agentgym_tools.verify import done, still_to_do

SYSTEM = (
    "You work at an office desk through tools, for a person who talks with you. What you write without a tool call is said to them;"
    " they know things that are nowhere on the desk, and their phone is in their own hands. End with finish, answer or refuse."
)


class Phone:
    """What the person holds: settings, and the payments they approved."""

    def __init__(self) -> None:
        self.settings: dict[str, str] = {}
        self.approved: set[int] = set()
        self.hung_up = False


def show_phone(phone: Phone) -> str:
    """Look at the phone: its settings, and the payments that were approved."""
    return "\n".join([*(f"{k} {v}" for k, v in sorted(phone.settings.items())), *(f"approved {n}" for n in sorted(phone.approved))]) or "nothing is set"


def set_phone(phone: Phone, setting: Literal["forward_to", "language", "ringtone", "signature"], value: Annotated[str, Meta(max_length=200)]) -> str:
    """Change a setting of the phone."""
    phone.settings[setting] = value
    return "ok"


def approve(phone: Phone, payment: int) -> str:
    """Approve that a payment is paid back."""
    phone.approved.add(payment)
    return "ok"


def hang_up(phone: Phone) -> str:
    """End the conversation: nothing more can be done then."""
    phone.hung_up = True
    return "ended"


AGENT_TOOLS: Mapping[str, Tool] = {name: t for name, t in TOOLS.items() if name != "ask_user"}
USER_TOOLS: Mapping[str, Tool] = {f.__name__: tool(f) for f in (show_phone, set_phone, approve, hang_up)}


class Conversation(Talk):
    """A desk, a phone, and two who talk. ``agent`` moves first, with the person's request before it."""

    seats = ("agent", "user")

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.plan = task, plan_of(task)
        self.desk, self.phone = Desk.of(world_of(task)), Phone()
        self.desk.approved = self.phone.approved if self.plan.approve else None
        self.spoken: list[tuple[str, str]] = []
        self.made: list[ToolCall] = []

    def rules(self, seat: str) -> str:
        """The agent's work; or who the person is, what they want, and what they know."""
        if seat == "agent":
            return SYSTEM
        known = "; ".join(f"{k}: {v}" for k, v in self.plan.user.items())
        return (
            f"You are a person who has asked an office for something, in these words: {self.plan.say}\n"
            + (f"You know, and tell when asked for it: {known}.\n" if known else "")
            + "You have a phone, with tools; do with it what you are asked to, if it helps. What you write without a tool call is said to the office."
        )

    def view(self, seat: str) -> str:
        """What is new; at the beginning the request."""
        if seat == "agent" and not self.spoken and not self.made:
            return self.plan.say
        return super().view(seat)

    def play(self, action: str) -> None:
        """Calls, or speech, of whoever is to move."""
        mover = str(self.current)
        parsed = parse_action(action)
        if not parsed.calls:
            if not parsed.prose:
                raise ToolError("say something, or call a tool", malformed=True)
            self.spoken.append((mover, parsed.prose))
            self.tell(parsed.prose[:MOST_SAID], but=mover)
            self.current = "user" if mover == "agent" else "agent"
            return
        tools, context = (AGENT_TOOLS, self.desk) if mover == "agent" else (USER_TOOLS, self.phone)
        given = answer(tools, context, Action("", parsed.calls), 0, self._over)
        self.answers[mover] = [(c.name[:80], m["content"]) for c, m in zip(parsed.calls, given.messages, strict=True)]
        self.slip = mover if given.malformed else None
        if mover == "agent":
            self.made += parsed.calls
        if self._over():
            self.current = None

    def _over(self) -> bool:
        return self.desk.ending is not None or self.phone.hung_up

    def value(self, seat: str) -> float:
        """1 for both if the desk and the phone are as they must be, and the agent ended as the task demands."""
        ended, wrong = self._done
        return float(ended and not wrong and not self._phone_wrong())

    @cached_property
    def _done(self) -> tuple[bool, list[str]]:
        """How the desk was left: asked only once it is over."""
        return done(self.task, self.desk.rows(), self.desk.ending)

    def _phone_wrong(self) -> list[str]:
        have = self.phone.settings
        return sorted(k for k in {*self.plan.phone, *have} if self.plan.phone.get(k) != have.get(k)) + [
            f"payment {n}" for n in sorted(self.phone.approved ^ set(self.plan.approve))
        ]

    def measures(self, seat: str) -> Mapping[str, Any]:
        """What is not as it must be, and how much was said."""
        ended, wrong = self._done
        return {"ended": ended, "wrong_rows": wrong[:20], "wrong_on_phone": self._phone_wrong(), "speeches": len(self.spoken)}

    def standing(self, seat: str) -> float:
        """The share of what is to be done that was done: the agent's calls, and what the person must do."""
        calls = [c for c in self.plan.oracle() if c.name != "ask_user"]
        missing = sum(c.name != "ask_user" for c in still_to_do(self.task, self.made)) + len(self._phone_wrong())
        return max(0.0, 1 - missing / (len(calls) + len(self.plan.phone) + len(self.plan.approve)))

    def leave(self, seat: str) -> None:
        """Without one of the two it is over, and not done."""
        self.current = None


def helpful(game: Game, seat: str, dice: random.Random) -> str:
    """The person as a script: does what they are asked to do with their phone, tells one thing at a time when asked for it by its name."""
    assert isinstance(game, Conversation)
    if seat == "agent":
        return _agent(game)
    asked = game.spoken[-1][1] if game.spoken else ""
    done_now = [name for name, _ in game.answers["user"]]
    if done_now:
        return "Done."
    if found := re.search(r"approve payment (\d+)", asked, re.I):
        return print_action("", [ToolCall("approve", {"payment": int(found[1])})])
    if found := re.search(rf"set ({'|'.join(SETTINGS)}) to (.+?)(?: on your phone)?[.!]?$", asked, re.I):
        return print_action("", [ToolCall("set_phone", {"setting": found[1].lower(), "value": found[2]})])
    words = set(re.findall(r"[a-z]+", asked.lower()))
    known = [f"The {key} is {value}." for key, value in game.plan.user.items() if key in words]
    return known[0] if len(known) == 1 else "One thing at a time, please." if known else "I have nothing to say about that."


def terse(game: Game, seat: str, dice: random.Random) -> str:
    """A person who answers as ``helpful`` does, but to every second question only."""
    assert isinstance(game, Conversation)
    turns = sum(who == "user" for who, _ in game.spoken)
    return "What do you mean?" if seat == "user" and turns % 2 == 0 and not game.answers["user"] else helpful(game, seat, dice)


def by_chance(game: Game, seat: str, dice: random.Random) -> str:
    """A person who says any of what they know, whatever they are asked."""
    assert isinstance(game, Conversation)
    if seat == "agent":
        return _agent(game)
    return dice.choice([*(f"The {k} is {v}." for k, v in game.plan.user.items()), "I do not know."])


def _agent(game: Conversation) -> str:
    """The next step of the plan: a question, or a call."""
    left = list(_script(game.plan, game.made, sum(who == "agent" for who, _ in game.spoken)))
    return left[0] if left else "Is there anything else?"


def _script(plan: Plan, made: list[ToolCall], asked: int) -> Iterator[str]:
    """What the plan still has to say and to do, after these calls and so many questions."""
    waiting = list(made)
    for call in plan.oracle():
        if call.name == "ask_user":
            asked -= 1
            if asked < 0:
                yield str(call.arguments["question"])
        elif call in waiting:
            waiting.remove(call)
        else:
            yield print_action("", [call])


PLAYERS: Mapping[str, Player] = {"helpful": helpful, "terse": terse, "random": by_chance}


def play(task: Task) -> Game:
    """The game of a task."""
    return Conversation(task)


class DeskUserEnv(TalkSeat):
    """A seat of the conversation: the agent's, unless told otherwise. Opponents: ``helpful`` (usual), ``terse``, ``random``, or a policy."""

    id = "tools/desk-user-v0"
    capabilities = Capabilities(snapshot=True, seats=("agent", "user"))
    verifiers: ClassVar[Mapping[str, Verifier]] = seat_verdicts(play)
    game = staticmethod(play)
    plays: ClassVar[Mapping[str, Player]] = PLAYERS
    usual: ClassVar[str] = "helpful"
    seat_tools: Mapping[str, Mapping[str, Tool]] = {"agent": AGENT_TOOLS, "user": USER_TOOLS}
    splits = ("train", "dev", "test")

    def tasks(self, split: str) -> TaskSet:
        """The tasks that need the person."""
        found = tasks_of(split, talk=True)
        return TaskSet(found.ids(), lambda name: msgspec.structs.replace(found.get(name), limits=Limits(max_turns=40)))

    def oracle(self) -> Iterator[str]:
        """The plan: its questions to the person, and its calls."""
        self._require_running()
        if self.seat != "agent" or self.opponents["user"] != "helpful":
            raise CapabilityError(f"{self.id} has an oracle for the agent alone, with a helpful person")
        return self._oracle()

    def _oracle(self) -> Iterator[str]:
        while not self.match.over:
            yield helpful(self.match.game, "agent", random.Random(0))

    def player(self) -> Iterator[str]:
        """The person as a script."""
        self._require_running()
        while not self.match.over:
            yield self.player_of("helpful")(self.match.game, self.seat, random.Random(0))

    def _artefacts(self) -> Mapping[str, bytes]:
        game = self.match.game
        assert isinstance(game, Conversation)
        return {**super()._artefacts(), "desk.sqlite": game.desk.dump(), "phone.json": msgspec.json.encode(game.phone.settings, order="deterministic")}
