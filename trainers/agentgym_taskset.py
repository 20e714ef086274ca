"""The name under which Prime's ``verifiers`` finds our environments as a task set: ``--env.taskset.id agentgym_taskset``. It takes top-level modules only."""

from agentgym_trainers.adapters.verifiers import AgentGymEnv, AgentGymTaskset

__all__ = ["AgentGymEnv", "AgentGymTaskset"]
