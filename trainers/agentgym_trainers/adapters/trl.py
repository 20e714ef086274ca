"""Our environments in TRL's ``GRPOTrainer``: a rollout function, its data set, and the reward that came with the episode.

    task = Played("tools/desk", levels=1)
    trainer = GRPOTrainer(model, args=GRPOConfig(...), processing_class=tokenizer, train_dataset=task.dataset(64), rollout_func=task, reward_funcs=task.reward)
    trainer.train()

Episodes are sampled from the trainer's own weights, and what it learns from are the ids that were sampled: their log-probabilities, and a mask that is 0
where the environment spoke. An episode that is invalid has no reward, which TRL leaves out of its group.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, ClassVar

import anyio
from datasets import Dataset

from agentgym.core import Message
from agentgym.episode import Episode
from agentgym.errors import UsageError
from agentgym.evaluation.run import provenance, settler_of
from agentgym.registry import make
from agentgym.rollout import Job, Rollout
from agentgym_trainers.adapters.sequence import Sequence, sequence
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.renderer import ChatRenderer


class Played:
    """Episodes of one environment, as TRL wants them. ``options`` are the environment's; ``spec`` names its reward.

    Raises:
        UsageError: the environment has pixels, or a template that rewrites history: an episode must be one sequence of text.
    """

    __name__: ClassVar[str] = "agentgym"

    def __init__(self, env: str, *, split: str = "train", spec: str = "outcome", max_tokens: int = 256, seed: int = 0, **options: Any) -> None:
        self.env, self.split, self.spec, self.options = env, split, spec, options
        self.max_tokens, self.seed, self.calls = max_tokens, seed, 0
        self.last: list[Episode] = []
        self._engine: TransformersEngine | None = None
        with_pixels = make(env, split=split, reward=spec, **options)
        if with_pixels.screen is not None:
            raise UsageError(f"{env} has pixels; TRL's rollout function takes text")
        self.ids, self._late = with_pixels.taskset.ids(), settler_of(with_pixels)

    def dataset(self, tasks: int) -> Dataset:
        """The first ``tasks`` tasks: each prompt is a task's id, from which the episode begins."""
        return Dataset.from_list([{"prompt": [{"role": "user", "content": name}]} for name in self.ids[:tasks]])

    def __call__(self, prompts: Many[Many[Message]], trainer: Any) -> dict[str, Any]:
        """One episode for each prompt, with the weights as they are now."""
        engine, model = self._at(trainer), trainer.accelerator.unwrap_model(trainer.model)
        self.calls += 1
        names = [str(p[-1]["content"]) for p in prompts]
        jobs = [Job(name, i, (self.seed * 1_000_003 + self.calls) * 4096 + i, name) for i, name in enumerate(names)]
        rollout = Rollout(
            lambda: make(self.env, split=self.split, reward=self.spec, **self.options), engine, concurrency=len(jobs), max_tokens=self.max_tokens,
            late=self._late, provenance=provenance(),
        )  # fmt: skip
        was = model.training
        model.eval()
        engine.sync(model, str(self.calls))
        self.last = anyio.run(rollout.run, jobs)
        model.train(was)
        return told(self.last, engine.renderer)

    def reward(self, completions: Many[Any], returned: Many[float | None], **_: Any) -> list[float | None]:
        """The sum of each episode's terms; None where it is invalid."""
        return list(returned)

    def _at(self, trainer: Any) -> TransformersEngine:
        if self._engine is None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            self._engine = TransformersEngine(
                model, ChatRenderer(trainer.processing_class), name="trl", temperature=trainer.args.temperature, max_tokens=self.max_tokens
            )
        return self._engine


def told(episodes: Many[Episode], renderer: ChatRenderer) -> dict[str, Any]:
    """Episodes as TRL's fields: the opening as the prompt, all after it as the completion, whose ``env_mask`` is 1 where the model spoke."""
    out: dict[str, list[Any]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": [], "returned": []}
    for episode in episodes:
        found = sequence(episode)
        whole = found or Sequence([renderer.end_id], [renderer.end_id], [0], [0.0], [0.0])
        values = (whole.prompt or [renderer.end_id], whole.ids, whole.logprobs, whole.mask, episode.total if episode.decided and found else None)
        for name, value in zip(out, values, strict=True):
            out[name].append(value)
    return out
