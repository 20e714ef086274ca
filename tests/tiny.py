"""A very small model over the desk's words, for tests of trainers."""

from functools import cache

from agentgym_trainers.model import tiny_model, tiny_tokenizer
from agentgym_trainers.renderer import ChatRenderer

WORDS = [
    "Close the ticket 'old door'.",
    '<tool_call>{"name": "find_ticket", "arguments": {"title": "old door"}}</tool_call>',
    "id 42\nstatus open",
    "user assistant system tool",
] * 4


@cache
def tokenizer():
    return tiny_tokenizer(WORDS, 600)


def renderer() -> ChatRenderer:
    return ChatRenderer(tokenizer())


def model(seed: int = 0, **size: int):
    return tiny_model(tokenizer(), seed, **{"hidden": 32, "layers": 2, "heads": 2, **size}).eval()
