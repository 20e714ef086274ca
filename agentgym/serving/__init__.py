"""Environments over the network: sessions over WebSocket and HTTP, and a client that is itself an ``AgentEnv``.

``agentgym serve tools/desk`` serves; ``agentgym.make("tools/desk@http://127.0.0.1:8765")`` plays, with the token in ``AGENTGYM_TOKEN``.
"""
