"""The control API: its server, its client, and what is told in words."""
