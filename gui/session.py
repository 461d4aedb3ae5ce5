"""Keeping the store fed: attaches to the node, follows its events, and comes back when it does."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from gui.client import Api, GoneError, Place, RefusedError, open_api
from gui.store import Change, LostEventsError, Store
from protocol.codec import UNREADABLE

RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 2.0
log = logging.getLogger(__name__)


class Session:
    """The window's connection to whichever node is at `place` now."""

    def __init__(self, place: Place, store: Store) -> None:
        self._place = place
        self._store = store
        self.changed: Callable[[Change], None] = lambda _: None
        """Told what each event changed."""
        self._api: Api | None = None
        self._was_live = False
        """Whether the last attempt got as far as events."""

    @property
    def api(self) -> Api:
        """The node's API.

        Raises:
            GoneError: no node is there now.
        """
        if self._api is None or not self._store.live:
            raise GoneError("the node is gone", hint="Start it, or wait until it is back.")
        return self._api

    async def run(self) -> None:
        """Attach, follow, and attach again, for ever."""
        pause = RETRY_SECONDS
        while True:
            try:
                await self._follow()
                self._lose("the node has ended")
            except LostEventsError:
                log.info("events were lost; beginning anew")
            except (GoneError, RefusedError) as error:
                self._lose(error.message)
            except UNREADABLE as error:
                log.warning("an event can't be read: %s", error)
                self._lose("the node speaks another version of talkoot")
            pause = RETRY_SECONDS if self._was_live else min(2 * pause, LONGEST_RETRY_SECONDS)
            await asyncio.sleep(pause)

    def _lose(self, why: str) -> None:
        self.changed(self._store.lose(why))

    async def _follow(self) -> None:
        self._was_live = False
        async with open_api(self._place) as api:
            self._store.begin()
            self._api = api
            try:
                async with aclosing(api.events()) as events:
                    async for event in events:
                        self.changed(self._store.apply(event))
                        self._was_live = True
            finally:
                self._api = None
