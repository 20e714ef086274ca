"""The renderer appends only: proved on the public chat templates of many families, read from an installed package."""

import copy
import re
from pathlib import Path

import pytest
import trl
from agentgym_trainers.model import tiny_tokenizer
from agentgym_trainers.renderer import WINDOW, ChatRenderer, canonical, windowed
from agentgym_trainers.supervised import oracle_episode, tokenize
from tiny import renderer, tokenizer
from transformers import AutoTokenizer

from agentgym import make
from agentgym.errors import TemplateRefused
from agentgym.messages import ToolCall, assistant_message, call, parse_action, tool_message

FOLDER = Path(trl.__file__).parent / "chat_templates"
ACCEPTED = ["qwen2_5", "qwen3_instruct_2507", "llama3_1", "llama3_2", "gemma3", "lfm2", "cohere", "phi3"]
REFUSED = ["qwen3", "deepseekv3", "gptoss", "nemotron_3_nano", "smolvlm"]
SPECIAL = re.compile(r"<[|｜][^<>{}'\"]{1,40}[|｜]>|<start_of_turn>|<end_of_turn>|</?s>|<bos>")


def load(name: str, on_rewrite: str = "refuse") -> ChatRenderer:
    text = (FOLDER / f"{name}.jinja").read_text()
    made = tiny_tokenizer(["some words to merge, question answer"] * 3, 400)
    made.add_special_tokens({"additional_special_tokens": sorted({"<|im_start|>", *SPECIAL.findall(text)})})
    made.bos_token = "<bos>" if "<bos>" in text or "bos_token" in text else None
    made.chat_template, made.name_or_path = text, name
    return ChatRenderer(made, on_rewrite)


CONVERSATION = [
    {"role": "user", "content": "first question\nwith two lines"},
    {"role": "assistant", "content": "an answer"},
    {"role": "user", "content": "second question  "},
    {"role": "assistant", "content": "another answer"},
    {"role": "user", "content": "third"},
]


@pytest.mark.parametrize("name", ACCEPTED)
def test_turns_appended_one_by_one_are_the_conversation_rendered_whole(name):
    made = load(name)
    ids = made.open([], CONVERSATION[:1])
    for said, new in ((CONVERSATION[1], CONVERSATION[2:3]), (CONVERSATION[3], CONVERSATION[4:])):
        sampled = [*made.tokenizer.encode(said["content"], add_special_tokens=False), made.end_id]
        ids = ids + sampled + made.bridge(new)
    assert made.tokenizer.decode(ids) == made._render(CONVERSATION, ask=True)
    assert ids == made._encode(made._render(CONVERSATION, ask=True))


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507", "lfm2"])
def test_tool_answers_are_glued_as_the_template_glues_them(name):
    made, tools = load(name), [t.spec for t in make("tools/desk").tools.values()][:3]
    calls = [ToolCall("find_ticket", {"title": "old door"}), ToolCall("read_rules", {})]
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Close it."}]
    answers = [tool_message(0, 0, "find_ticket", "id 42\nstatus open"), tool_message(0, 1, "read_rules", "R1 none")]
    whole = made._render([*first, assistant_message("", calls, 0), *answers], tools=tools, ask=True)
    head = made.tokenizer.decode(made.open(tools, first))
    tail = made.tokenizer.decode(made.bridge(answers))
    assert whole.startswith(head) and whole.endswith(made.tokenizer.decode([made.end_id]) + tail)


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_rewrites_history_is_refused_by_name_or_opens_a_segment_each_turn(name):
    with pytest.raises(TemplateRefused, match=name):
        load(name)
    assert load(name, "segment").segment_each_turn


def test_a_window_shows_the_last_turns_and_is_kept_with_the_model(tmp_path):
    system, told = {"role": "system", "content": "rules"}, [m["content"] for m in CONVERSATION]
    assert [m["content"] for m in windowed([system, *CONVERSATION], 1)] == ["rules", told[4]]
    assert [m["content"] for m in windowed([system, *CONVERSATION], 2)] == ["rules", *told[2:]]
    assert [m["content"] for m in windowed(CONVERSATION, 1)] == [told[0], told[4]], "the task stays where no system message tells it"
    assert windowed(CONVERSATION, 5) == CONVERSATION
    made = copy.deepcopy(tokenizer())  # the tests share one
    made.init_kwargs[WINDOW] = 1
    made.save_pretrained(tmp_path)
    again = ChatRenderer(AutoTokenizer.from_pretrained(tmp_path))
    assert again.window == 1 and again.segment_each_turn
    assert again.open([], [system, *CONVERSATION]) == renderer().open([], [system, CONVERSATION[4]])


def test_with_a_window_a_demonstration_is_what_the_engine_would_have_read(tmp_path):
    made = copy.deepcopy(tokenizer())  # the tests share one
    made.init_kwargs[WINDOW] = 1
    windowed_renderer, env = ChatRenderer(made), make("tools/desk", levels=1)
    episode = tokenize(oracle_episode(env, env.taskset.ids()[0]), windowed_renderer, env)
    messages = []
    for i, turn in enumerate(episode.turns):
        messages += turn.observation
        before = [t for t, m in zip(turn.tokens.ids, turn.tokens.mask, strict=True) if not m]
        assert turn.tokens.segment == i and before == windowed_renderer.open([t.spec for t in env.tools.values()], messages)
        messages.append(assistant_message(turn.action, turn.calls, i))
    assert len(episode.turns) > 1


def test_a_turn_that_was_cut_is_closed_by_a_token_that_is_not_the_policys():
    made = renderer()
    new = [{"role": "user", "content": "go on"}]
    assert made.bridge(new, closed=False) == [made.end_id, *made.bridge(new)]


def test_the_tiny_template_renders_calls_as_canonical_actions():
    made, text = renderer(), call("find_ticket", title="old 'door' <1>")
    message = assistant_message(text, parse_action(text).calls, 0)
    assert made._render([{"role": "user", "content": "x"}, message]).endswith(f"<|im_start|>assistant\n{text}<|im_end|>\n")


def test_what_is_sampled_is_parsed_from_its_ids():
    made, text = renderer(), call("find_ticket", title="old door")
    ids = [*tokenizer().encode(text, add_special_tokens=False), made.end_id]
    assert made.parse(ids)["content"] == text


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        ('<tool_call>\n{"name": "look", "arguments": {"id": 1}}\n</tool_call>', "look", {"id": 1}),
        ('{"name": "look", "parameters": {"id": 1}}', "look", {"id": 1}),
        ('<|python_tag|>{"name": "look", "parameters": {"id": 1}}', "look", {"id": 1}),
        ('I look. [TOOL_CALLS] [{"name": "look", "arguments": {"id": 1}}]', "look", {"id": 1}),
    ],
)
def test_each_familys_call_syntax_becomes_the_canonical_one(said, name, arguments):
    made = parse_action(canonical(said)).calls[0]
    assert (made.name, made.arguments) == (name, arguments)


@pytest.mark.parametrize("said", ["plain words", "{not json}", '{"answer": 3}', "[TOOL_CALLS] nothing"])
def test_other_text_stays_as_it_is(said):
    assert canonical(said) == said


def test_a_tokenizer_without_a_template_is_refused():
    made = tiny_tokenizer(["x"])
    made.chat_template = None
    with pytest.raises(TemplateRefused, match="no chat template"):
        ChatRenderer(made)
