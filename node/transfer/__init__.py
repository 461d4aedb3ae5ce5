"""Fetching and serving Merkle trees: states, data sets, updates, evidence."""
