"""The agent by which macOS runs the node in a user's session. Untried: no Mac was at hand."""

import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from node.service.program import MARK, STOP_SECONDS

LABEL = "org.talkoot.node"
AGENT = f"{LABEL}.plist"


def agent_bytes(command: Sequence[str], environment: Mapping[str, str], output: Path) -> bytes:
    """Return the property list of an agent that runs `command` and writes to `output`."""
    agent = {
        "Label": LABEL,
        "Comment": MARK,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Background",
        "Nice": 10,
        "Umask": 0o077,
        "StandardOutPath": str(output),
        "StandardErrorPath": str(output),
    }
    return plistlib.dumps(agent)
