"""The daemon and its command line: every effect on this machine happens here."""
