"""Evaluation: runs, statistics, re-grading and replay."""
