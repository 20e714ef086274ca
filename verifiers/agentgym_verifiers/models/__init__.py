"""Verifiers with weights: reward models, likelihoods, likeness. They need torch: ``pip install 'agentgym-verifiers[models]'``."""
