"""The event stream: one look at the node each second, shared by all who listen.

    node ──look (1/s)──> what changed, encoded once ──> a bounded queue a listener ──> WebSocket

A listener is first sent all there is (a Snapshot), then what changes. Who reads too slowly loses
what waits for it, and is sent a new snapshot once it reads again: seq, which counts up by one a
message, then shows a gap. Who doesn't read at all is dropped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web
from msgspec.structs import replace

from node.api.chronicle import Chronicle
from node.api.controls import Controls
from node.api.refusals import RefusedError
from protocol.control import Contribution, Peer, Status
from protocol.machine import Activity, PeersChanged, Snapshot, StreamEvent

LOOK_SECONDS = 1.0
MOST_LISTENERS = 32
MOST_QUEUED = 64
MOST_QUEUED_BYTES = 4 << 20
SEND_SECONDS = 30.0
"""In which a listener must take one message."""
CLOSE_SECONDS = 0.3
HEARTBEAT_SECONDS = 20.0
MAX_HEARD_BYTES = 4096
"""Of one message that a listener sends; none means anything."""

Kind = Literal["snapshot", "status", "contribution", "peers", "activity"]
PeerKey = tuple[str, str]
"""Run and PeerID."""
log = logging.getLogger(__name__)


class Listener:
    """One connection, and what waits to be sent to it: never more than its bounds."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self._seq = 0
        self._queue: deque[tuple[int, Kind, bytes]] = deque()
        self._queued_bytes = 0
        self._lost = True
        """Whether it must be sent a snapshot before anything else."""
        self._ready = asyncio.Event()

    def offer(self, kind: Kind, data: bytes) -> None:
        """Let `data` (JSON) be sent; where there is no room, what waits is dropped with it."""
        if self._lost:
            return
        self._seq += 1
        self._queue.append((self._seq, kind, data))
        self._queued_bytes += len(data)
        if len(self._queue) > MOST_QUEUED or self._queued_bytes > MOST_QUEUED_BYTES:
            self._queue.clear()
            self._queued_bytes, self._lost = 0, True
        self._ready.set()

    async def next(self, snapshot: Callable[[], bytes]) -> bytes:
        """Wait for the next message to send and return it; `snapshot` gives one where needed."""
        while not self._queue and not self._lost:
            self._ready.clear()
            await self._ready.wait()
        if self._lost:
            data = snapshot()
            self._lost = False
            self._seq += 1
            return _message(self._seq, "snapshot", data)
        seq, kind, data = self._queue.popleft()
        self._queued_bytes -= len(data)
        return _message(seq, kind, data)


def _message(seq: int, kind: Kind, data: bytes) -> bytes:
    return msgspec.json.encode(StreamEvent(seq=seq, type=kind, data=msgspec.Raw(data)))


