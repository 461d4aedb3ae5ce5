"""What a session has: folders for units and entries, and programs that take note of them."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from node.home.paths import write_file
from node.service.program import MARK, ServiceError
from node.store.storage import StateError

RUN_SECONDS = 60.0

Change = Literal["written", "as it was"]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a user's session looks for units and entries."""

    units: Path
    entries: Path
    at_login: Path
    defaults: Path
    """Which program opens what: the one file of several that xdg-mime writes."""
    agents: Path

    @classmethod
    def of_user(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the folders that the environment or else the platform asks for."""
        config = _folder(environment, "XDG_CONFIG_HOME", ".config")
        data = _folder(environment, "XDG_DATA_HOME", ".local/share")
        return cls(
            units=config / "systemd" / "user",
            entries=data / "applications",
            at_login=config / "autostart",
            defaults=config / "mimeapps.list",
            agents=Path.home() / "Library" / "LaunchAgents",
        )


def _folder(environment: Mapping[str, str], variable: str, otherwise: str) -> Path:
    given = Path(environment.get(variable, ""))
    return given if given.is_absolute() else Path.home() / otherwise  # as the XDG standard has it


class Tool:
    """A program of the session that may be missing."""

    def __init__(self, *command: str) -> None:
        self._command = command

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        return shutil.which(self._command[0]) is not None

    def ask(self, *arguments: str) -> str | None:
        """Return what it says, or None where it fails or isn't there."""
        done = self._run(arguments)
        return done.stdout.strip() if done is not None and done.returncode == 0 else None

    def do(self, *arguments: str) -> None:
        """Run it.

        Raises:
            ServiceError: it isn't there, or failed; with what it said.
        """
        done = self._run(arguments)
        words = " ".join((*self._command, *arguments))
        if done is None:
            raise ServiceError(f"{words} can't be run", hint=f"Run it yourself: {words}")
        if done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise ServiceError(f"{words} failed: {said}", hint=f"Run it yourself: {words}")

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
        try:
            return subprocess.run(  # noqa: S603 - the session's own programs, and no shell
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=RUN_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None


def is_ours(path: Path) -> bool:
    """Whether `path` is a file that `talkoot service install` wrote."""
    try:
        return MARK in path.read_text("utf-8", errors="replace")
    except OSError:
        return False


def write_ours(path: Path, data: bytes) -> Change:
    """Write a file of ours, in place of an earlier one.

    Raises:
        ServiceError: somebody else's is there, or it can't be written.
    """
    if os.path.lexists(path) and not is_ours(path):
        raise ServiceError(
            f"{path} is there already, and is not talkoot's: it was left as it is",
            hint="Move it away first, or keep it and do without: talkoot up -d",
        )
    try:
        if path.exists() and path.read_bytes() == data:
            return "as it was"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data, mode=0o644)
    except (OSError, StateError) as error:
        raise _cannot(f"can't write {path}", error) from error
    return "written"


def remove_ours(path: Path) -> bool:
    """Remove a file of ours; return whether it was there. Another's of that name stays.

    Raises:
        ServiceError: it can't be removed.
    """
    if not is_ours(path):
        return False
    unlink(path)
    return True


def unlink(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        ServiceError: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(f"can't remove {path}", error) from error


def _cannot(what: str, error: OSError | StateError) -> ServiceError:
    why = error.message if isinstance(error, StateError) else error.strerror
    return ServiceError(
        f"{what}: {why}", hint="Check that its folder belongs to you and can be written."
    )
