"""What a peer of the in-process network serves, and the tasks that do it."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Self

from dht.swarm import Handler, NetworkError, Stream
from protocol.errors import ProtocolError, TalkootError
from protocol.identity import PeerId

logger = logging.getLogger(__name__)


class Services:
    """Protocols with their handlers; each stream is served by a task.

    A handler's error ends its stream, nothing else; `report` is told what it refused from whom.
    Leaving the context waits for the tasks.
    """

    def __init__(self, peer: PeerId, report: Callable[[PeerId, ProtocolError], None]) -> None:
        self._peer = peer
        self._report = report
        self._handlers: dict[str, tuple[int, Handler, contextvars.Context]] = {}
        self._group = asyncio.TaskGroup()
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._group.__aexit__(None, None, None)  # the caller's error stays the caller's

    def add(self, protocol: str, frame_bytes: int, handler: Handler) -> None:
        """Serve `protocol` from now on. Raises NetworkError: it is already served."""
        if protocol in self._handlers:
            raise NetworkError(f"{protocol} is already served")
        self._handlers[protocol] = (frame_bytes, handler, contextvars.copy_context())

    def remove(self, protocol: str) -> None:
        """Serve no further streams of `protocol`."""
        self._handlers.pop(protocol, None)

    def frame_bytes(self, protocol: str) -> int | None:
        """Return the limit of frames of `protocol`; None if it isn't served."""
        return self._handlers[protocol][0] if protocol in self._handlers else None

    def start(self, protocol: str, stream: Stream) -> None:
        """Serve `stream` in the context of whoever serves, not of whoever opened it."""
        _, handler, context = self._handlers[protocol]
        task = self._group.create_task(
            self._run(handler, stream),
            name=f"{protocol} at {self._peer}",
            context=context.copy(),
        )
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def cancel(self) -> None:
        """Cancel the tasks there are."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, handler: Handler, stream: Stream) -> None:
        try:
            await handler(stream)
        except ProtocolError as error:
            self._report(stream.peer, error)
        except TalkootError as error:
            logger.info("a stream of %s ended: %s", stream.peer, error)
        except Exception:
            logger.exception("a handler of %s failed", self._peer)
        finally:
            await stream.close()
