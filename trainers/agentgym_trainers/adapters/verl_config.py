"""``agentgym export RUN --format verl-config``: a training run, or its table, as a configuration of verl's trainer, for more than one node.

The folder holds ``verl.yaml`` (over verl's own defaults), ``agent.yaml`` (the agent loop), ``train.parquet`` and ``val.parquet`` (tasks by name), and
``run.sh``. Nothing here imports verl.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agentgym.errors import MissingExtra, UsageError
from agentgym.registry import make
from agentgym_trainers import checkpoint
from agentgym_trainers.advantage import ADVANTAGES
from agentgym_trainers.algorithm import Algorithm, options_of, parts, resolve
from agentgym_trainers.config import TrainConfig
from agentgym_trainers.run import reward_of
from agentgym_trainers.train import resumed

MODULE = "agentgym_trainers.adapters.verl"
AGGREGATIONS = {"token": "token-mean", "sequence": "seq-mean-token-mean", "sum": "seq-mean-token-sum", "constant": "seq-mean-token-sum-norm"}
DIVERGENCES = {"k1": "kl", "k2": "mse", "k3": "low_var_kl"}
LOSSES = ("clipped", "sequence_clipped", "cispo", "topr", "reinforce")
USUAL = Algorithm(name="")
CARRIED = (
    "name", "paper", "reward", "advantage", "objective", "aggregation", "kl", "divergence", "kl_in", "entropy", "entropy_of", "correction", "options",
    "sampler",
)  # fmt: skip


def verl_config(source: Path, to: Path) -> int:
    """Write the folder ``to`` for the run folder, or the table, ``source``; how many tasks its data sets name.

    Raises:
        UsageError: it is no training run, or needs what verl's trainer has no place for; the message names it.
        MissingExtra: ``pyarrow`` is not installed.
    """
    try:
        from pyarrow import Table, parquet
    except ImportError:
        raise MissingExtra("pyarrow", "pip install 'agentgym-core[parquet]'") from None
    config, model = _read(source)
    algorithm = resolve(config.algo, config.set)
    _fits(config, algorithm)
    to.mkdir(parents=True, exist_ok=True)
    to, count = to.resolve(), 0
    for name, split in (("train", config.split), ("val", config.eval_split)):
        with closing(make(config.env, split=split, **config.option)) as env:
            ids = env.taskset.ids()[: None if name == "train" else config.eval_tasks]
            about = {"data_source": env.id, "agent_name": "agentgym", "reward_model": {"style": "rule", "ground_truth": ""}}
            rows = [
                {**about, "prompt": [{"role": "user", "content": env.taskset.get(t).instruction}], "extra_info": {"task": t, "split": split, "index": i}}
                for i, t in enumerate(ids)
            ]
        parquet.write_table(Table.from_pylist(rows), to / f"{name}.parquet")
        count += len(rows)
    loop = {
        "name": "agentgym", "_target_": f"{MODULE}.AgentLoop", "env": config.env, "reward": reward_of(config, algorithm), "options": dict(config.option),
        "max_tokens": config.max_tokens,
    }  # fmt: skip
    (to / "agent.yaml").write_text(yaml.safe_dump([loop], sort_keys=False))
    (to / "verl.yaml").write_text(yaml.safe_dump(settings(config, algorithm, model, to), sort_keys=False))
    (to / "run.sh").write_text(
        "#!/bin/sh\n# One or more nodes of one Ray cluster; agentgym is installed on each. More settings as verl takes them: trainer.nnodes=2 ...\n"
        f'export VERL_USE_EXTERNAL_MODULES={MODULE}\nexec python -m verl.trainer.main_ppo --config-dir "{to}" --config-name verl "$@"\n'
    )
    return count


def _read(source: Path) -> tuple[TrainConfig, str]:
    """The table of a run, and the model that it has come to, or begins with."""
    if source.suffix == ".toml":
        try:
            config = msgspec.toml.decode(source.read_bytes(), type=TrainConfig)
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"cannot read {source}: {error}") from None
        found = None
    else:
        config = resumed(str(source))
        found = checkpoint.latest(source)
    model = str(found[1].resolve()) if found else config.model
    if model == "tiny":
        raise UsageError("a tiny model is made in a run: export the folder of one, or give model = PATH")
    return config, str(Path(model).resolve()) if Path(model).exists() else model


def _fits(config: TrainConfig, algorithm: Algorithm) -> None:
    """Raise ``UsageError`` where a run is more than verl's trainer has a place for."""
    changed = [k for k in Algorithm.__struct_fields__ if k not in CARRIED and getattr(algorithm, k) != getattr(USUAL, k)]
    wrong = {
        f"{', '.join(changed)} of algorithm {algorithm.name}": bool(changed),
        f"advantage {algorithm.advantage}, which needs a critic or equal observations": ADVANTAGES[algorithm.advantage].values
        or algorithm.advantage == "gigpo",
        f"objective {algorithm.objective}": algorithm.objective not in LOSSES,
        "an entropy bonus of what was decided alone (there is entropy_of=all)": bool(algorithm.entropy) and algorithm.entropy_of != "all",
        f"aggregation {algorithm.aggregation}": algorithm.aggregation not in AGGREGATIONS,
        f"divergence {algorithm.divergence}": bool(algorithm.kl) and algorithm.divergence not in DIVERGENCES,
        f"sampler {algorithm.sampler}": algorithm.sampler not in ("fixed", "refill"),
        "a window of turns": config.window > 0 or config.on_rewrite != "refuse",
        "a verifier to train": config.role != "policy",
        "seats": bool(config.trainable or config.against),
        "stored episodes": bool(config.data),
        "an advantage's own settings": bool(set(options_of(algorithm, parts(algorithm)["advantage"]))),
    }
    if lacking := [what for what, so in wrong.items() if so]:
        raise UsageError(f"verl's trainer has no place for {'; '.join(lacking)}")


