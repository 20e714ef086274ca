"""Verifiers and intrinsic reward sources of agentgym."""
