"""The control API's client for the window: calls, and the stream of events.

It shares the vocabulary with the node (protocol/) and no code: a node of another version may
answer, so what can't be read is an error with a hint and never a traceback.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from protocol.accounts import History, PeerDetail
from protocol.codec import UNREADABLE
from protocol.control import (
    API_PREFIX,
    Contribution,
    ContributionRequest,
    Exported,
    ExportRequest,
    Failure,
    HostSpec,
    LinkRequest,
    NodeFile,
    Peer,
    Preview,
    RunStatus,
)
from protocol.errors import TalkootError
from protocol.hosting import Invite, InviteRequest, Member, RunChange
from protocol.machine import (
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Metric,
    Series,
    StreamEvent,
    Written,
)

ANSWER_SECONDS = 10.0
SEARCH_SECONDS = 120.0
"""For calls that look for peers: preview and join."""
WORK_SECONDS = 600.0
"""For calls that read or write a whole model or data set."""
HEARTBEAT_SECONDS = 8.0
"""A node that hangs is noticed within one and a half of these."""
MAX_EVENT_BYTES = 64 << 20

ReplyT = TypeVar("ReplyT")
_event = msgspec.json.Decoder(StreamEvent)


class GoneError(TalkootError):
    """No node answers."""

    code = "node_not_running"


class NoNodeError(GoneError):
    """No node is announced where one would be, or its process can't be reached."""


class RefusedError(TalkootError):
    """The node refused; code, message and hint are its own."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, hint=failure.hint)
        self.code = failure.code


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is found: by the file that it announces itself in, or by its address."""

    node_file: Path | None = None
    url: str | None = None
    token_file: Path | None = None

    def find(self) -> tuple[str, str]:
        """Return URL and token, as they are now: each start of a node makes a new token.

        Raises:
            NoNodeError: none is announced, or it can't be read.
        """
        url, token_file = self.url, self.token_file
        if url is None:
            found = self._announced()
            url, token_file = found.url, token_file or Path(found.token_path)
        if not _is_local(url):
            raise NoNodeError("the node's address isn't one of this machine")
        return url, _token(token_file)

    def _announced(self) -> NodeFile:
        if self.node_file is None:
            raise NoNodeError("it isn't said where the node is")
        try:
            return msgspec.json.decode(self.node_file.read_bytes(), type=NodeFile)
        except OSError as error:
            raise NoNodeError("no node runs here") from error
        except UNREADABLE as error:
            raise NoNodeError(f"{self.node_file} is damaged") from error


def _is_local(url: str) -> bool:
    try:
        host = URL(url).host or ""
        return host == "localhost" or IPv4Address(host).is_loopback
    except ValueError:
        return False


def _token(file: Path | None) -> str:
    if file is None:
        raise NoNodeError("it isn't said where the node's token is", hint="Give --token-file.")
    try:
        token = file.read_text("ascii").strip()
    except (OSError, ValueError) as error:  # a path that none can have, or no text
        raise NoNodeError(f"the token file {file} can't be read") from error
    if not token.isprintable():
        raise NoNodeError(f"the token file {file} is damaged")
    return token


