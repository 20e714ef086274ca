"""Several processes on one node: ``torchrun --nproc-per-node N -m agentgym train …``. Weights are sharded (FSDP2), batches are dealt.

Every process sees the same episodes and takes the same decisions; each plays its share of the groups and computes its share of the
micro-batches. Weights carry global denominators, so the summed gradient is that of one process. The first process alone writes files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

T = TypeVar("T")
_WRAPPED: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def begin() -> int:
    """Join the processes that ``torchrun`` started, if it did; how many there are."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return world()


def end() -> None:
    """Leave them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def gathered(mine: list[T]) -> list[list[T]]:
    """What each process has."""
    if world() == 1:
        return [mine]
    out: list[Any] = [None] * world()
    dist.all_gather_object(out, mine)
    return out


def from_first(value: T | None) -> T:
    """What the first process has; what the others give is not looked at."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box, 0)
    assert box[0] is not None
    return box[0]


def summed(values: dict[str, float], largest: Sequence[str] = ()) -> dict[str, float]:
    """The sum over processes of each number; the largest of those named."""
    found = gathered([values])
    return {k: max(v[0][k] for v in found) if k in largest else sum(v[0][k] for v in found) for k in values}


class _Whole(nn.Module):
    """A model whose every use goes through one ``forward``, so that FSDP can gather and release its weights around it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[PreTrainedModel], Any]) -> Any:
        return work(self.model)


def shard(model: PreTrainedModel) -> None:
    """Shard a model's weights over the processes, layer by layer; nothing happens where there is one."""
    if world() == 1:
        return
    from torch.distributed.fsdp import fully_shard

    whole = _Whole(model)
    for layer in model.get_decoder().layers:
        fully_shard(layer)
    fully_shard(whole)
    _WRAPPED[model] = whole


def through(model: PreTrainedModel, work: Callable[[PreTrainedModel], T]) -> T:
    """``work(model)``, with its weights gathered where they are sharded."""
    whole = _WRAPPED.get(model)
    return work(model) if whole is None else whole(work)


def full(weight: Tensor) -> Tensor:
    """A weight, gathered if it is sharded: every process must ask."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def copied(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with weights of its own, sharded as the model is: every process must ask."""
    if model not in _WRAPPED:
        return deepcopy(model)
    from transformers import AutoModelForCausalLM

    weights = state_of(model)
    copy: PreTrainedModel = AutoModelForCausalLM.from_config(model.config).to(dtype=model.dtype, device=model.device)
    copy.load_state_dict(weights)
    shard(copy)
    return copy


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights, gathered: every process must ask."""
    return {k: full(v) for k, v in module.state_dict().items()}


def load_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put them back, each process its part."""
    mine = module.state_dict()
    module.load_state_dict({k: _like(v, mine[k]) for k, v in state.items()})


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, gathered, as one process would have it: every process must ask."""
    state = optimizer.state_dict()
    return {**state, "state": {k: {n: full(v) if isinstance(v, Tensor) else v for n, v in row.items()} for k, row in state["state"].items()}}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put it back, each process its part."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    rows = {k: {n: _like(v, weights[k]) for n, v in row.items()} for k, row in state["state"].items()}
    optimizer.load_state_dict({**state, "state": rows})


def _like(value: Any, weight: Tensor) -> Any:
    """A tensor of a weight's shape, sharded as it is."""
    if isinstance(weight, DTensor) and isinstance(value, Tensor) and value.shape == weight.shape:
        return distribute_tensor(value, weight.device_mesh, weight.placements)
    return value
