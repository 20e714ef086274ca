import pytest

from agentgym.core import AgentEnv
from agentgym.registry import make


@pytest.fixture
def desk() -> AgentEnv:
    env = make("tools/desk", reward="stepwise")
    yield env
    env.close()
