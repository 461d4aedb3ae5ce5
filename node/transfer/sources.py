"""Peers to fetch from: asking one, going on with another, and saying why none is left.

TransferError               code, message, hint
├── FetchError              no source is left, and something is missing
├── BadTreeError            the tree is complete but not what its root was said to name
└── SourceError             why one source was given up
    ├── SourceBusyError     it had no free upload slot for a minute
    ├── SourceMissingError  it does not have the tree
    └── SourceStalledError  it did not answer in time
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from dht.swarm import NetworkError, Stream, StreamClosedError, Swarm
from protocol.codec import Message, encode
from protocol.errors import CodecError, ManifestError, ProtocolError, TalkootError
from protocol.identity import PeerId
from protocol.trees import TREE_FRAME_BYTES, Busy, Missing, read_reply, tree_protocol

log = logging.getLogger(__name__)

STALL_SECONDS = 10.0
"""For a connection, and for each frame."""
HEDGE_SECONDS = 2.0
"""When the first source has not given a small answer by then, a second one is asked too."""
BUSY_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
BREAK_WAITS = (0.5, 2.0)
"""Seconds before a busy source, or one whose stream broke, is tried again; then it is dropped."""

T = TypeVar("T")
MessageT = TypeVar("MessageT", bound=Message)


class TransferError(TalkootError):
    """A tree could not be fetched."""

    code = "transfer_error"


class FetchError(TransferError):
    """No source is left that could give what is missing."""

    code = "fetch_failed"


class BadTreeError(TransferError):
    """A tree that matches its root, but is not what the root was said to name."""

    code = "bad_tree"


class SourceError(TransferError):
    """A source that can't be used, now or at all."""

    code = "source_error"


class SourceBusyError(SourceError):
    """All upload slots of the source, or ours there, are in use."""

    code = "source_busy"


class SourceMissingError(SourceError):
    """The source doesn't have what was asked for."""

    code = "source_missing"


class SourceStalledError(SourceError):
    """The source did not answer in time."""

    code = "source_stalled"


GIVEN_UP = (NetworkError, ProtocolError, SourceError, ManifestError)
"""What ends the work with one source and not the whole fetch."""
_FAULTS = (ProtocolError, SourceStalledError, ManifestError)


def _ignore(peer: PeerId, error: TalkootError) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Sources:
    """Peers that may have the trees of a run, best first, and who is told of their faults."""

    swarm: Swarm
    run: bytes
    peers: Sequence[PeerId]
    on_fault: Callable[[PeerId, TalkootError], None] = _ignore
    """Called with a `ProtocolError`, `ManifestError` or `SourceStalledError`."""


class Patience:
    """How long to go on with a source that is busy, or whose stream breaks."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: the source made progress."""
        self._busy_waits = iter(BUSY_WAITS)
        self._break_waits = iter(BREAK_WAITS)

    def seconds_after(self, error: SourceBusyError | StreamClosedError) -> float:
        """Return how long to wait before the next try; raises `error` when there is none."""
        waits = self._busy_waits if isinstance(error, SourceBusyError) else self._break_waits
        for seconds in waits:
            return seconds
        raise error


async def ask_any(sources: Sources, ask: Callable[[Stream], Awaitable[T]], what: str) -> T:
    """Return the first good answer; who is slow gets company, and who fails is dropped.

    Raises:
        FetchError: no source gave one.
    """
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    reasons: dict[PeerId, TalkootError] = {}

    async def attempt(peer: PeerId) -> None:
        try:
            value = await persevere(sources, peer, lambda stream, _: ask(stream))
        except GIVEN_UP as error:
            reasons[peer] = error
            drop(sources, peer, error)
        else:
            if not answer.done():
                answer.set_result(value)

    attempts: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as group:
        for peer in dict.fromkeys(sources.peers):
            attempts.append(group.create_task(attempt(peer), name=f"ask {peer} for {what}"))
            await _first_of(answer, attempts[-1], seconds=HEDGE_SECONDS)
            if answer.done():
                break
        while not answer.done() and (running := [each for each in attempts if not each.done()]):
            await _first_of(answer, *running)
        for task in attempts:
            task.cancel()
    if not answer.done():
        raise nobody_left(what, reasons)
    return answer.result()


async def _first_of(*waiting: asyncio.Future[Any], seconds: float | None = None) -> None:
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


async def persevere(
    sources: Sources, peer: PeerId, use: Callable[[Stream, Patience], Awaitable[T]]
) -> T:
    """Give `use` a stream to `peer`, and another one after a break or when it was busy.

    Raises:
        NetworkError, ProtocolError, SourceError, ManifestError: `peer` is of no more use.
    """
    patience = Patience()
    while True:
        try:
            async with _stream_to(sources, peer) as stream:
                return await use(stream, patience)
        except (SourceBusyError, StreamClosedError) as error:
            seconds = patience.seconds_after(error)
        await asyncio.sleep(seconds)


@asynccontextmanager
async def _stream_to(sources: Sources, peer: PeerId) -> AsyncIterator[Stream]:
    opening = sources.swarm.open(peer, tree_protocol(sources.run), TREE_FRAME_BYTES)
    stream = await _in_time(opening)
    try:
        yield stream
    finally:
        await stream.close()


async def send(stream: Stream, request: Message) -> None:
    """Send `request` within `STALL_SECONDS`."""
    await _in_time(stream.send(encode(request)))


async def receive(stream: Stream, kind: type[MessageT]) -> MessageT:
    """Return the next reply, which must be of this kind and come within `STALL_SECONDS`."""
    reply = read_reply(await _in_time(stream.receive()))
    match reply:
        case Busy():
            raise SourceBusyError("it has no free upload slot")
        case Missing():
            raise SourceMissingError("it does not have it")
    if not isinstance(reply, kind):
        raise CodecError(f"{type(reply).__name__} where {kind.__name__} was due")
    return reply


async def _in_time(step: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await step
    except TimeoutError as error:
        raise SourceStalledError(f"it did not answer within {STALL_SECONDS:g} s") from error


def drop(sources: Sources, peer: PeerId, error: TalkootError) -> None:
    """Note that `peer` is given up, and report it if the fault is its own."""
    log.info("no longer fetching from %s: %s", peer, error)
    if isinstance(error, ProtocolError):
        sources.swarm.report(peer, error)
    if isinstance(error, _FAULTS):
        sources.on_fault(peer, error)


def nobody_left(what: str, reasons: Mapping[PeerId, TalkootError]) -> FetchError:
    """Return the error that tells what is missing, and why each source was given up."""
    told = [f"{peer}: {error}" for peer, error in reasons.items()]
    more = [f"and {len(told) - 5} more"] if len(told) > 5 else []
    hints = (error.hint for error in reasons.values() if error.hint)
    return FetchError(
        f"could not fetch {what}: " + ("; ".join(told[:5] + more) or "there is no peer to ask"),
        hint=next(hints, "Check the connection, and try again when more peers are online."),
    )
