"""Objectives: the local loss of a block."""
