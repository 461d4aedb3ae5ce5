"""The installed version of talkoot."""

from importlib.metadata import version

VERSION = version("talkoot")
