"""What peers must agree on, bit for bit: messages, signatures, rounds. Pure: no clock, no I/O."""
