"""Auxiliary heads: from the outputs of a block that is not the last to class scores, for a local loss."""
