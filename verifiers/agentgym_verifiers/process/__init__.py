"""Verifiers of the process: critics that judge an action before it is done."""

from agentgym_verifiers.process.before import Critiqued, critiqued
from agentgym_verifiers.process.critics import Asked, Careful

__all__ = ["Asked", "Careful", "Critiqued", "critiqued"]