class EventStream:
    """Tells all who listen what changes at the node; `run` must run meanwhile."""

    def __init__(self, controls: Controls, chronicle: Chronicle) -> None:
        self._controls = controls
        self._chronicle = chronicle
        self._listeners: dict[Listener, web.Request] = {}
        self._closed = False
        self._looked_at: float | None = None
        self._status: Status | None = None
        self._peers: dict[PeerKey, Peer] | None = None
        """As last told; None while nobody listens."""
        self._snapshot: bytes | None = None

    async def run(self) -> None:
        """Look at the node each second, and hear at once when its contribution changes."""
        self._controls.activity.on_added = self._tell_activity
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_looking(), name="event looks")
            tasks.create_task(self._follow_contribution(), name="event contribution")

    async def listen(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one listener until it goes.

        Raises:
            RefusedError: no WebSocket, too many listeners, or the node ends.
        """
        socket = web.WebSocketResponse(
            timeout=CLOSE_SECONDS,
            heartbeat=HEARTBEAT_SECONDS,
            compress=False,
            max_msg_size=MAX_HEARD_BYTES,
            writer_limit=0,  # wait whenever the system's buffer is full
        )
        if self._closed:
            raise RefusedError(503, "node_ends", "the node ends", "Start it with: talkoot up -d")
        if len(self._listeners) >= MOST_LISTENERS:
            message = f"{MOST_LISTENERS} programs listen already"
            raise RefusedError(503, "too_many_listeners", message, "Close one, then try again.")
        if not socket.can_prepare(request).ok:
            raise RefusedError(
                400,
                "websocket_only",
                "this address speaks WebSocket only",
                "Open a WebSocket to it.",
            )
        listener = Listener(socket)
        self._listeners[listener] = request
        try:
            await socket.prepare(request)
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(listener), name="events")
                async for _ in socket:
                    pass  # nothing that a listener says means anything
                sending.cancel()
        finally:
            del self._listeners[listener]
        return socket

    async def close(self) -> None:
        """Say goodbye to all listeners and drop those that don't take it; no more are let in."""
        self._closed = True
        async with asyncio.TaskGroup() as tasks:
            for listener, request in self._listeners.items():
                tasks.create_task(_close(listener, request), name="end of events")

    async def _send(self, listener: Listener) -> None:
        try:
            while True:
                message = await listener.next(self._snapshot_now)
                async with asyncio.timeout(SEND_SECONDS):
                    await listener.socket.send_frame(message, WSMsgType.TEXT)
        except (TimeoutError, ConnectionError) as error:
            log.debug("a listener is dropped: %s", error)
        except Exception:
            log.exception("the events of the node can't be told")
        if request := self._listeners.get(listener):
            _abort(request)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self._look()
            except Exception:
                log.exception("the event stream could not look at the node")

    async def _follow_contribution(self) -> None:
        known = self._controls.contribution()
        self._chronicle.note_contribution(known)
        while True:
            known = await self._controls.contribution_after(known)
            self._tell("contribution", known)
            self._chronicle.note_contribution(known)

    def _look(self) -> None:
        """See what has changed, and tell it. While nobody listens, only the status is looked at."""
        self._looked_at = asyncio.get_running_loop().time()
        status, before = self._controls.status(), self._status
        self._status = status
        self._chronicle.note(status)
        if not self._listeners:
            self._peers = self._snapshot = None
            return
        if before is None or _without_time(before) != _without_time(status):
            self._tell("status", status)
        self._look_at_peers()

    def _look_at_peers(self) -> None:
        before, self._peers = self._peers, _by_key(self._controls.peers(None))
        if before is None:
            return
        changed = tuple(_differing(before, self._peers))
        gone = tuple(key for key in before if key not in self._peers)
        if changed or gone:
            self._tell("peers", PeersChanged(changed=changed, gone=gone))

    def _snapshot_now(self) -> bytes:
        """Return all there is, as of the last look."""
        now = asyncio.get_running_loop().time()
        if self._looked_at is None or now - self._looked_at > LOOK_SECONDS or self._peers is None:
            self._look()
        if self._snapshot is None:
            status, peers = self._status, self._peers
            if status is None or peers is None:
                raise RuntimeError("a look leaves a status")
            self._snapshot = _encoded_snapshot(
                status, self._controls.contribution(), peers.values(), self._newest()
            )
        return self._snapshot

    def _newest(self) -> Sequence[Activity]:
        return self._controls.activity.newest()

    def _tell_activity(self, activity: Activity) -> None:
        self._tell("activity", activity)

    def _tell(self, kind: Kind, value: Status | Contribution | PeersChanged | Activity) -> None:
        self._snapshot = None
        if not self._listeners:
            return
        data = msgspec.json.encode(value)
        for listener in self._listeners:
            listener.offer(kind, data)


def _without_time(status: Status) -> Status:
    return replace(status, uptime_seconds=0.0)


def _by_key(peers: Iterable[Peer]) -> dict[PeerKey, Peer]:
    return {(peer.run, peer.id): peer for peer in peers}


def _differing(before: dict[PeerKey, Peer], after: dict[PeerKey, Peer]) -> Iterable[Peer]:
    for key, peer in after.items():
        known = before.get(key)
        if known is not peer and known != peer:
            yield peer


def _encoded_snapshot(
    status: Status, contribution: Contribution, peers: Iterable[Peer], newest: Sequence[Activity]
) -> bytes:
    return msgspec.json.encode(
        Snapshot(
            status=status,
            contribution=contribution,
            peers=tuple(peers),
            activity=tuple(newest),
        )
    )


async def _close(listener: Listener, request: web.Request) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await listener.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the node ends")
    except (TimeoutError, RuntimeError, ConnectionError):
        log.debug("a listener did not take the goodbye")
    _abort(request)


def _abort(request: web.Request) -> None:
    """End a connection without waiting for what it has not taken."""
    if request.transport is not None:
        request.transport.abort()
