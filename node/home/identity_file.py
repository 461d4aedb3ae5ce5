"""The identity's file: made once, never replaced while it holds anything that could be a key.

An empty file, or one of zeros, is what a power cut leaves of a file that was never finished: it is
set aside and a new identity takes its place, with a warning. Any other damage is refused, since
reputation and hosted runs hang on the key, and a person may have a backup of it.
"""

import logging
import secrets
from pathlib import Path

from node.home.paths import create_file
from node.store.storage import move
from protocol.identity import Identity, IdentityFileError

_KEY_BYTES = 68
log = logging.getLogger(__name__)


def load_identity(path: Path) -> Identity:
    """Return the identity in the file `path`, made now if there is none.

    Raises:
        IdentityFileError: damaged, of another key type, or unreadable.
        StateError: a new one can't be written.
    """
    data = _read(path)
    if data is not None and not data.strip(b"\0"):
        _set_aside(path)
        data = None
    if data is None:
        fresh = Identity.from_seed(secrets.token_bytes(32))
        if create_file(path, fresh.to_libp2p()):
            log.info("made the identity %s", fresh.peer_id)
            return fresh
        data = _read(path) or b""  # another process made it meanwhile
    try:
        identity = Identity.from_libp2p(data)
    except IdentityFileError as error:
        raise IdentityFileError(
            f"{error.message}: {path}",
            hint="Put your backup in its place; or, for a new identity without your reputation "
            f"and your hosted runs, move it away: mv '{path}' '{path}.damaged'",
        ) from error
    _close_to_others(path)
    return identity


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityFileError(f"can't read the identity {path}: {error.strerror}") from error


def _set_aside(path: Path) -> None:
    damaged = path.with_name(f"{path.name}.damaged-{secrets.token_hex(3)}")
    move(path, damaged)
    log.warning(
        "the identity file was empty; it is now %s and this node starts with a new identity",
        damaged,
    )


def _close_to_others(path: Path) -> None:
    if not path.stat().st_mode & 0o077:
        return
    try:
        path.chmod(0o600)
    except OSError as error:
        raise IdentityFileError(
            f"others can read the identity {path}, and its rights can't be changed",
            hint=f"Copy it, as the user that runs the node, and: chmod 600 '{path}'",
        ) from error
    log.warning("the identity file could be read by others; now only by you: %s", path)
