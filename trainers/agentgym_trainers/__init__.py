"""Trainers of agentgym."""
