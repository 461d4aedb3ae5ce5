"""The control API's client: what the command line and the demo know of a running node."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
import psutil
from yarl import URL

from node.api.hosting_calls import ANSWER_SECONDS, HostingCalls, segment
from node.home.paths import Paths
from protocol.accounts import MOST_ROUNDS, EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.codec import UNREADABLE
from protocol.control import (
    API_PREFIX,
    Contribution,
    ContributionRequest,
    Exported,
    ExportRequest,
    Failure,
    Health,
    HostSpec,
    LinkRequest,
    Mode,
    NodeFile,
    Peer,
    Preview,
    RunStatus,
    Status,
)
from protocol.errors import TalkootError
from protocol.machine import (
    Checkpoint,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    JsonValue,
    Metric,
    Series,
    StreamEvent,
    Written,
)
from protocol.references import find_run

SEARCH_SECONDS = 120.0
"""For calls that look for peers: preview and join."""
WORK_SECONDS = 600.0
"""For calls that read or write a whole model or data set: host and export."""
HEARTBEAT_SECONDS = 20.0
MAX_EVENT_BYTES = 64 << 20
"""A snapshot of 5,000 peers has 2 MB."""

_EVENTS = f"{API_PREFIX}/events"
_START_IT = "Start it with: talkoot up -d"
ReplyT = TypeVar("ReplyT")


class NodeNotRunningError(TalkootError):
    """No node answers in this home."""

    code = "node_not_running"


class NodeTimeoutError(TalkootError):
    """A node is there but did not answer in time."""

    code = "node_timeout"


class ApiError(TalkootError):
    """The node refused; code, message and hint are its own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, hint=failure.hint)
        self.code = failure.code


