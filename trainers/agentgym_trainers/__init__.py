"""Trainers of agentgym. This module is light: torch is imported when something is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgym_trainers.advantage import advantages as advantages
    from agentgym_trainers.objective import policy_loss as policy_loss


def __getattr__(name: str) -> Any:
    if name == "policy_loss":
        from agentgym_trainers.objective import policy_loss

        return policy_loss
    if name == "advantages":
        from agentgym_trainers.advantage import advantages

        return advantages
    raise AttributeError(name)


def hf_policy(argument: str, **settings: Any) -> Any:
    """``hf:PATH``: the transformers engine over a Hugging Face causal LM."""
    from agentgym_trainers.engine import load_engine

    return load_engine(argument, **settings)


def vllm_policy(argument: str, **settings: Any) -> Any:
    """``vllm:PATH``: the vLLM engine over a Hugging Face causal LM, with the Python that ``$AGENTGYM_VLLM_PYTHON`` names."""
    from agentgym_trainers.vllm import load_vllm

    return load_vllm(argument, **settings)


def ALGORITHMS() -> dict[str, dict[str, Any]]:  # noqa: N802  # an entry point read like a table
    """The algorithms of this package, by name."""
    from agentgym_trainers.algorithm import rows

    return rows()


def METHODS() -> dict[str, Any]:  # noqa: N802  # an entry point read like a table
    """The primitives of published methods that the trainers have, and the methods that are algorithms."""
    from agentgym_trainers.algorithm import methods

    return methods()
