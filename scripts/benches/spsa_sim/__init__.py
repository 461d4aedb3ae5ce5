"""A simulation of method `spsa`: the node's own arithmetic on digits, without a network."""
