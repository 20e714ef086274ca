"""Ways to come to an answer: at once, after choosing what matters, after a debate, against one's own answer, with tools, from probabilities.

Each takes a question and gives an answer of the question's kind with a trace, which is kept in the verdict. What a model said on the way stays
quoted wherever it goes: it may repeat what an episode put into its mouth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from msgspec import Struct

from agentgym.core import Conversation, Message
from agentgym.messages import answer, assistant_message, parse_action
from agentgym_verifiers.judges.answer import Dimensions, Score, Speech, Unanswered, last_valid
from agentgym_verifiers.judges.ask import Asker, Question
from agentgym_verifiers.judges.kit import KIT
from agentgym_verifiers.judges.show import MARK, occurs, quoted, squeezed

A = TypeVar("A", bound=Struct)
Trace = dict[str, Any]


async def once(asker: Asker, question: Question[A], sample: int) -> tuple[A, Trace]:
    """One question, one answer."""
    return await asker.ask(question, sample), {}


async def rethink(asker: Asker, question: Question[A], sample: int) -> tuple[A, Trace]:
    """First a few dimensions that matter and what might be wrong, then a second reading that sees the matter under those alone.

    Source: "Think Twice: Branch-and-Rethink Reasoning Reward Model".
    """
    role = f"{question.role}\n\nDo not judge yet. Name at most 3 dimensions on which this case turns, and what could be wrong on each."
    some: Callable[[Dimensions], str] = lambda d: "" if 1 <= len(d.dimensions) <= 3 else "name 1 to 3 dimensions"  # noqa: E731  # typed for mypy
    first = await asker.ask(Question(role, question.matter, Dimensions, some), sample)
    told = quoted("\n".join([*(f"- {d}" for d in first.dimensions), "possible faults:", *(f"- {h}" for h in first.hypotheses)]))
    second = msgspec.structs.replace(question, role=f"{question.role}\n\nJudge on these dimensions alone:\n{told}")
    return await asker.ask(second, sample), {"dimensions": first.dimensions}


async def debate(asker: Asker, question: Question[A], sample: int) -> tuple[A, Trace]:
    """Two sides speak in turn, one for a good verdict and one for a bad one; then the judge decides. What is not quoted from the matter is struck out.

    Source: "Reward Design for Justifiable Sequential Decision-Making"; the striking out is ours.
    """
    text, said = squeezed(question.matter), list[str]()
    for round in range(2):
        for side in ("for", "against"):
            role = f"You speak {side} what is judged, in a debate. Argue from the matter alone, and quote it. The question will be: {question.role}"
            before = "\n".join(said)
            speech = await asker.ask(Question(role, f"{question.matter}\n[debate so far]\n{quoted(before)}", Speech), sample * 10 + round)
            kept = [q for q in speech.quotes if occurs(q, text)]
            said.append(f"{side}: {speech.argument}" if kept else f"{side}: (nothing that is borne out by the matter)")
    heard = msgspec.structs.replace(question, matter=f"{question.matter}\n[debate]\n{quoted(chr(10).join(said))}")
    return await asker.ask(heard, sample), {"debate": said}


async def reference(asker: Asker, question: Question[A], sample: int) -> tuple[A, Trace]:
    """The judge first says how it would do the task itself, then judges against that.

    Source: "Aligning Large Language Models from Self-Reference AI Feedback with one General Principle".
    """
    role = "Read the task at the beginning of what follows. Say how it is done well, in a few sentences, as your argument; quote what you rely on."
    own = await asker.ask(Question(role, question.matter, Speech), sample)
    told = msgspec.structs.replace(question, role=f"{question.role}\n\nYour own account of how it is done well, to compare with:\n{quoted(own.argument)}")
    return await asker.ask(told, sample), {"reference": own.argument}


async def equipped(asker: Asker, question: Question[A], sample: int, max_calls: int = 8) -> tuple[A, Trace]:
    """The judge may use a calculator and a search through the matter, and run a little code in a sandbox, before it answers.

    Source: "Tool-Augmented Reward Modeling".
    """
    messages, trace = question.messages(), list[Trace]()
    lines = [line.removeprefix(MARK) for line in question.matter.splitlines()]
    for turn in range(max_calls + asker.tries):
        tools = [t.spec for t in KIT.values()] if len(trace) < max_calls else []
        said = await asker.say(Conversation("judge", messages, tools, max_tokens=asker.max_tokens, seed=sample))
        action = parse_action(said, max_chars=65_536, max_calls=max_calls)
        messages = [*messages, assistant_message(said, action.calls, turn)]
        if action.calls:
            spent = len(trace) + len(action.calls) > max_calls
            told = await anyio.to_thread.run_sync(answer, KIT, lines, action, turn, partial(bool, spent))
            trace += [{"tool": c.name, "arguments": c.arguments, "result": m["content"][:500]} for c, m in zip(action.calls, told.messages, strict=True)]
            messages += told.messages
            continue
        try:
            return last_valid(action.prose, question.kind, question.why_not), {"tools": trace}
        except Unanswered as error:
            complaint: Message = {"role": "user", "content": f"That is no valid answer: {error}"}
            messages.append(complaint)
    raise Unanswered(f"no valid answer after {len(trace)} calls of tools")


async def logits(asker: Asker, question: Question[A], sample: int) -> tuple[A, Trace]:
    """The expected score under the model's own probabilities of every score of the scale; nothing is generated.

    Source: "Uniworld-V2: Reinforce Image Editing with Diffusion Negative-aware Finetuning and MLLM Implicit Feedback".
    """
    score = getattr(asker.policy, "score", None)
    if score is None or not question.scale:
        raise Unanswered(f"how = 'logits' needs a model that gives probabilities (hf:PATH), not {asker.policy.name}")
    low, high = question.scale
    ratings, asked = list(range(low, high + 1)), Conversation("judge", question.messages())
    logps = [math.fsum(await asker.call(partial(score, asked, f'{{"critique": "", "score": {r}'))) for r in ratings]
    expected, chances = expectation(ratings, logps)
    return Score("", expected), {"chances": chances}  # type: ignore[return-value]  # only questions for a score have a scale


def expectation(ratings: list[int], logps: list[float]) -> tuple[float, list[float]]:
    """The mean rating under the softmax of ``logps``, and that softmax."""
    most = max(logps)
    weights = [math.exp(p - most) for p in logps]
    chances = [w / math.fsum(weights) for w in weights]
    return math.fsum(r * c for r, c in zip(ratings, chances, strict=True)), chances


HOW = {"once": once, "rethink": rethink, "debate": debate, "reference": reference, "tools": equipped, "logits": logits}
