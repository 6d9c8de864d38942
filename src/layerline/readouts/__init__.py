"""Readouts: how trained blocks predict."""
