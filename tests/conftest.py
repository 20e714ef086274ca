import pytest
from hypothesis import settings

from agentgym.core import AgentEnv
from agentgym.registry import make


@pytest.fixture
def desk() -> AgentEnv:
    env = make("tools/desk", reward="stepwise")
    yield env
    env.close()


settings.register_profile("plain", deadline=None)
settings.load_profile("plain")
