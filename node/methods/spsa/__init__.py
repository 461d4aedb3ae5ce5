"""Method `spsa`: peers send one byte per gradient and regenerate each other's noise."""
