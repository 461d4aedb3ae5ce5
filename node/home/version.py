"""The installed version of talkoot."""

from importlib.metadata import version

VERSION = version("talkoot")

EARLIEST_SECONDS = 1_767_225_600
"""2026-01-01: no clock was right before this version was written, and a machine whose clock has no
battery starts in 1970."""
