"""The persistent connection to p2pd, over which DHT requests come and go.

hivemind's `ControlClient` reads it in a task that dies, silently and for good, when an answer
arrives in the moment its caller gives up (`set_result` on a cancelled future). It also keeps a
reference to every request that the other side cancels, starts any number of requests at once, and
leaves callers waiting when p2pd is gone. All that is in the reading loop, which is replaced here.
"""

import asyncio
from collections import Counter
from uuid import UUID

from dht.addresses import peer_id_of_bytes
from dht.budget import Budget
from dht.daemon import ROUTING_RETRY_SECONDS, Channel, Daemon, ask, is_unrouted
from dht.engine import (
    P2P,
    ControlClient,
    DecodeError,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    p2pd_pb2,
    read_pbmsg_safe,
    write_pbmsg,
)
from dht.fence.refusals import Refusals, RefusedRequestError
from dht.latencies import Latencies
from dht.tasks import OwnedTasks
from protocol.errors import ProtocolError
from protocol.identity import PeerId

MAX_MESSAGE_BYTES = 4 << 20
"""p2pd's own limit, which a peer can't exceed."""
MAX_REQUESTS = 128
MAX_REQUESTS_PER_PEER = 16
"""At once: with requests of 4 MiB, one peer holds 64 MiB."""


