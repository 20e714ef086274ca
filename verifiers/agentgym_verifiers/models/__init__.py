"""Verifiers with weights: reward models, likelihoods, likeness. They need torch: ``pip install 'agentgym-verifiers[models]'``."""

from importlib.util import find_spec

from agentgym.errors import MissingExtra

if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
    raise MissingExtra(", ".join(missing), "pip install 'agentgym-verifiers[models]'")
