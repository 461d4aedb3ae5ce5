"""What is kept on disk: agreed states, a run's folder, its history, and inputs to be audited."""
