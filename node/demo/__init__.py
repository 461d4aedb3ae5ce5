"""`talkoot demo`: a whole swarm on this machine, as separate processes over a real network."""
