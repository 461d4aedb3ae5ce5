"""Method `spsa`: shared-seed simultaneous perturbation, at one byte per gradient, exactly."""
