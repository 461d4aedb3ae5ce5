"""The service on macOS, by a LaunchAgent. Untried: no Mac was at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

from node.service.launchd import AGENT, LABEL, agent_bytes
from node.service.program import Program
from node.service.session import Folders, Tool, is_ours, remove_ours, write_ours

_UNTRIED = "this was never tried on a Mac: please tell how it went"


class MacService:
    """Installs, removes and describes; each step done is one line of text.

    Args:
        folders: the session's.
        output: where the node writes what it says.
        launchctl: the session's manager.
    """

    def __init__(self, folders: Folders, output: Path, launchctl: Tool | None = None) -> None:
        self._agent = folders.agents / AGENT
        self._output = output
        self._launchctl = launchctl or Tool("launchctl")
        self._domain = f"gui/{os.getuid()}"

    def install(
        self, program: Program, *, window_at_login: bool, other_node: int | None
    ) -> Iterator[str]:
        """Write the agent and start it.

        Raises:
            ServiceError: the file can't be written, or launchctl failed.
        """
        agent = agent_bytes(program.node, program.environment, self._output)
        change = write_ours(self._agent, agent)
        yield f"{self._agent}: {change}"
        if window_at_login:
            yield "the window can't be opened at login here; add it in the system's settings"
        if other_node is not None and self._launchctl.ask("print", self._place) is None:
            yield f"a node runs already (process {other_node}): it goes on until talkoot down"
        elif change == "written":
            self._launchctl.ask("bootout", self._place)
            self._launchctl.do("bootstrap", self._domain, str(self._agent))
            yield "the service runs, and starts whenever you log in"
        yield "talkoot links do not open by themselves here yet: talkoot gui --link LINK"
        yield _UNTRIED

    def remove(self) -> Iterator[str]:
        """End the service and take the agent away.

        Raises:
            ServiceError: the file can't be removed.
        """
        if is_ours(self._agent):
            self._launchctl.ask("bootout", self._place)
            remove_ours(self._agent)
            yield f"{self._agent}: removed"

    def status(self) -> dict[str, str]:
        """Return how everything stands, in words."""
        runs = self._launchctl.ask("print", self._place) is not None
        return {
            "agent": str(self._agent) if is_ours(self._agent) else "not installed",
            "now": "loaded" if runs else "not loaded",
            "note": _UNTRIED,
        }

    @property
    def _place(self) -> str:
        return f"{self._domain}/{LABEL}"
