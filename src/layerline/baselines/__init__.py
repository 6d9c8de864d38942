"""Backprop as PyTorch computes it over processes, on the same run, data, network and report as streams."""
