"""The service on Linux: systemd's manager of the session, and the desktop's list of programs."""

import getpass
from collections.abc import Iterator
from pathlib import Path

from node.home.paths import write_file
from node.service.desktop import ENTRY, SCHEME_TYPE, login_entry, menu_entry, without_default
from node.service.program import Program, ServiceError
from node.service.session import Folders, Tool, is_ours, remove_ours, unlink, write_ours
from node.service.systemd import UNIT, unit_text
from node.store.storage import StateError

_LINGERING = Path("/var/lib/systemd/linger")


class LinuxService:
    """Installs, removes and describes; each step done is one line of text.

    Args:
        folders: the session's.
        systemctl: systemd's control of the session's manager.
    """

    def __init__(self, folders: Folders, systemctl: Tool | None = None) -> None:
        self._unit = folders.units / UNIT
        self._wanted = folders.units / "default.target.wants" / UNIT
        self._entry = folders.entries / ENTRY
        self._at_login = folders.at_login / ENTRY
        self._defaults = folders.defaults
        self._systemctl = systemctl or Tool("systemctl", "--user")
        self._xdg_mime = Tool("xdg-mime")
        self._update_entries = Tool("update-desktop-database")

    def install(
        self, program: Program, *, window_at_login: bool, other_node: int | None
    ) -> Iterator[str]:
        """Write unit and entries and have them noted.

        Args:
            program: what to start.
            window_at_login: whether the window opens when the session begins.
            other_node: the process of a node that runs already, whoever started it.

        Raises:
            ServiceError: a file can't be written, or a program of the session failed.
        """
        unit = unit_text(program.node, program.environment)
        change = write_ours(self._unit, unit.encode())
        yield f"{self._unit}: {change}"
        yield from self._start(other_node, is_new=change == "written")
        entry = menu_entry(program.window, program.environment)
        yield f"{self._entry}: {write_ours(self._entry, entry.encode())}"
        yield from self._note_entry()
        if window_at_login:
            at_login = login_entry(program.window[:-1], program.environment)
            yield f"{self._at_login}: {write_ours(self._at_login, at_login.encode())}"
        elif remove_ours(self._at_login):
            yield f"{self._at_login}: removed, so the window does not open at login any more"

    def remove(self) -> Iterator[str]:
        """End the service and take away what `install` wrote.

        Raises:
            ServiceError: a file can't be removed, or a program of the session failed.
        """
        if is_ours(self._unit):
            yield from self._end()
            if remove_ours(self._unit):
                yield f"{self._unit}: removed"
            self._systemctl.ask("daemon-reload")
        if remove_ours(self._entry):
            yield f"{self._entry}: removed"
            yield from self._forget_default()
            self._refresh_entries()
        if remove_ours(self._at_login):
            yield f"{self._at_login}: removed"

    def status(self) -> dict[str, str]:
        """Return how everything stands, in words."""
        written = is_ours(self._unit)
        return {
            "unit": str(self._unit) if written else "not installed",
            "starts at login": self._said("UnitFileState") if written else "no",
            "now": self._said("ActiveState") if written else "not installed",
            "runs on after logout": "yes" if self._lingers() else "no",
            "opens talkoot links": "yes" if is_ours(self._entry) else "no",
            "window at login": "yes" if is_ours(self._at_login) else "no",
        }

    def main_process(self) -> int | None:
        """Return the process that systemd started, if the service runs."""
        said = self._systemctl.ask("show", "--property=MainPID", "--value", UNIT) or ""
        return int(said) if said.isdecimal() and said != "0" else None

    def _has_manager(self) -> bool:
        return self._systemctl.ask("show-environment") is not None

    def _said(self, property_: str) -> str:
        said = self._systemctl.ask("show", f"--property={property_}", "--value", UNIT)
        return said or "unknown: systemctl --user does not answer here"

    def _lingers(self) -> bool:
        return (_LINGERING / getpass.getuser()).exists()

    def _start(self, other_node: int | None, *, is_new: bool) -> Iterator[str]:
        if not self._has_manager():
            yield (
                "systemctl --user does not answer here, so nothing was started. In a session that "
                f"has it, run: systemctl --user daemon-reload; systemctl --user enable --now {UNIT}"
            )
            return
        self._systemctl.do("daemon-reload")
        self._systemctl.do("enable", UNIT)
        own = self.main_process()
        if other_node is not None and other_node != own:
            yield (
                f"a node runs already (process {other_node}) that is not the service: it goes on. "
                f"Change over with: talkoot down; systemctl --user start {UNIT}"
            )
            return
        self._systemctl.do("restart" if is_new else "start", UNIT)
        yield "the service runs, and starts whenever you log in"
        if not self._lingers():
            yield f"to have it run on after logout: loginctl enable-linger {getpass.getuser()}"

    def _end(self) -> Iterator[str]:
        if not self._has_manager():
            unlink(self._wanted)
            return
        try:
            self._systemctl.do("disable", "--now", UNIT)
        except ServiceError as error:
            yield f"{error.message}; the rest is removed all the same"
        else:
            yield "the service has ended"

    def _note_entry(self) -> Iterator[str]:
        self._refresh_entries()
        if not self._xdg_mime.is_there:
            yield "xdg-mime is missing, so whether talkoot links open is the desktop's choice"
            return
        try:
            self._xdg_mime.do("default", ENTRY, SCHEME_TYPE)
        except ServiceError as error:
            yield f"links may not open in talkoot: {error.message}"
        else:
            yield "talkoot links open in the window"

    def _refresh_entries(self) -> None:
        if self._update_entries.is_there and self._entry.parent.is_dir():
            self._update_entries.ask(str(self._entry.parent))

    def _forget_default(self) -> Iterator[str]:
        """Take our entry, which isn't there any more, out of the file that xdg-mime wrote."""
        try:
            before = self._defaults.read_text("utf-8", errors="surrogateescape")
            after = without_default(before)
            if after != before:
                data = after.encode("utf-8", errors="surrogateescape")
                mode = self._defaults.stat().st_mode & 0o777
                write_file(self._defaults.resolve(), data, mode=mode)
        except FileNotFoundError:
            return
        except (OSError, StateError) as error:
            raise ServiceError(
                f"can't change {self._defaults}: {error}", hint="Check its rights."
            ) from error
        if after != before:
            yield f"{self._defaults}: talkoot links taken out"
