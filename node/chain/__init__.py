"""A round of method `spsa` at one peer: tickets, blocks, probes, spot checks and the seal."""
