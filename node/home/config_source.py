"""The configuration in force in a running node: it follows edits by hand, and makes others' edits.

A mistake in an edit by hand leaves the last good configuration in force and is told as `trouble`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from node.home.config import Config, in_force, load_config
from node.home.config_edit import set_values
from node.home.config_view import describe
from node.home.strict_toml import ConfigError
from protocol.machine import ConfigView

SETTLED_SECONDS = 1.0

Observer = Callable[[Config], None]
Stamp = tuple[int, ...]

_log = logging.getLogger(__name__)


class ConfigSource:
    """The configuration in force.

    Args:
        path: the file; there need not be one.
        config: what it said when the node started.
        clock: seconds that never jump.
    """

    def __init__(
        self,
        path: Path,
        config: Config | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._started = self._config = self._wanted = Config() if config is None else config
        self._trouble = ""
        self._read: Stamp | None = None
        self._clock = clock
        self._seen: Stamp | None = None
        self._seen_since = 0.0
        self._observers: list[Observer] = []
        self._changing = asyncio.Lock()

    @property
    def config(self) -> Config:
        """The configuration in force: keys that count at a start keep the values of ours."""
        return self._config

    @property
    def trouble(self) -> str:
        """Why the file as it stands now is not in force; empty = it is."""
        return self._trouble

    @property
    def view(self) -> ConfigView:
        """All keys as the file has them, for programs."""
        items = describe(self._wanted)
        return ConfigView(path=str(self._path), items=items, trouble=self._trouble)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called with every new configuration; return what ends that."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def refresh(self) -> None:
        """Take over an edit by hand, once calls saw the same file for `SETTLED_SECONDS`.

        Editors write a file in several steps, between which it may be gone or half there.
        """
        stamp, now = _stamp(self._path), self._clock()
        if stamp != self._seen:
            self._seen, self._seen_since = stamp, now
        elif stamp != self._read and now - self._seen_since >= SETTLED_SECONDS:
            self._take(stamp)

    async def change(self, changes: Mapping[str, object]) -> Config:
        """Write all of `changes` or none into the file, have them in force, return the outcome.

        Edits by hand that were not seen yet come into force with it.

        Args:
            changes: values by dotted key; None takes a key out of the file.

        Raises:
            ConfigError: no such key, a value it can't have, or the file as it stands has a mistake.
            StateError: the file can't be written.
        """
        async with self._changing:
            config = await asyncio.to_thread(set_values, self._path, changes)
            self._hold(config)
        return config

    async def follow(self) -> None:
        """Take over edits by hand, for ever."""
        while True:
            self.refresh()
            await asyncio.sleep(SETTLED_SECONDS)

    def _take(self, stamp: Stamp) -> None:
        self._read = stamp
        try:
            config = load_config(self._path)
        except ConfigError as error:
            self._trouble = f"{error.message}. {error.hint}".strip()
            _log.warning("the edited configuration is not in force: %s", self._trouble)
        else:
            self._hold(config)

    def _hold(self, config: Config) -> None:
        self._trouble, self._wanted = "", config
        now = in_force(config, self._started)
        if now == self._config:
            return
        self._config = now
        for observer in tuple(self._observers):
            observer(now)


def _stamp(path: Path) -> Stamp:
    """Return what differs between two states of a file; the same for all that can't be seen."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_ino, found.st_mtime_ns, found.st_size)
