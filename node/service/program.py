"""What the session shall start: this installation's programs, in this home."""

import os
import sys
import sysconfig
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from node.home.paths import HOME_VARIABLE
from node.home.spawn import DAEMON_COMMAND
from protocol.errors import TalkootError

MARK = "Written by: talkoot service install. Taken away by: talkoot service remove."
STOP_SECONDS = 30
"""What a node gets to end in order before it is killed, with its trainer."""
_FOLDER_VARIABLES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


class ServiceError(TalkootError):
    """The service can't be installed, or taken away."""

    code = "service_failed"


@dataclass(frozen=True, slots=True)
class Program:
    """Commands as argument lists, and the variables that say where the home is."""

    node: tuple[str, ...]
    window: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def of_process(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the programs of the installation that this process belongs to.

        Raises:
            ServiceError: there is no `talkoot` beside Python, or a path that is no text.
        """
        talkoot = Path(sysconfig.get_path("scripts")) / "talkoot"
        if not talkoot.exists():
            raise ServiceError(
                f"there is no command {talkoot}",
                hint="Install talkoot into its own environment, as README says.",
            )
        variables = {name: environment[name] for name in _FOLDER_VARIABLES if environment.get(name)}
        if home := environment.get(HOME_VARIABLE):
            variables[HOME_VARIABLE] = str(Path(home).expanduser().absolute())
        made = cls((*DAEMON_COMMAND, "--background"), (str(talkoot), "gui", "--link"), variables)
        for text in (sys.executable, str(talkoot), *variables.values()):
            _check(text)
        return made


def _check(text: str) -> None:
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ServiceError(
            f"a service can't name {text!r}: it has a character that is no text",
            hint="Move talkoot's environment, or its home, to a folder with a plain name.",
        )
