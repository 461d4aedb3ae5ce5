"""The desktop window: a client of the control API and of nothing else."""
