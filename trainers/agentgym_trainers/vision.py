"""``vlm:PATH``: a vision-language model that sees the screen. Any Hugging Face image-text-to-text model with a processor.

Each turn is one prompt: the conversation in words, and the pictures of now in its last message. What is sampled has ids and
log-probabilities, but the next turn's prompt holds another picture: every turn is a segment of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import anyio
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from agentgym.core import Completion, Conversation, Message
from agentgym.errors import CapabilityError, ContextOverflow, UsageError
from agentgym.messages import parse_action, print_action

MOST_NEW = 256


class VisionEngine:
    """A model behind the same ``act`` as the other engines; one completion at a time.

    ``resize`` (a width in pixels) makes pictures smaller before the model's own processor sees them.
    """

    def __init__(self, argument: str, *, temperature: float = 0.0, max_tokens: int | None = None, resize: int = 0) -> None:
        if not argument:
            raise UsageError("vlm:PATH needs the path or hub id of a vision-language model")
        self.name, self.temperature, self.max_tokens, self.resize = f"vlm:{argument}", temperature, max_tokens or MOST_NEW, resize
        cuda = torch.cuda.is_available()
        try:
            self.processor: Any = AutoProcessor.from_pretrained(argument)
            self.model: Any = AutoModelForImageTextToText.from_pretrained(argument, dtype=torch.bfloat16 if cuda else torch.float32)
        except (OSError, ValueError) as error:
            raise UsageError(f"no vision-language model can be loaded from {argument!r}: {str(error).splitlines()[0][:200]}") from None
        self.model = self.model.to("cuda" if cuda else "cpu").eval()
        self._turn = anyio.Lock()

    async def act(self, conversation: Conversation) -> Completion:
        """One completion of what was said and what is to be seen.

        Raises:
            CapabilityError: there is no picture; ContextOverflow: the prompt is longer than the model's context.
        """
        if not conversation.images:
            raise CapabilityError(f"{self.name} looks at pictures, and this environment shows none (option screenshot=true, where it has one)")
        async with self._turn:
            return await anyio.to_thread.run_sync(partial(self._complete, conversation))

    @torch.no_grad()
    def _complete(self, conversation: Conversation) -> Completion:
        inputs = self._inputs(conversation)
        prompt = inputs["input_ids"].shape[1]
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20) - prompt
        if room < 1:
            raise ContextOverflow(f"the prompt of {prompt} tokens is longer than the context of {self.name}")
        limit = min(conversation.max_tokens or self.max_tokens, self.max_tokens, room)
        torch.manual_seed(conversation.seed * 1009 + len(conversation.messages))
        sampled = {"do_sample": True, "temperature": self.temperature} if self.temperature > 0 else {"do_sample": False}
        made = self.model.generate(**inputs, max_new_tokens=limit, **sampled)[0, prompt:].tolist()
        text = self.processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        parsed = parse_action(text)
        action = text if parsed.problem or not parsed.calls else print_action(parsed.prose, parsed.calls)
        finish: Literal["length", "stop"] = "length" if len(made) >= limit and made[-1] != self.processor.tokenizer.eos_token_id else "stop"
        return Completion(action, finish=finish, usage={"prompt_tokens": prompt, "completion_tokens": len(made)})

    def _inputs(self, conversation: Conversation) -> Any:
        pictures = [self._sized(Image.fromarray(image)) for image in conversation.images]
        text = self.processor.apply_chat_template(chat(conversation.messages, len(pictures)), add_generation_prompt=True)
        return self.processor(text=text, images=pictures, return_tensors="pt").to(self.model.device)

    def _sized(self, picture: Image.Image) -> Image.Image:
        if not self.resize or picture.width <= self.resize:
            return picture
        return picture.resize((self.resize, picture.height * self.resize // picture.width))

    async def score(self, conversation: Conversation, continuation: str) -> list[float]:
        """The log-probability of each token of a continuation, given the conversation and its pictures."""
        async with self._turn:
            return await anyio.to_thread.run_sync(partial(self._scored, conversation, continuation))

    @torch.no_grad()
    def _scored(self, conversation: Conversation, continuation: str) -> list[float]:
        inputs = self._inputs(conversation)
        ids = self.processor.tokenizer(continuation, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self.model.device)
        whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], ids], 1), "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + ids.shape[1])}
        logits = self.model(**whole).logits[0, inputs["input_ids"].shape[1] - 1 : -1].float()
        return [float(x) for x in torch.log_softmax(logits, -1).gather(1, ids[0][:, None])[:, 0]]


def chat(messages: Sequence[Message], pictures: int) -> list[dict[str, Any]]:
    """Messages as processors want them: parts of text, and a place for each picture in the last message, which a user says."""
    told = [{"role": "user" if m["role"] == "tool" else m["role"], "content": [{"type": "text", "text": str(m["content"])}]} for m in messages]
    last = told[-1]
    if last["role"] != "user":
        last = {"role": "user", "content": []}
        told.append(last)
    last["content"] = [*({"type": "image"} for _ in range(pictures)), *last["content"]]
    return told


def tiny_vlm(folder: str, texts: Sequence[str], seed: int = 0, side: int = 32) -> None:
    """A very small vision-language model with random weights (a Llava over pictures of ``side`` pixels), written to a folder: no download."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen3Config

    from agentgym_trainers.model import END, PAD, START, tiny_tokenizer

    tokenizer = tiny_tokenizer(texts, 600)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    patch = side // 4
    torch.manual_seed(seed)
    words = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        max_position_embeddings=8192, pad_token_id=tokenizer.convert_tokens_to_ids(PAD), eos_token_id=tokenizer.convert_tokens_to_ids(END),
    )  # fmt: skip
    sight = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=side, patch_size=patch)
    config = LlavaConfig(vision_config=sight, text_config=words, image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=16)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    sized = {"height": side, "width": side}
    template = (
        "{%- for m in messages -%}{{ '" + START + "' + m.role + '\n' }}{%- for p in m.content -%}{{ '<image>' if p.type == 'image' else p.text }}{%- endfor -%}"
        "{{ '" + END + "\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '" + START + "assistant\n' }}{%- endif -%}"
    )
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=sized, crop_size=sized), tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="default",
        chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
