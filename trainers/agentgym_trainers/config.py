"""The settings of ``train`` and ``sft``, with their defaults and what they mean."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct


def _says(text: str, **limits: Any) -> Meta:
    return Meta(description=text, **limits)


class WarmStart(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Supervised updates on oracle episodes of the train split, before any reinforcement learning."""

    warm_steps: Annotated[int, _says("supervised updates; default 250 for --model tiny, else 0", ge=0)] | None = None
    warm_tasks: Annotated[int, _says("distinct tasks that the warm start may see; default all", ge=1)] | None = None
    warm_until: (
        Annotated[float, _says("stop the warm start once this share of 60 train tasks succeeds greedily; looked at every 5 updates", gt=0, le=1)] | None
    ) = None
    warm_by: Annotated[
        str, _says("whose episodes are shown: the oracle's, or those of the environment's honest player that paid something", pattern="^(oracle|player)$")
    ] = "oracle"
    warm_batch: Annotated[int, _says("episodes per supervised update", ge=1)] = 32
    warm_lr: Annotated[float, _says("learning rate of the warm start", gt=0)] = 2e-3
    warm_lr_final: Annotated[float, _says("share of that rate that is left at its last update; it falls linearly", ge=0, le=1)] = 1.0


class Common(WarmStart, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What ``train`` and ``sft`` share."""

    env: Annotated[str, _says("environment id, with or without version")] = ""
    model: Annotated[str, _says("a path or hub id of a causal LM, or tiny: a small one made on the spot")] = "tiny"
    vocab_tasks: Annotated[int, _says("oracle episodes, at most, that the vocabulary of --model tiny is made from", ge=1)] = 1500
    lora: Annotated[int, _says("train adapters of this rank and nothing else; 0: all weights", ge=0)] = 0
    split: Annotated[str, _says("split to train on")] = "train"
    eval_split: Annotated[str, _says("held-out split, evaluated greedily before and after")] = "dev"
    eval_tasks: Annotated[int, _says("tasks of each evaluation", ge=1)] = 100
    option: Annotated[dict[str, Any], _says("environment options as key=value, repeatable")] = {}
    sandbox: Annotated[str, _says("kind of sandbox: bwrap, docker, runsc")] | None = None
    seed: Annotated[int, _says("seed of everything", ge=0)] = 0
    max_tokens: Annotated[int, _says("longest action in tokens", ge=1)] = 64
    context: Annotated[int, _says("longest conversation in tokens", ge=16)] = 1024
    on_rewrite: Annotated[str, _says("for templates that rewrite history: refuse, or segment (each turn on its own)", pattern="^(refuse|segment)$")] = "refuse"
    window: Annotated[int, _says("turns that the model sees, each then a segment of its own; 0: the whole conversation; kept with the model", ge=0)] = 0
    threads: Annotated[int, _says("CPU threads of torch; 0 leaves torch's default", ge=0)] = 0
    track: Annotated[str, _says("also write metrics to tensorboard, wandb or trackio", pattern="^(tensorboard|wandb|trackio)?$")] = ""
    out: Annotated[str, _says("run folder; default runs/<verb>-<date>")] = ""


class TrainConfig(Common, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Train a policy by reinforcement learning: agentgym train --env tools/desk-v0 --option levels=1 --steps 20"""

    role: Annotated[
        str,
        _says(
            "what is trained: the policy, or a verifier (on the episodes of --data, or in an environment whose actions are verdicts)",
            pattern="^(policy|verifier)$",
        ),
    ] = "policy"
    algo: Annotated[str, _says("algorithm: a recipe of named parts, see docs/training.md")] = "grpo"
    set: Annotated[dict[str, Any], _says("settings of the algorithm as key=value, repeatable: kl=0.01, clip_high=0.28, weights.negative=0.5")] = {}
    vary: Annotated[
        dict[str, Any], _says("also run with each of these values, one at a time, all else and the seeds the same: kl=0,0.01 or algo=ppo,rloo")
    ] = {}
    reward: Annotated[str, _says("reward spec of the environment; default the algorithm's, else outcome")] = ""
    trainable: Annotated[list[str], _says("at a game: a seat that the model plays and learns from, repeatable; default the environment's own seat")] = []
    against: Annotated[
        str, _says("at a game: who plays the other seats: self, past, fictitious or double-oracle (checkpoints of this run), or a player by name")
    ] = ""
    tremble: Annotated[
        float, _says("with --against self, past, fictitious or double-oracle: share of the others' moves that are drawn at random", ge=0, lt=1)
    ] = 0.0
    data: Annotated[str, _says("learn from the episodes of this run or bundle, and sample none")] = ""
    steps: Annotated[int, _says("reinforcement-learning updates", ge=0)] = 40
    groups: Annotated[int, _says("tasks per update", ge=1)] = 16
    group_size: Annotated[int, _says("episodes per task", ge=2)] = 8
    updates: Annotated[int, _says("optimiser updates per collected batch: its episodes are dealt into that many parts", ge=1)] = 1
    lr: Annotated[float, _says("learning rate", gt=0)] = 3e-4
    lr_warmup: Annotated[int, _says("updates over which the learning rate rises to its value", ge=1)] = 10
    lr_final: Annotated[float, _says("share of the learning rate that is left at the last update; it falls linearly", ge=0, le=1)] = 1.0
    max_norm: Annotated[float, _says("largest norm of a gradient", gt=0)] = 1.0
    temperature: Annotated[float, _says("sampling temperature", gt=0)] = 1.0
    engine: Annotated[str, _says("what samples: transformers, or vllm", pattern="^(transformers|vllm)$")] = "transformers"
    vllm_python: Annotated[str, _says("the Python of an environment that has vLLM, for --engine vllm")] = ""
    workers: Annotated[str, _says("environments run in so many processes, or on Ray's cluster: N, ray, ray:N; the model stays here")] | None = None
    staleness: Annotated[int, _says("how many updates older than the learner the sampling weights may be; 0: sample and learn in turn", ge=0)] = 0
    stragglers: Annotated[str, _says("groups that lag behind their batch: wait for them, carry them over, or cut them", pattern="^(wait|carry|cut)$")] = "wait"
    eval_every: Annotated[int, _says("updates between evaluations; 0: only before and after", ge=0)] = 0
    stop_at: Annotated[float, _says("stop once held-out success reaches this", gt=0, le=1)] | None = None
    patience: Annotated[int, _says("stop after so many evaluations without a new best; 0: never", ge=0)] = 0
    save_every: Annotated[int, _says("updates between checkpoints", ge=1)] = 20
    sampled_eval: Annotated[bool, _says("also evaluate at temperature 1, before and after")] = False
    resume: Annotated[str, _says("continue the run in this folder; every other flag is read from it")] = ""


class SftConfig(Common, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Warm a model up on oracle episodes: agentgym sft --env tools/desk-v0 --option levels=1 --warm-steps 200"""
