"""agentgym: a gym for long-horizon LLM agents. Importing it registers every installed environment with Gymnasium."""

from agentgym.core import AgentEnv, Capabilities, Scene, StopReason, Task, Verdict
from agentgym.registry import make, register_with_gymnasium, specs
from agentgym.vector import make_vec

__version__ = "0.1.0"
__all__ = ["AgentEnv", "Capabilities", "Scene", "StopReason", "Task", "Verdict", "make", "make_vec", "specs"]

register_with_gymnasium()
