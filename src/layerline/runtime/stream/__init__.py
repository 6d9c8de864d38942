"""Streams: minibatches travel through the blocks, and each learns from a loss that is near (DGL, interlocking)."""