class FencedControl(ControlClient):  # type: ignore[misc]  # hivemind is untyped
    """Calls other peers' procedures and answers their calls, through one connection to p2pd.

    Requests and answers count in `budget` and never wait for it; answers tell `latencies`.
    """

    def __init__(
        self,
        daemon: Daemon,
        refusals: Refusals,
        tasks: OwnedTasks,
        budget: Budget | None = None,
        latencies: Latencies | None = None,
    ) -> None:
        super().__init__(None, _initialized_with_create=True)
        self._daemon = daemon
        self._refusals = refusals
        self._tasks = tasks
        self._budget = budget or Budget()
        self._latencies = latencies or Latencies()
        self._in_flight: Counter[PeerId] = Counter()
        self._serving: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    async def open(self) -> None:
        """Connect to p2pd.

        Raises:
            NetworkError: p2pd is gone or refuses.
        """
        channel = await self._daemon.open_channel()
        try:
            await ask(channel, p2pd_pb2.Request(type=p2pd_pb2.Request.PERSISTENT_CONN_UPGRADE))
        except BaseException:
            channel[1].close()
            raise
        self._serving = self._tasks.spawn(self._serve(channel), "the connection to p2pd")

    def end(self) -> None:
        """End the connection: whoever waits for an answer is told at once."""
        if self._serving:
            self._serving.cancel()

    async def call_unary_handler(self, peer_id: PeerID, proto: str, data: bytes) -> bytes:
        """Return the answer of `peer_id` to a call of the procedure `proto`.

        Raises:
            P2PDaemonError: p2pd is gone or can't reach the peer.
            P2PHandlerError: the peer refused.
        """
        for pause in (*ROUTING_RETRY_SECONDS, None):
            if self.ended.is_set():
                break
            try:
                answer = await self._call(peer_id, proto, data)
            except P2PDaemonError as error:
                if pause is None or not is_unrouted(str(error)):
                    raise
                await asyncio.sleep(pause)
            else:
                return answer
        raise P2PDaemonError("p2pd has ended")

    async def _call(self, peer_id: PeerID, proto: str, data: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        self._budget.up.spend(len(data))
        answer: bytes = await super().call_unary_handler(peer_id, proto, data)
        self._budget.down.spend(len(answer))
        self._latencies.note(PeerId(peer_id.to_base58()), loop.time() - asked_at)
        return answer

    async def _serve(self, channel: Channel) -> None:
        reader, writer = channel
        writing = self._tasks.spawn(self._write(writer), "requests to p2pd")
        try:
            while True:
                message = p2pd_pb2.PersistentConnectionResponse()
                await read_pbmsg_safe(reader, message)
                self.take(message)
        except (EOFError, OSError):
            pass
        finally:
            writing.cancel()
            writer.close()
            self._end()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await write_pbmsg(writer, await self._pending_messages.get())
        except OSError:
            writer.close()

    def take(self, message: p2pd_pb2.PersistentConnectionResponse) -> None:
        """Do what one message from p2pd asks for. It may carry what strangers wrote."""
        call_id = UUID(bytes=message.callId)
        match message.WhichOneof("message"):
            case "requestHandling":
                self._accept(call_id, message.requestHandling)
            case "cancel":
                if call_id in self._handler_tasks:
                    self._handler_tasks[call_id].cancel()
            case _:
                call = self._pending_calls.get(call_id)
                if call and not call.done():
                    _settle(call, message)

    def _accept(self, call_id: UUID, request: p2pd_pb2.CallUnaryRequest) -> None:
        self._budget.down.spend(len(request.data))
        peer: PeerId | None = None
        try:
            peer = peer_id_of_bytes(request.peer)
            self._refusals.check_welcome(peer)
            in_flight = self._in_flight[peer], self._in_flight.total()
            if in_flight[0] >= MAX_REQUESTS_PER_PEER or in_flight[1] >= MAX_REQUESTS:
                raise RefusedRequestError("busy", "too many requests at once")
        except ProtocolError as error:
            self._refuse(call_id, error, peer)
            return
        self._in_flight[peer] += 1
        task = self._tasks.spawn(self._answer(call_id, request, peer), "a peer's request")
        self._handler_tasks[call_id] = task
        task.add_done_callback(lambda done: self._forget(call_id, peer, done))

    async def _answer(
        self, call_id: UUID, request: p2pd_pb2.CallUnaryRequest, peer: PeerId
    ) -> None:
        handler = self.unary_handlers.get(request.proto)
        try:
            if handler is None:
                raise RefusedRequestError("unknown_procedure", "no such procedure")
            answer = await handler(request.data, PeerID(request.peer))
            if len(answer) > MAX_MESSAGE_BYTES - 1024:
                raise RefusedRequestError("large_answer", f"an answer of {len(answer)} bytes")
        except ProtocolError as error:
            self._refuse(call_id, error, peer)
        except DecodeError as error:
            self._refuse(call_id, RefusedRequestError("malformed_request", str(error)), peer)
        else:
            self._budget.up.spend(len(answer))
            self._reply(call_id, p2pd_pb2.CallUnaryResponse(response=answer))

    def _refuse(self, call_id: UUID, error: ProtocolError, peer: PeerId | None) -> None:
        self._refusals.count(error, peer)
        self._reply(call_id, p2pd_pb2.CallUnaryResponse(error=error.code.encode()))

    def _reply(self, call_id: UUID, response: p2pd_pb2.CallUnaryResponse) -> None:
        reply = p2pd_pb2.PersistentConnectionRequest(callId=call_id.bytes, unaryResponse=response)
        self._pending_messages.put_nowait(reply)

    def _forget(self, call_id: UUID, peer: PeerId, task: asyncio.Task[None]) -> None:
        self._in_flight[peer] -= 1
        if not self._in_flight[peer]:
            del self._in_flight[peer]
        if self._handler_tasks.get(call_id) is task:  # a peer may use an id twice
            del self._handler_tasks[call_id]

    def _end(self) -> None:
        self.ended.set()
        for call in self._pending_calls.values():
            if not call.done():
                call.set_exception(P2PDaemonError("p2pd has ended"))


class FencedP2P(P2P):  # type: ignore[misc]  # hivemind is untyped
    """What `DHTProtocol` needs of a `P2P`: its procedures, over a `FencedControl`."""

    def __init__(self, control: FencedControl, peer_id: PeerID) -> None:
        super().__init__()
        self._client = control
        self.peer_id = peer_id

    def _terminate(self) -> None:
        """Nothing to end: `dht.daemon.Daemon` owns process and sockets."""


def _settle(
    call: asyncio.Future[bytes | None], message: p2pd_pb2.PersistentConnectionResponse
) -> None:
    if message.HasField("daemonError"):
        call.set_exception(P2PDaemonError(message.daemonError.message))
    elif not message.HasField("callUnaryResponse"):
        call.set_result(None)
    elif message.callUnaryResponse.HasField("response"):
        call.set_result(message.callUnaryResponse.response)
    else:
        error = message.callUnaryResponse.error[:300]
        call.set_exception(P2PHandlerError(error.decode(errors="replace")))
