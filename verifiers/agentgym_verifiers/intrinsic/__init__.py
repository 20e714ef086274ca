"""Intrinsic sources: verdicts on each turn from what the run has seen so far. Online, bounded, saved and resumed with the run."""
