"""Models that are functions: they answer a conversation by rule, count what they are asked, and may fail."""

import json
import re

from agentgym.core import Completion
from agentgym.episode import Episode, Turn
from agentgym.errors import PolicyFault
from agentgym.evaluation.verifiers import view_of
from agentgym.verdict import StopReason, Verdict


class Model:
    """Answers by ``reply(text of all messages, conversation)``: text, a Completion, or an exception to raise."""

    def __init__(self, reply, name="scripted"):
        self.reply, self.name, self.asked = reply, name, []

    async def act(self, conversation):
        self.asked.append(conversation)
        said = self.reply("\n".join(str(m["content"]) for m in conversation.messages), conversation)
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Completion) else Completion(said)


def score(n, **more):
    return json.dumps({"critique": "seen", "score": n, **more})


def failing(*args):
    return PolicyFault("HTTP 500 for 120 s")


def episode(actions, instruction="Close the ticket 'old door'.", id="e", success=True, task="t", answers=None, group=None, kind=""):
    """A record of these actions; what was seen after each is ``answers``."""
    answers = answers or [f"ok {i}" for i in range(len(actions))]
    turns = []
    for i, action in enumerate(actions):
        before = [{"role": "user", "content": instruction}] if i == 0 else [{"role": "tool", "content": answers[i - 1], "tool_call_id": "c", "name": "x"}]
        turns.append(Turn(before, action))
    end = [{"role": "tool", "content": answers[-1], "tool_call_id": "c", "name": "x"}]
    made = Episode(id, "tools/desk-v0", task, "d", "train", turns=turns, closing=end, status="valid", stop_reason=StopReason.DONE, kind=kind)
    made.verdicts = {"task": Verdict.scored(float(success))}
    made.group = group or task
    return made


def view(*args, **more):
    return view_of(episode(*args, **more))


def quoted_lines(text):
    """The lines of a prompt that quote the episode."""
    return [line[2:] for line in text.splitlines() if line.startswith("| ")]


def verdict_outside(text):
    """What a gullible reader would take for a verdict: a score anywhere in a prompt that does not stand behind the mark of quotes."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("| "))
    return re.findall(r"GRADE: \w|\"score\": \d+(?=[,}])", bare)
