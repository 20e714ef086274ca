"""The one parser and the one printer of actions."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agentgym.messages import ToolCall, parse_action, print_action, tool

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES, v, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=4)
PROSE = st.text().filter(lambda t: "tool_call>" not in t)


@given(PROSE, CALLS)
def test_what_is_printed_is_read_back(prose, calls):
    read = parse_action(print_action(prose, calls))
    closing = any("tool_call>" in msgspec.json.encode(c).decode() for c in calls)
    assert closing or (read.problem is None and read.prose == prose.strip() and list(read.calls) == calls)


@given(st.text())
def test_no_text_raises(text):
    for wrapped in (text, f"<tool_call>{text}</tool_call>", f"a <tool_call>{text}", f"{text}</tool_call>"):
        action = parse_action(wrapped)
        assert action.problem is None or not action.calls


def test_a_tool_is_its_signature():
    @tool
    def book(world: object, title: str, hour: int = 9) -> str:
        """Book a
        meeting.

        Not part of the description.
        """
        return f"{title} {hour}"

    assert book.spec.name == "book" and book.spec.description == "Book a meeting."
    assert book.spec.parameters["required"] == ["title"] and book.spec.parameters["additionalProperties"] is False
    assert book.run(None, {"title": "x"}) == "x 9"
    assert book.spec.openai()["function"]["parameters"]["properties"]["hour"] == {"type": "integer", "default": 9}
