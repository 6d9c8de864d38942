"""Transport: named tensors from node to node, beside compute, counted, checked, and never pickled."""
