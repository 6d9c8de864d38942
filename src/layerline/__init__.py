"""Train deep networks layer by layer, across machines."""