class NodeClient(HostingCalls):
    """Calls to one node. All raise ApiError, NodeTimeoutError or NodeNotRunningError.

    Where a run is named, NoSuchRunError and AmbiguousRunError too; None = the node's only run, or
    the only one that it hosts where only a host may do it.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = URL(url)

    async def health(self) -> Health:
        """Return who answers at the node's address."""
        return await self._call("GET", "/healthz", Health)

    async def status(self) -> Status:
        """Return the node as a whole."""
        return await self._call("GET", f"{API_PREFIX}/status", Status)

    async def runs(self) -> list[RunStatus]:
        """Return the node's runs."""
        return await self._call("GET", f"{API_PREFIX}/runs", list[RunStatus])

    async def events(self) -> AsyncGenerator[StreamEvent]:
        """Yield what happens at the node, a snapshot first; to connect again is the caller's.

        Where it is not read to its end, `contextlib.aclosing` ends the connection.

        Raises:
            NodeNotRunningError: the node has ended, or dropped the connection.
        """
        url, socket = self._url.join(URL(_EVENTS)), None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                socket = await self._session.ws_connect(
                    url, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_EVENT_BYTES
                )
            async for message in socket:
                yield _event(message)
        except TimeoutError as error:
            raise _timeout(ANSWER_SECONDS) from error
        except aiohttp.WSServerHandshakeError as error:
            await self._call("GET", _EVENTS, Health)  # it says why in words, which that lacks
            raise _bad_answer(error.status) from error
        except aiohttp.ClientError as error:
            raise NodeNotRunningError(f"the node is gone: {error}", hint=_START_IT) from error
        finally:
            if socket is not None:
                await socket.close()
        raise NodeNotRunningError("the node has ended the connection", hint=_START_IT)

    async def contribute(self, mode: Mode, for_s: float | None = None) -> Contribution:
        """Contribute or don't: until told otherwise, or for some seconds."""
        body = ContributionRequest(mode=mode, for_s=for_s)
        return await self._call("PUT", f"{API_PREFIX}/contribution", Contribution, body=body)

    async def peers(
        self, run: str | None = None, *, sort: str = "", q: str = "", limit: int | None = None
    ) -> list[Peer]:
        """Return the peers of a run (by id, start of id, or name), or of all runs.

        Args:
            run: None = all.
            sort: a field of `Peer`; with "-" before it the largest comes first.
            q: a part of name, PeerID, state, standing or device.
            limit: at most so many.
        """
        query = {"sort": sort, "q": q, "limit": "" if limit is None else str(limit)}
        if run is not None:
            query["run"] = find_run(await self.runs(), run).run
        chosen = urlencode({name: value for name, value in query.items() if value})
        return await self._call("GET", f"{API_PREFIX}/peers?{chosen}", list[Peer])

    async def series(
        self, metric: Metric, run: str | None = None, since: float = 0.0, points: int = 200
    ) -> Series:
        """Return a figure over time, of a run (by id, start of id, or name) or of all together."""
        query = {"since": repr(since), "points": str(points)}
        if run is not None:
            query["run"] = find_run(await self.runs(), run).run
        where = f"{API_PREFIX}/history/{metric}?{urlencode(query)}"
        return await self._call("GET", where, Series)

    async def history(
        self,
        run: str | None = None,
        peer: str | None = None,
        since: int = 0,
        limit: int = MOST_ROUNDS,
    ) -> History:
        """Return a run's newest rounds, with the credit of a peer, or of this node."""
        query = {"since": str(since), "limit": str(limit)} | (
            {} if peer is None else {"peer": peer}
        )
        where = f"{await self._place(run)}/history?{urlencode(query)}"
        return await self._call("GET", where, History)

    async def peer(self, run: str | None, peer: str) -> PeerDetail:
        """Return why a peer (by id, a part of it, or name) stands as it does."""
        where = f"{await self._place(run)}/peers/{segment(peer)}"
        return await self._call("GET", where, PeerDetail)

    async def evidence(self, run: str | None = None) -> list[EvidenceItem]:
        """Return the evidence that the node keeps."""
        return await self._call("GET", f"{await self._place(run)}/evidence", list[EvidenceItem])

    async def evidence_detail(self, run: str | None, root: str) -> EvidenceDetail:
        """Return what one piece of evidence says, by its root or the start of it."""
        where = f"{await self._place(run)}/evidence/{segment(root)}"
        return await self._call("GET", where, EvidenceDetail)

    async def preview(self, link: str) -> Preview:
        """Return what is behind a join link."""
        body = LinkRequest(link=link)
        return await self._call(
            "POST", f"{API_PREFIX}/runs/preview", Preview, body=body, seconds=SEARCH_SECONDS
        )

    async def join(self, link: str) -> RunStatus:
        """Join the run behind a link."""
        body = LinkRequest(link=link)
        return await self._call(
            "POST", f"{API_PREFIX}/runs/join", RunStatus, body=body, seconds=SEARCH_SECONDS
        )

    async def host(self, spec: HostSpec) -> RunStatus:
        """Start a run; its status carries the join link."""
        return await self._call(
            "POST", f"{API_PREFIX}/runs", RunStatus, body=spec, seconds=WORK_SECONDS
        )

    async def leave(self, run: str | None = None) -> RunStatus:
        """Leave a run (by id, start of id, or name); returns how it stood."""
        return await self._call("DELETE", await self._place(run), RunStatus, seconds=SEARCH_SECONDS)

    async def export(self, run: str | None, path: str, *, replace: bool = False) -> Exported:
        """Have the node write a run's model to the absolute `path`."""
        where = f"{await self._place(run)}/export"
        body = ExportRequest(path=path, replace=replace)
        return await self._call("POST", where, Exported, body=body, seconds=WORK_SECONDS)

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the agreed states on the node's disk, newest first."""
        return await self._call("GET", f"{API_PREFIX}/checkpoints", list[Checkpoint])

    async def export_checkpoint(
        self, checkpoint: str, path: str, *, replace: bool = False
    ) -> Exported:
        """Have the node write the model of a checkpoint, by its id, to the absolute `path`."""
        where = f"{API_PREFIX}/checkpoints/{segment(checkpoint)}/export"
        body = ExportRequest(path=path, replace=replace)
        return await self._call("POST", where, Exported, body=body, seconds=WORK_SECONDS)

    async def config(self) -> ConfigView:
        """Return the node's configuration."""
        return await self._call("GET", f"{API_PREFIX}/config", ConfigView)

    async def set_config(self, changes: Mapping[str, JsonValue]) -> ConfigView:
        """Set keys of the node's configuration, all or none; None takes one out of the file."""
        body = ConfigPatch(set=dict(changes))
        return await self._call("PATCH", f"{API_PREFIX}/config", ConfigView, body=body)

    async def devices(self) -> list[Device]:
        """Return what the node could train on."""
        return await self._call("GET", f"{API_PREFIX}/devices", list[Device])

    async def diagnostics(self, path: str, *, replace: bool = False) -> Written:
        """Have the node write what helps to find a fault, without secrets, as zip."""
        body = DiagnosticsRequest(path=path, replace=replace)
        where = f"{API_PREFIX}/diagnostics"
        return await self._call("POST", where, Written, body=body, seconds=SEARCH_SECONDS)

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the node's log."""
        return await self._call("GET", f"{API_PREFIX}/logs?lines={lines}", list[str])

    async def shutdown(self) -> None:
        """Begin the node's ordered end."""
        await self._call("POST", f"{API_PREFIX}/shutdown", dict[str, str])

    async def _call(
        self,
        method: str,
        where: str,
        kind: type[ReplyT],
        *,
        body: msgspec.Struct | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> ReplyT:
        data = None if body is None else msgspec.json.encode(body)
        url = self._url.join(URL(where, encoded=True))
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(method, url, data=data, headers=headers) as response,
            ):
                return _reply(response.status, await response.read(), kind)
        except TimeoutError as error:
            raise _timeout(seconds) from error
        except aiohttp.ClientError as error:
            raise NodeNotRunningError(f"the node is gone: {error}", hint=_START_IT) from error