def settings(config: TrainConfig, algorithm: Algorithm, model: str, to: Path) -> dict[str, Any]:
    """``verl.yaml``: what differs from verl's own defaults."""
    clips = options_of(algorithm, parts(algorithm)["objective"])
    in_loss = bool(algorithm.kl) and algorithm.kl_in == "loss"
    actor = {
        "optim": {"lr": config.lr, "lr_warmup_steps": config.lr_warmup}, "grad_clip": config.max_norm,
        "ppo_mini_batch_size": max(1, config.groups // config.updates),
        "use_dynamic_bsz": True, "loss_agg_mode": AGGREGATIONS[algorithm.aggregation], "policy_loss": {"loss_mode": f"agentgym_{algorithm.objective}"},
        "clip_ratio_low": float(clips.get("clip_low", 0.2)), "clip_ratio_high": float(clips.get("clip_high", 0.2)), "entropy_coeff": algorithm.entropy,
        "use_kl_loss": in_loss, **({"kl_loss_coef": algorithm.kl, "kl_loss_type": DIVERGENCES[algorithm.divergence]} if in_loss else {}),
    }  # fmt: skip
    more: dict[str, Any] = {"rollout_correction": {"rollout_is": "token"}} if algorithm.correction else {}
    if algorithm.sampler == "refill":
        more["filter_groups"] = {"enable": True, "metric": "reward"}
    in_reward = bool(algorithm.kl) and algorithm.kl_in == "reward"
    return {
        "defaults": ["ppo_trainer", "_self_"],
        "data": {
            "train_files": str(to / "train.parquet"), "val_files": str(to / "val.parquet"), "train_batch_size": config.groups, "return_raw_chat": True,
            "max_prompt_length": config.context, "max_response_length": config.context, "filter_overlong_prompts": False, "seed": config.seed,
        },
        "actor_rollout_ref": {
            "model": {"path": model, "external_lib": MODULE}, "actor": actor,
            "rollout": {
                "name": "vllm", "mode": "async", "n": config.group_size, "temperature": config.temperature, "calculate_log_probs": True,
                "agent": {"default_agent_loop": "agentgym", "agent_loop_config_path": str(to / "agent.yaml")},
            },
        },
        "algorithm": {
            "adv_estimator": f"agentgym_{algorithm.advantage}", "use_kl_in_reward": in_reward,
            **({"kl_ctrl": {"kl_coef": algorithm.kl}, "kl_penalty": DIVERGENCES[algorithm.divergence]} if in_reward else {}), **more,
        },
        "trainer": {
            "total_training_steps": config.steps, "save_freq": config.save_every, "test_freq": config.eval_every or -1, "logger": ["console"],
            "project_name": "agentgym", "experiment_name": Path(config.out).name or "verl", "default_local_dir": str(to / "checkpoints"),
        },
        "ray_kwargs": {"ray_init": {"runtime_env": {"env_vars": {"VERL_USE_EXTERNAL_MODULES": MODULE}}}},
    }  # fmt: skip
