"""Negatives: how wrong labels and wrong images are chosen."""
