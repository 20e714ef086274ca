"""Verifiers of the process: critics that judge an action before it is done."""

from agentgym_verifiers.process.before import Critiqued, critiqued
from agentgym_verifiers.process.critics import Asked, Careful
from agentgym_verifiers.process.judged import Judged

__all__ = ["Asked", "Careful", "Critiqued", "Judged", "critiqued"]
