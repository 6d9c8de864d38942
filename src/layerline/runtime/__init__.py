"""Executing a run: learners, training orders, checkpoints, evaluation."""
