"""Taking part in one run, from its manifest to its rounds."""
