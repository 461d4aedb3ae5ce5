"""One exchange: every chunk of an update to its reducer, and the same aggregate back to all."""
