"""Blocks: the trainable stages of a network, how to build them and how to cut a network into them."""
