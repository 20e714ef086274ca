"""Judges: models that say what happened, in words that are read strictly and quotes that are checked."""

from agentgym_verifiers.judges.answer import Unanswered
from agentgym_verifiers.judges.ask import Asker, Cache, Question
from agentgym_verifiers.judges.forms import Criterion
from agentgym_verifiers.judges.judge import Judge, JudgeConfig, checklist, first_error, pairwise, ranking

__all__ = ["Asker", "Cache", "Criterion", "Judge", "JudgeConfig", "Question", "Unanswered", "checklist", "first_error", "pairwise", "ranking"]
