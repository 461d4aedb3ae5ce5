"""The command line: a client of the control API, like the window.

Exit codes: 0 ok, 1 failed, 2 usage, 3 no node runs, 4 not permitted, 130 ended by Ctrl-C.
"""

from node.cli.entry import main

__all__ = ["main"]
