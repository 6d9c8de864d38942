"""Schedules: who trains what, when, from whose results. Pure functions to a plan; nothing here imports torch."""
