"""Where the node keeps things: the home's folders, its lock, and the files clients find it by.

With TALKOOT_HOME=dir everything lies under one folder; else where the platform wants it.

    config/config.toml          data/identity.key  data/runs/<run id>/
    state/node.json  state/token  state/token-read  state/lock  state/node.log  state/node.out
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import platformdirs

from node.store.storage import move, sync, telling
from protocol.control import NodeFile
from protocol.errors import TalkootError

HOME_VARIABLE = "TALKOOT_HOME"
_APPLICATION = "talkoot"
_FREE = f"Set {HOME_VARIABLE} to a folder that you own."


class HomeError(TalkootError):
    """The home folder can't be used."""

    code = "home_unusable"


class HomeLockedError(TalkootError):
    """A node already runs in this home."""

    code = "already_running"


@dataclass(frozen=True, slots=True)
class Paths:
    """The home's folders and files. Nothing is made until `create`."""

    config: Path
    data: Path
    state: Path

    @classmethod
    def under(cls, home: Path) -> Self:
        """Return the paths of a home that is one folder."""
        home = home.absolute()
        return cls(home / "config", home / "data", home / "state")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the paths that TALKOOT_HOME, or else the platform, asks for."""
        if home := environment.get(HOME_VARIABLE):
            return cls.under(Path(home).expanduser())
        found = platformdirs.PlatformDirs(_APPLICATION, appauthor=False)
        return cls(found.user_config_path, found.user_data_path, found.user_state_path)

    @property
    def config_file(self) -> Path:
        """What a person edits."""
        return self.config / "config.toml"

    @property
    def identity(self) -> Path:
        """The private key, in the form that p2pd reads."""
        return self.data / "identity.key"

    @property
    def runs(self) -> Path:
        """One folder a run, named by its id in hex."""
        return self.data / "runs"

    @property
    def node_file(self) -> Path:
        """`protocol.control.NodeFile`: there while the API is served."""
        return self.state / "node.json"

    @property
    def token(self) -> Path:
        """The API's bearer token."""
        return self.state / "token"

    @property
    def read_token(self) -> Path:
        """The API's bearer token that permits to read alone."""
        return self.state / "token-read"

    @property
    def ports(self) -> Path:
        """The TCP ports that this node got where any free one would do."""
        return self.state / "ports.json"

    @property
    def volume(self) -> Path:
        """What was sent and received in each month."""
        return self.state / "volume.json"

    @property
    def order(self) -> Path:
        """The last order to contribute or not."""
        return self.state / "order.json"

    @property
    def lock(self) -> Path:
        """Held by the running node; holds its pid."""
        return self.state / "lock"

    @property
    def log(self) -> Path:
        """What the node does; older parts are node.log.1 and so on."""
        return self.state / "node.log"

    @property
    def output(self) -> Path:
        """What a node in the background writes to its terminal that isn't there."""
        return self.state / "node.out"

    def create(self) -> None:
        """Make the folders, for their owner alone.

        Raises:
            HomeError: one can't be made or written.
        """
        for folder in (self.config, self.data, self.state, self.runs):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                probe = folder / f".probe-{secrets.token_hex(4)}"
                probe.touch(mode=0o600)
                probe.unlink()
            except OSError as error:
                raise HomeError(
                    f"can't write in the folder {folder}: {error.strerror}", hint=_FREE
                ) from error


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` as `path`, whole or not at all, with `mode` from its first moment.

    Raises:
        StateError: the folder can't be written or is full; `path` is as it was.
    """
    with _temporary(path, data, mode) as temporary:
        move(temporary, path)


def create_file(path: Path, data: bytes) -> bool:
    """Write `data` as the new private file `path`; false, and nothing done, if it exists.

    Raises:
        StateError: the folder can't be written or is full.
    """
    with _temporary(path, data, 0o600) as temporary:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        move(temporary, path)  # the same file: this only makes the folder's entry durable
    return True


@contextlib.contextmanager
def home_lock(paths: Paths) -> Iterator[None]:
    """Hold the home for this process: one node a home, or two would share one identity.

    Raises:
        HomeLockedError: another process holds it; names its pid.
        HomeError: the lock file can't be opened.
    """
    try:
        handle = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HomeError(f"can't open {paths.lock}: {error.strerror}", hint=_FREE) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked(paths) from error
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def lock_holder(paths: Paths) -> int | None:
    """Return the pid that the lock file names, right or stale; None if it names none."""
    try:
        text = paths.lock.read_text("ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def new_token(path: Path) -> str:
    """Write a fresh API token as `path`, for its owner alone, and return it.

    A token lives as long as its node: what an earlier one leaked is worth nothing.

    Raises:
        StateError: the state folder can't be written.
    """
    token = secrets.token_urlsafe(32)
    write_file(path, token.encode())
    return token


@contextlib.contextmanager
def announced(paths: Paths, url: str) -> Iterator[None]:
    """Keep `node.json` while the API is served at `url`.

    Raises:
        StateError: the state folder can't be written.
    """
    found = NodeFile(
        url=url,
        pid=os.getpid(),
        token_path=str(paths.token),
        read_token_path=str(paths.read_token),
    )
    write_file(paths.node_file, msgspec.json.encode(found))
    try:
        yield
    finally:
        paths.node_file.unlink(missing_ok=True)
        paths.token.unlink(missing_ok=True)
        paths.read_token.unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with telling(path.parent, len(data)):
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                sync(file)
            yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _locked(paths: Paths) -> HomeLockedError:
    pid = lock_holder(paths)
    return HomeLockedError(
        f"a node already runs in this home{f' (process {pid})' if pid else ''}",
        hint=f"See it with: talkoot status. End it with: talkoot down. Or set {HOME_VARIABLE} "
        "to another folder for a second node.",
    )
