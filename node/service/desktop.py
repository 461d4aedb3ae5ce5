"""Desktop entries: the window in menus, as what opens talkoot links, and at login where wanted."""

from collections.abc import Mapping, Sequence

from node.service.program import MARK

ENTRY = "talkoot.desktop"
SCHEME_TYPE = "x-scheme-handler/talkoot"
_ENTRY = """\
# {mark}
[Desktop Entry]
Type=Application
Version=1.0
Name=Talkoot
GenericName=Volunteer Training
Comment=Train models together with others
Exec={command}
Icon=network-workgroup
Terminal=false
Categories=Science;ArtificialIntelligence;
Keywords=training;swarm;volunteer;
StartupNotify=true
{more}"""
_OPENS_LINKS = f"MimeType={SCHEME_TYPE};\n"
_AFTER_THE_NODE = "X-GNOME-Autostart-Delay=5\n"  # the service's, or the window starts one itself


def menu_entry(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the entry that runs `command` with the link that was opened behind it."""
    return _entry(f"{_command(command, environment)} %u", _OPENS_LINKS)


def login_entry(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the entry that runs `command` when the session begins."""
    return _entry(_command(command, environment), _AFTER_THE_NODE)


def without_default(mimeapps: str) -> str:
    """Return the text of a mimeapps.list that doesn't name our entry for talkoot links any more."""
    lines = mimeapps.splitlines(keepends=True)
    return "".join(filter(None, map(_without_ours, lines)))


def _without_ours(line: str) -> str:
    key, equals, value = line.partition("=")
    entries = value.strip().split(";")
    if key.strip() != SCHEME_TYPE or not equals or ENTRY not in entries:
        return line
    left = [entry for entry in entries if entry not in {ENTRY, ""}]
    return f"{key}={';'.join(left)};\n" if left else ""


def _entry(command: str, more: str) -> str:
    return _ENTRY.format(mark=MARK, command=command, more=more)


def _command(command: Sequence[str], environment: Mapping[str, str]) -> str:
    variables = [f"{name}={value}" for name, value in environment.items()]
    return " ".join(map(_quoted, [*(["env", *variables] if variables else []), *command]))


def _quoted(word: str) -> str:
    """Return `word` as the Desktop Entry Specification quotes it, twice: argument, then string."""
    escaped = "".join(f"\\{each}" if each in '"`$\\' else each for each in word)
    return '"' + escaped.replace("\\", "\\\\").replace("%", "%%") + '"'
