"""Verifiers of the process: critics that judge an action before it is done, a sneaky hand against them, what a critique was worth."""

from agentgym_verifiers.process.before import Critiqued, critiqued
from agentgym_verifiers.process.critics import Asked, Careful
from agentgym_verifiers.process.judged import Judged
from agentgym_verifiers.process.refine import Told, refinement, told
from agentgym_verifiers.process.sneak import Duel, duel

__all__ = ["Asked", "Careful", "Critiqued", "Duel", "Judged", "Told", "critiqued", "duel", "refinement", "told"]
