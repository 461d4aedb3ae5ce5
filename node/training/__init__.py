"""A peer's own work: the training process and what the node says to it."""
