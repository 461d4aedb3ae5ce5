"""Real nodes under test: started together, looked at all the time, ended together."""
