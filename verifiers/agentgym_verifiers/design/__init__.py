"""Rewards written by a model, safely: described, criticised, tried in a sandbox, and chosen by what they lead to."""

from agentgym_verifiers.design.code import Field, Refused, Written, criticise, describe, dry_run, save
from agentgym_verifiers.design.search import Candidate, Found, by_choice, by_ranking, by_training, search, weights_in

__all__ = [
    "Candidate", "Field", "Found", "Refused", "Written", "by_choice", "by_ranking", "by_training", "criticise", "describe", "dry_run", "save", "search",
    "weights_in",
]  # fmt: skip
