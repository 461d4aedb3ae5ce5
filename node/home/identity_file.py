"""The identity's file: made once, and of what damages it no more is lost than must be.

    cut short after the seed, or with something after its end    mended: the same identity
    a key in another form: PEM, RSA, secp256k1                   refused: a person put it there
    empty, zeros, anything else                                  a new identity takes its place

What is replaced is kept beside it, with a warning: reputation and hosted runs hang on the key, and
a person may have a backup of it. The node holds its identity for this machine (`identity_lock`): a
copied home would let two nodes speak as one peer, which breaks the ways to both.
"""

import contextlib
import logging
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from node.home.paths import create_file, write_file
from node.store.storage import move
from protocol.errors import TalkootError
from protocol.identity import Identity, IdentityFileError, PeerId

_KEY_BYTES = 68
_SEED_END = 36
"""Header and seed, from which the rest follows."""
_OTHER_KEYS = (b"-----BEGIN", b"\x08\x00\x12", b"\x08\x02\x12", b"\x08\x03\x12")
log = logging.getLogger(__name__)


class IdentityInUseError(TalkootError):
    """A node of this machine has this identity already, in another home."""

    code = "identity_in_use"


def load_identity(path: Path) -> Identity:
    """Return the identity in the file `path`, made now if there is none or it is lost.

    Raises:
        IdentityFileError: a key of another form, or unreadable.
        StateError: a new one can't be written.
    """
    data = _read(path)
    if data is not None and (identity := _identity_of(path, data)):
        if identity.to_libp2p() != data:
            _set_aside(path, "was cut short or had something after its end; the key is as before")
            write_file(path, identity.to_libp2p())
        _close_to_others(path)
        return identity
    if data is not None:
        _set_aside(path, "holds no key; reputation and hosted runs need a backup of the old one")
    fresh = Identity.from_seed(secrets.token_bytes(32))
    if create_file(path, fresh.to_libp2p()):
        log.info("made the identity %s", fresh.peer_id)
        return fresh
    return _identity_in(path, _read(path) or b"")  # another process made it meanwhile


@contextlib.contextmanager
def identity_lock(peer_id: PeerId) -> Iterator[None]:
    """Hold an identity for this process among all of this machine (Linux only).

    Elsewhere the network tells in the end (`node.run.channel`).

    Raises:
        IdentityInUseError: another process holds it.
    """
    if sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        try:
            held.bind(f"\0talkoot-{peer_id}")  # a name without a file, which ends with the process
        except OSError as error:
            raise IdentityInUseError(
                f"another node on this machine has this identity: {peer_id}",
                hint="Its home was copied, key and all. End that node; or for a second node take "
                "an empty home.",
            ) from error
        yield


def look_at_identity(path: Path) -> Identity:
    """Return the identity in the file `path` and change nothing, but make one if there is none.

    Raises:
        IdentityFileError: what is there holds no key, or one of another form, or is unreadable.
        StateError: a new one can't be written.
    """
    data = _read(path)
    if data is None:
        return load_identity(path)
    if identity := _identity_of(path, data):
        return identity
    return _identity_in(path, data)


def _identity_of(path: Path, data: bytes) -> Identity | None:
    """Return the identity in `data`, by its seed where no more is there; None = there is none."""
    try:
        return Identity.from_libp2p(data)
    except IdentityFileError:
        return _identity_in(path, data) if data.startswith(_OTHER_KEYS) else _mended(data)


def _mended(data: bytes) -> Identity | None:
    header = Identity.from_seed(bytes(32)).to_libp2p()[: _SEED_END - 32]
    seed = data[len(header) : _SEED_END]
    if not data.startswith(header) or len(seed) < 32:
        return None
    identity = Identity.from_seed(seed)
    known = data[:_KEY_BYTES]
    return identity if identity.to_libp2p().startswith(known) else None


def _identity_in(path: Path, data: bytes) -> Identity:
    try:
        return Identity.from_libp2p(data)
    except IdentityFileError as error:
        raise IdentityFileError(
            f"{error.message}: {path}",
            hint="Put your backup in its place; or, for a new identity without your reputation "
            f"and your hosted runs, move it away: mv '{path}' '{path}.damaged'",
        ) from error


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityFileError(
            f"can't read the identity {path}: {error.strerror}", hint="See: talkoot doctor"
        ) from error


def _set_aside(path: Path, what: str) -> None:
    damaged = path.with_name(f"{path.name}.damaged-{secrets.token_hex(3)}")
    move(path, damaged)
    log.warning("the identity file %s; it is kept as %s", what, damaged)


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
