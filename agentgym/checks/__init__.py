"""Conformance and the reward audit, for everyone's environments: ``agentgym check ENV`` and ``check(env_id)``."""

from __future__ import annotations

from agentgym.checks.attacks import Attack, AttackResult, load_attacks
from agentgym.checks.report import Report, check

ATTACKS = load_attacks
__all__ = ["ATTACKS", "Attack", "AttackResult", "Report", "check"]
