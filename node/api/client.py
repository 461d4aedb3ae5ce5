"""The control API's client: what the command line and the demo know of a running node."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import psutil
from yarl import URL

from node.home.paths import Paths
from protocol.accounts import MOST_ROUNDS, EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.control import (
    API_PREFIX,
    Exported,
    ExportRequest,
    Failure,
    Health,
    HostSpec,
    LinkRequest,
    NodeFile,
    Peer,
    Preview,
    RunStatus,
    Status,
)
from protocol.errors import TalkootError
from protocol.references import find_run, only_run

ANSWER_SECONDS = 10.0
SEARCH_SECONDS = 120.0
"""For calls that look for peers: preview and join."""
WORK_SECONDS = 600.0
"""For calls that read or write a whole model or data set: host and export."""

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


class NodeClient:
    """Calls to one node. All raise ApiError, NodeTimeoutError or NodeNotRunningError.

    Where a run is named, NoSuchRunError and AmbiguousRunError too; None = the node's only run.
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

    async def peers(self, run: str | None = None) -> list[Peer]:
        """Return the peers of a run (by id, start of id, or name), or of all runs."""
        chosen = "" if run is None else f"?run={find_run(await self.runs(), run).run}"
        return await self._call("GET", f"{API_PREFIX}/peers{chosen}", list[Peer])

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
        where = f"{await self._place(run)}/peers/{_segment(peer)}"
        return await self._call("GET", where, PeerDetail)

    async def evidence(self, run: str | None = None) -> list[EvidenceItem]:
        """Return the evidence that the node keeps."""
        return await self._call("GET", f"{await self._place(run)}/evidence", list[EvidenceItem])

    async def evidence_detail(self, run: str | None, root: str) -> EvidenceDetail:
        """Return what one piece of evidence says, by its root or the start of it."""
        where = f"{await self._place(run)}/evidence/{_segment(root)}"
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

    async def leave(self, run: str) -> RunStatus:
        """Leave a run (by id, start of id, or name); returns how it stood."""
        found = find_run(await self.runs(), run)
        return await self._call(
            "DELETE", f"{API_PREFIX}/runs/{found.run}", RunStatus, seconds=SEARCH_SECONDS
        )

    async def export(self, run: str, path: str) -> Exported:
        """Have the node write a run's model to the absolute `path`."""
        found = find_run(await self.runs(), run)
        where = f"{API_PREFIX}/runs/{found.run}/export"
        body = ExportRequest(path=path)
        return await self._call("POST", where, Exported, body=body, seconds=WORK_SECONDS)

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the node's log."""
        return await self._call("GET", f"{API_PREFIX}/logs?lines={lines}", list[str])

    async def shutdown(self) -> None:
        """Begin the node's ordered end."""
        await self._call("POST", f"{API_PREFIX}/shutdown", dict[str, str])

    async def _place(self, run: str | None) -> str:
        return f"{API_PREFIX}/runs/{only_run(await self.runs(), run).run}"

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
            raise NodeTimeoutError(
                f"the node did not answer within {seconds:.0f} s",
                hint="See what it does with: talkoot logs",
            ) from error
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
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
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


def _segment(text: str) -> str:
    """Return `text` as one segment of a path; dots alone would be taken for a folder."""
    return quote(text, safe="") if text.strip(".") else "%20"


def _reply(status: int, data: bytes, kind: type[ReplyT]) -> ReplyT:
    try:
        if status != 200:
            raise ApiError(msgspec.json.decode(data, type=Failure))
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(
            Failure(
                code="bad_answer",
                message=f"the node's answer can't be read (HTTP {status})",
                hint="Another talkoot version may still run: talkoot down, then talkoot up -d",
            )
        ) from error
