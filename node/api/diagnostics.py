"""Save diagnostics: one zip for whoever helps, of text files without secrets (`Redactor`)."""

import io
import json
import platform
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from node.api.exports import target_of
from node.api.redaction import Redactor, forms_of_key
from node.doctor.home import home
from node.doctor.installation import installation
from node.doctor.network import clock, running
from node.home.logs import last_lines
from node.home.paths import Paths
from node.home.version import VERSION
from node.store.storage import Disk
from protocol.control import Status
from protocol.machine import Activity, ConfigView, Device, Written

LOG_LINES = 5000
MAX_FILE_CHARACTERS = 2 << 20

Part = Callable[[], str]

_ABOUT = """\
Diagnostics of a talkoot node: what it runs on, how it is set, what it does and what it logged.
Not in here: tokens, the private key, secrets in links, network addresses (each has a number
instead), the names of the machine and of the home folder. PeerIDs and the names that peers
gave themselves are: every peer of a run is told them anyway. Read it before you pass it on.
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the node tells of itself."""

    status: Status
    config: ConfigView
    devices: Sequence[Device]
    activity: Sequence[Activity]


def write_diagnostics(
    seen: Seen, paths: Paths, disk: Disk, path: str, *, replace: bool = False
) -> Written:
    """Write a zip to the absolute `path`; use a thread.

    Raises:
        BadPathError: it can't be written there.
        DiskFullError, WriteError: there is no room, or the folder can't be written.
    """
    target = target_of(path, replace=replace)
    redactor = _redactor(paths)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, part in _parts(seen, paths).items():
            text = redactor.clean(_text_of(part))
            file.writestr(name, text.encode(errors="backslashreplace"))
    disk.write(target, [buffer.getvalue()])
    return Written(path=path, size_bytes=target.stat().st_size)


def _parts(seen: Seen, paths: Paths) -> Mapping[str, Part]:
    return {
        "README.txt": lambda: _ABOUT,
        "versions.txt": _versions,
        "status.json": lambda: _json(seen.status),
        "activity.json": lambda: _json(seen.activity),
        "devices.json": lambda: _json(seen.devices),
        "config.json": lambda: _json(seen.config),
        "config.toml": lambda: _content(paths.config_file),
        "doctor.txt": lambda: _doctor(seen.status, paths),
        "node.log": lambda: "\n".join(last_lines(paths.log, LOG_LINES)),
        "node.out": lambda: "\n".join(last_lines(paths.output, LOG_LINES)),
    }


def _text_of(part: Part) -> str:
    """Return what a part says; where it fails, why: the others help all the same."""
    try:
        return part()[-MAX_FILE_CHARACTERS:]
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what is to be told
        return f"not available: {type(error).__name__}: {error}"


def _json(value: object) -> str:
    # as it is: an escape within a name would hide it from the redactor
    return json.dumps(msgspec.to_builtins(value), indent=1, ensure_ascii=False)


def _content(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def _versions() -> str:
    installed = sorted({f"{each.name} {each.version}" for each in distributions()}, key=str.lower)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    python = f"Python {platform.python_version()} ({sys.implementation.name})"
    return "\n".join([f"talkoot {VERSION}", when, system, python, "", *installed])


def _doctor(status: Status, paths: Paths) -> str:
    found, _ = home(paths)
    findings = [*installation(), *found, clock(time.time(), status), *running(status)]
    return "\n".join(_lines(findings))


def _lines(findings: Iterable[msgspec.Struct]) -> Iterable[str]:
    for finding in findings:
        yield "  ".join(str(value) for value in msgspec.structs.astuple(finding) if value)


def _redactor(paths: Paths) -> Redactor:
    tokens = [_content(file).strip() for file in (paths.token, paths.read_token)]
    key = paths.identity.read_bytes() if paths.identity.exists() else b""
    folders = {Path.home(), *(folder.parent for folder in (paths.config, paths.data, paths.state))}
    machine = (socket.gethostname(), socket.gethostname().split(".")[0])
    return Redactor([*tokens, *forms_of_key(key)], folders, machine)