class Api:
    """Calls to one node. All raise RefusedError or GoneError."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = URL(url)

    async def contribute(self, request: ContributionRequest) -> Contribution:
        """Contribute or don't."""
        return await self._call("PUT", "/contribution", Contribution, body=request)

    async def preview(self, link: str) -> Preview:
        """Return what is behind a join link."""
        body = LinkRequest(link=link)
        return await self._call("POST", "/runs/preview", Preview, body=body, seconds=SEARCH_SECONDS)

    async def join(self, link: str) -> RunStatus:
        """Join the run behind a link."""
        body = LinkRequest(link=link)
        return await self._call("POST", "/runs/join", RunStatus, body=body, seconds=SEARCH_SECONDS)

    async def host(self, spec: HostSpec) -> RunStatus:
        """Start a run; its status carries the join link."""
        return await self._call("POST", "/runs", RunStatus, body=spec, seconds=WORK_SECONDS)

    async def leave(self, run: str) -> None:
        """Stop taking part in a run."""
        await self._call("DELETE", f"/runs/{_segment(run)}", RunStatus, seconds=SEARCH_SECONDS)

    async def change_run(self, run: str, change: RunChange) -> RunStatus:
        """Change what the host may change of a run for everybody."""
        return await self._call("PATCH", f"/runs/{_segment(run)}", RunStatus, body=change)

    async def create_invite(self, run: str, wanted: InviteRequest) -> Invite:
        """Make an invite to a private run."""
        return await self._call("POST", f"/runs/{_segment(run)}/invites", Invite, body=wanted)

    async def invites(self, run: str) -> list[Invite]:
        """Return the invites to a run, newest first."""
        return await self._call("GET", f"/runs/{_segment(run)}/invites", list[Invite])

    async def revoke_invite(self, run: str, invite: str) -> Invite:
        """Let nobody join by an invite any more."""
        where = f"/runs/{_segment(run)}/invites/{_segment(invite)}"
        return await self._call("DELETE", where, Invite)

    async def members(self, run: str) -> list[Member]:
        """Return who was let into a run."""
        return await self._call("GET", f"/runs/{_segment(run)}/members", list[Member])

    async def set_ban(self, run: str, peer: str, *, banned: bool) -> Member:
        """Shut a peer out of a run for everybody, or let it in again."""
        where = f"/runs/{_segment(run)}/bans/{_segment(peer)}"
        return await self._call("PUT" if banned else "DELETE", where, Member)

    async def set_block(self, run: str, peer: str, *, blocked: bool) -> Peer:
        """Have this node deal with a peer no more, or again."""
        where = f"/runs/{_segment(run)}/blocks/{_segment(peer)}"
        return await self._call("PUT" if blocked else "DELETE", where, Peer)

    async def export(self, run: str, path: str) -> Exported:
        """Have the node write a run's model to the absolute `path`, over what is there.

        The file dialog has asked whether that may be replaced.
        """
        where, body = f"/runs/{_segment(run)}/export", ExportRequest(path=path, replace=True)
        return await self._call("POST", where, Exported, body=body, seconds=WORK_SECONDS)

    async def history(self, run: str, peer: str | None = None, limit: int = 1000) -> History:
        """Return a run's newest rounds, with the credit of this node or a peer."""
        query = {"limit": str(limit)} | ({} if peer is None else {"peer": peer})
        where = f"/runs/{_segment(run)}/history?{urlencode(query)}"
        return await self._call("GET", where, History)

    async def peer(self, run: str, peer: str) -> PeerDetail:
        """Return why a peer stands as it does."""
        where = f"/runs/{_segment(run)}/peers/{_segment(peer)}"
        return await self._call("GET", where, PeerDetail)

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        """Return a figure over time."""
        query = {"since": f"{since:.0f}", "points": str(points)}
        query |= {} if run is None else {"run": run}
        return await self._call("GET", f"/history/{metric}?{urlencode(query)}", Series)

    async def config(self) -> ConfigView:
        """Return the configuration."""
        return await self._call("GET", "/config", ConfigView)

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        """Change keys, all of them or none."""
        return await self._call("PATCH", "/config", ConfigView, body=patch)

    async def devices(self) -> list[Device]:
        """Return what there is to train on."""
        return await self._call("GET", "/devices", list[Device])

    async def logs(self, lines: int) -> list[str]:
        """Return the last lines of the node's log."""
        return await self._call("GET", f"/logs?lines={lines}", list[str])

    async def diagnostics(self, path: str) -> Written:
        """Have the node write a redacted file for whoever helps, over what is there."""
        body = DiagnosticsRequest(path=path, replace=True)
        return await self._call("POST", "/diagnostics", Written, body=body, seconds=SEARCH_SECONDS)

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Give events until the node closes the stream.

        Raises:
            RefusedError: the node doesn't take the token.
            GoneError: it can't be reached, or is gone.
        """
        try:
            async with self._session.ws_connect(
                self._url.with_path(f"{API_PREFIX}/events"),
                heartbeat=HEARTBEAT_SECONDS,
                max_msg_size=MAX_EVENT_BYTES,
            ) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield _event.decode(message.data)
        except aiohttp.WSServerHandshakeError as error:
            raise _refusal(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise GoneError("the node can't be reached") from error

    async def _call(
        self,
        method: str,
        where: str,
        kind: type[ReplyT],
        *,
        body: msgspec.Struct | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> ReplyT:
        url = self._url.join(URL(f"{API_PREFIX}{where}", encoded=True))
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(method, url, data=data, headers=headers) as response,
            ):
                return _reply(response.status, await response.read(), kind)
        except TimeoutError as error:
            raise GoneError(f"the node did not answer within {seconds:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise GoneError("the node went away before it answered") from error


@asynccontextmanager
async def open_api(place: Place) -> AsyncIterator[Api]:
    """Give a client of the node that is there now.

    Raises:
        NoNodeError: none is.
    """
    url, token = place.find()
    headers: Mapping[str, str] = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield Api(session, url)


def _refusal(error: aiohttp.WSServerHandshakeError) -> TalkootError:
    if error.status in {401, 403}:
        return RefusedError(
            Failure(
                code="unauthorized",
                message="the node does not take this window's token",
                hint="Close the window and open it again.",
            )
        )
    return RefusedError(
        Failure(
            code="bad_answer",
            message=f"the node has no event stream (HTTP {error.status})",
            hint="Another version of talkoot may still run: talkoot down, then talkoot up -d",
        )
    )


def _reply(status: int, data: bytes, kind: type[ReplyT]) -> ReplyT:
    try:
        if status != 200:
            raise RefusedError(msgspec.json.decode(data, type=Failure))
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        raise RefusedError(
            Failure(
                code="bad_answer",
                message=f"the node's answer can't be read (HTTP {status})",
                hint="Another version of talkoot may still run: talkoot down, then talkoot up -d",
            )
        ) from error


def _segment(text: str) -> str:
    """Return `text` as one segment of a path; dots alone would be taken for a folder."""
    return quote(text, safe="") if text.strip(".") else "%20"
