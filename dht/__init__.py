"""The network: the only package that imports hivemind, and the fence around it."""
