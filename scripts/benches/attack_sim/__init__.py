"""A light simulation of a swarm with liars: real rules and real trust, without a network."""
