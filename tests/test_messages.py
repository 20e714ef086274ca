"""The one parser and the one printer of actions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.messages import ToolCall, answer, call, parse_action, print_action, tool

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


def page_tools():
    @tool
    def click(page: list, element: int) -> str:
        """Click."""
        page.append(("click", element))
        return "clicked"

    @tool
    def fill(page: list, element: int, text: str) -> str:
        """Fill."""
        page.append(("fill", element, text))
        return "filled"

    @tool
    def back(page: list) -> str:
        """Go back."""
        page.append(("back",))
        return "went back"

    return {t.spec.name: t for t in (click, fill, back)}


@pytest.mark.parametrize(
    ("text", "did", "state", "said"),
    [
        ("click 12", [("click", 12)], ["ok"], "clicked"),
        ("fill 3 two words ", [("fill", 3, "two words")], ["ok"], "filled"),
        ("back", [("back",)], ["ok"], "went back"),
        ("back now", [], ["malformed"], "`now`"),
        ("clik 3", [], ["malformed"], "did you mean click"),
        ("click here", [], ["malformed"], "int"),
        ("fill 3", [], ["malformed"], "text"),
        (" ", [], [], "error: there is no tool call; say click"),
        ('<tool_call>{"name": "click", "arguments": {"element": "12"}}</tool_call>', [], ["malformed"], "int"),
    ],
)
def test_a_short_action_is_a_call_of_text_and_a_written_one_keeps_its_types(text, did, state, said):
    page = []
    done = answer(page_tools(), page, parse_action(text), 0, lambda: False, hint="say click", short=True)
    assert page == did and done.states == state and done.malformed == (state != ["ok"])
    assert said in done.messages[0]["content"] and done.messages[0]["role"] == ("tool" if "<" in text else "user")


def test_calls_after_the_end_are_answered_and_not_run():
    page = []
    done = answer(page_tools(), page, parse_action(call("back") + call("click", element=1)), 4, lambda: bool(page))
    assert page == [("back",)] and done.states == ["ok", "after the end"] and not done.malformed
    assert [m["tool_call_id"] for m in done.messages] == ["call_4_0", "call_4_1"]


def test_prose_is_no_call_where_there_are_no_short_actions():
    page = []
    assert answer(page_tools(), page, parse_action("back"), 0, lambda: False).malformed and page == []
