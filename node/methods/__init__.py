"""How a round turns local work into an update and an aggregate into the next state."""
