"""The command line: one small typed config per verb, one error per line, one JSON document on request."""

from agentgym.cli.main import main

__all__ = ["main"]