@asynccontextmanager
async def connect(paths: Paths) -> AsyncIterator[NodeClient]:
    """Give a client of this home's running node.

    Raises:
        NodeNotRunningError: none runs, or it can't be found.
    """
    found = find_node(paths)
    try:
        token = paths.token.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise NodeNotRunningError(f"can't read {paths.token}: {error}", hint=_START_IT) from error
    headers = {"Authorization": f"Bearer {token.strip()}"}
    timeout = aiohttp.ClientTimeout(total=None)  # each call has its own
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield NodeClient(session, found.url)


def find_node(paths: Paths) -> NodeFile:
    """Return what `node.json` says of a living node.

    Raises:
        NodeNotRunningError: there is none, it is damaged, or its process is dead.
    """
    try:
        data = paths.node_file.read_bytes()
    except OSError as error:
        raise NodeNotRunningError("no node runs in this home", hint=_START_IT) from error
    try:
        found = msgspec.json.decode(data, type=NodeFile)
        local = IPv4Address(URL(found.url).host or "").is_loopback
    except (*UNREADABLE, ValueError) as error:
        raise _damaged(paths) from error
    if not local:
        raise _damaged(paths)
    if not is_alive(found.pid):
        raise NodeNotRunningError(f"the node (process {found.pid}) has died", hint=_START_IT)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and only waits for its parent doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError, OverflowError):
        return False


def _damaged(paths: Paths) -> NodeNotRunningError:
    return NodeNotRunningError(
        f"the file by which a node is found is damaged: {paths.node_file}",
        hint=f"{_START_IT}. If a node still runs, end it first.",
    )


def _reply(status: int, data: bytes, kind: type[ReplyT]) -> ReplyT:
    try:
        if status != 200:
            raise ApiError(msgspec.json.decode(data, type=Failure))
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise _bad_answer(status) from error


def _event(message: aiohttp.WSMessage) -> StreamEvent:
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise NodeNotRunningError("the node is gone: the connection broke", hint=_START_IT)
    try:
        return msgspec.json.decode(message.data, type=StreamEvent)
    except UNREADABLE as error:
        raise _bad_answer(101) from error


def _bad_answer(status: int) -> ApiError:
    return ApiError(
        Failure(
            code="bad_answer",
            message=f"the node's answer can't be read (HTTP {status})",
            hint="Another talkoot version may still run: talkoot down, then talkoot up -d",
        )
    )


def _timeout(seconds: float) -> NodeTimeoutError:
    return NodeTimeoutError(
        f"the node did not answer within {seconds:.0f} s",
        hint="See what it does with: talkoot logs",
    )
