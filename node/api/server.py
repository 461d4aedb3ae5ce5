"""The control API: the only door to a running node, for programs of this user on this machine.

    GET    /healthz                          GET    /v1/status
    GET    /v1/runs                          GET    /v1/peers?run=
    GET    /v1/runs/{run}/history?peer=&since=&limit=
    GET    /v1/runs/{run}/peers/{peer}       GET    /v1/runs/{run}/evidence[/{root}]
    POST   /v1/runs/preview {link}           POST   /v1/runs/join {link}
    POST   /v1/runs {a HostSpec}             DELETE /v1/runs/{run}
    POST   /v1/runs/{run}/export {path}      GET    /v1/logs?lines=
    POST   /v1/shutdown

A web page can reach 127.0.0.1 too, so the Host header must name it (DNS rebinding), an Origin
header is refused, and every call but /healthz carries the bearer token from a file of this user's.
Errors are `Failure` {code, message, hint}; a traceback goes to the log alone.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hmac import compare_digest
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from node.home.config import DEFAULT_API
from node.home.config_values import parse_api
from node.home.paths import Paths, announced, new_token
from node.home.version import VERSION
from protocol.accounts import MOST_ROUNDS, EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.control import (
    API_PREFIX,
    Exported,
    ExportRequest,
    Failure,
    Health,
    HostSpec,
    LinkRequest,
    Peer,
    Preview,
    Request,
    RunStatus,
    Status,
)
from protocol.errors import TalkootError
from protocol.references import (
    AmbiguousPeerError,
    AmbiguousRunError,
    NoSuchEvidenceError,
    NoSuchPeerError,
    NoSuchRunError,
    find_run,
)
from protocol.rollcall import MAX_ROUND

MAX_BODY_BYTES = 64 << 10
BODY_SECONDS = 10.0
SHUTDOWN_SECONDS = 0.5
"""What calls still in progress get when the node ends; aiohttp waits up to twice as long."""
MAX_LOG_LINES = 10_000

RequestT = TypeVar("RequestT", bound=Request)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)
_TOKEN = web.AppKey("token", str)


class ApiPortError(TalkootError):
    """The configured port of the control API is taken or not allowed."""

    code = "api_port_taken"


class RefusedError(TalkootError):
    """A call that the API refuses before the node hears of it, with its HTTP status."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class NotPermittedError(TalkootError):
    """This node may not do that: a member acting as a host, for one."""

    code = "not_permitted"


class Controls(Protocol):
    """What a node can be asked; `run` is always a full run id in hex. All raise TalkootError."""

    def status(self) -> Status:
        """Return the node as a whole, its runs included."""
        ...

    def runs(self) -> list[RunStatus]:
        """Return the runs of this node, finished and stopped ones too."""
        ...

    def peers(self, run: str | None) -> list[Peer]:
        """Return the peers of one run, or of all, that are there now."""
        ...

    async def preview(self, link: str) -> Preview:
        """Fetch and check the manifest behind a join link; nothing starts."""
        ...

    async def join(self, link: str) -> RunStatus:
        """Start to take part; returns once the manifest is checked and the worker started."""
        ...

    async def host(self, spec: HostSpec) -> RunStatus:
        """Sign a manifest, start its run, and return it with its join link."""
        ...

    async def leave(self, run: str) -> None:
        """Stop taking part; what is on disk stays."""
        ...

    async def history(self, run: str, peer: str | None, since: int, limit: int) -> History:
        """Return the newest rounds, with the credit of a peer (by id, a part of it, or name)."""
        ...

    async def peer(self, run: str, peer: str) -> PeerDetail:
        """Return why a peer (by id, a part of it, or name) stands as it does."""
        ...

    async def evidence(self, run: str) -> list[EvidenceItem]:
        """Return the evidence that this node keeps."""
        ...

    async def evidence_detail(self, run: str, root: str) -> EvidenceDetail:
        """Return what one piece of evidence says, by its root or the start of it."""
        ...

    async def export(self, run: str, path: str) -> Exported:
        """Write the run's agreed model to the absolute `path` as safetensors."""
        ...

    def logs(self, lines: int) -> list[str]:
        """Return the last lines of the log."""
        ...

    def request_shutdown(self) -> None:
        """Begin the node's ordered end, and return at once."""
        ...


_NOT_FOUND = (
    NoSuchRunError,
    AmbiguousRunError,
    NoSuchPeerError,
    AmbiguousPeerError,
    NoSuchEvidenceError,
)
_STATUS = {NotPermittedError.code: 403, **dict.fromkeys((kind.code for kind in _NOT_FOUND), 404)}
_INTERNAL = Failure(
    code="internal_error",
    message="the node made a mistake in answering this",
    hint="See why with: talkoot logs",
)


@asynccontextmanager
async def serve_api(controls: Controls, paths: Paths, address: str | None) -> AsyncIterator[str]:
    """Serve the API while the context lasts; gives its URL. `node.json` says where it is.

    Args:
        controls: the node.
        paths: the home; token and `node.json` are written there.
        address: the configured one; None = `DEFAULT_API`, or any free port if that is taken.

    Raises:
        ApiPortError: `address` was given and is taken.
        StateError: the state folder can't be written.
    """
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_answer_errors, _guard])
    app[_TOKEN] = new_token(paths)
    _add_routes(app, controls)
    runner = web.AppRunner(
        app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        host, port = await _listen(runner, address)
        url = f"http://{host}:{port}"
        with announced(paths, url):
            log.info("the control API is at %s", url)
            yield url
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str | None) -> tuple[str, int]:
    host, port = parse_api(address or DEFAULT_API)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        if address is not None:
            raise ApiPortError(
                f"the control API can't have {address}: {os.strerror(error.errno or 0)}",
                hint="Set another port, or port 0 for any free one: "
                "talkoot config set node.api 127.0.0.1:0",
            ) from error
        log.info("port %d is taken; the control API takes a free one", port)
        await web.TCPSite(runner, host, 0).start()
    return host, runner.addresses[-1][1]


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into a `Failure`."""
    try:
        return await handler(request)
    except RefusedError as error:
        return _failure(error.status, error)
    except TalkootError as error:
        return _failure(_STATUS.get(error.code, 400), error)
    except web.HTTPException as error:
        return _failure(error.status, RefusedError(error.status, *_http_code(error)))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _json(_INTERNAL, 500)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse web pages and whoever doesn't know the token."""
    host, port = request.get_extra_info("sockname", ("", 0))[:2]
    if request.headers.get("Host") not in {f"{host}:{port}", f"localhost:{port}"}:
        raise RefusedError(403, "bad_host", "the Host header doesn't name this node")
    if "Origin" in request.headers:
        raise RefusedError(403, "bad_origin", "web pages may not use the control API")
    if request.path != "/healthz":
        _check_token(request)
    return await handler(request)


def _check_token(request: web.Request) -> None:
    given = request.headers.get("Authorization", "").encode()
    if not compare_digest(given, f"Bearer {request.app[_TOKEN]}".encode()):
        raise RefusedError(
            401,
            "unauthorized",
            "the API token is missing or wrong",
            "Programs find it in the file that node.json names; each start of the node makes a "
            "new one.",
        )


def _http_code(error: web.HTTPException) -> tuple[str, str]:
    match error.status:
        case 404:
            return "not_found", "the control API has no such address"
        case 405:
            return "not_found", "this address doesn't take that method"
        case 413:
            return "too_large", f"the request is above {MAX_BODY_BYTES >> 10} KiB"
        case _:
            return "bad_request", error.reason


def _failure(status: int, error: TalkootError) -> web.Response:
    return _json(Failure(code=error.code, message=error.message, hint=error.hint), status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _add_routes(app: web.Application, controls: Controls) -> None:
    def bound(
        answer: Callable[[Controls, web.Request], Awaitable[web.Response]],
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        return partial(answer, controls)

    app.add_routes(
        [
            web.get("/healthz", bound(_health)),
            web.get(f"{API_PREFIX}/status", bound(_status)),
            web.get(f"{API_PREFIX}/runs", bound(_runs)),
            web.get(f"{API_PREFIX}/peers", bound(_peers)),
            web.get(f"{API_PREFIX}/logs", bound(_logs)),
            web.get(f"{API_PREFIX}/runs/{{run}}/history", bound(_history)),
            web.get(f"{API_PREFIX}/runs/{{run}}/peers/{{peer}}", bound(_peer)),
            web.get(f"{API_PREFIX}/runs/{{run}}/evidence", bound(_evidence)),
            web.get(f"{API_PREFIX}/runs/{{run}}/evidence/{{root}}", bound(_evidence_detail)),
            web.post(f"{API_PREFIX}/runs/preview", bound(_preview)),
            web.post(f"{API_PREFIX}/runs/join", bound(_join)),
            web.post(f"{API_PREFIX}/runs", bound(_host)),
            web.post(f"{API_PREFIX}/runs/{{run}}/export", bound(_export)),
            web.delete(f"{API_PREFIX}/runs/{{run}}", bound(_leave)),
            web.post(f"{API_PREFIX}/shutdown", bound(_shutdown)),
        ]
    )


async def _health(_: Controls, __: web.Request) -> web.Response:
    return _json(Health(version=VERSION, pid=os.getpid()))


async def _status(controls: Controls, _: web.Request) -> web.Response:
    return _json(controls.status())


async def _runs(controls: Controls, _: web.Request) -> web.Response:
    return _json(controls.runs())


async def _peers(controls: Controls, request: web.Request) -> web.Response:
    reference = request.query.get("run")
    run = None if reference is None else find_run(controls.runs(), reference).run
    return _json(controls.peers(run))


async def _logs(controls: Controls, request: web.Request) -> web.Response:
    lines = _number(request, "lines", 200, 1, MAX_LOG_LINES)
    return _json(await asyncio.to_thread(controls.logs, lines))


async def _history(controls: Controls, request: web.Request) -> web.Response:
    peer = request.query.get("peer")
    since = _number(request, "since", 0, 0, MAX_ROUND)
    limit = _number(request, "limit", MOST_ROUNDS, 1, MOST_ROUNDS)
    return _json(await controls.history(_run_of(controls, request), peer, since, limit))


async def _peer(controls: Controls, request: web.Request) -> web.Response:
    return _json(await controls.peer(_run_of(controls, request), request.match_info["peer"]))


async def _evidence(controls: Controls, request: web.Request) -> web.Response:
    return _json(await controls.evidence(_run_of(controls, request)))


async def _evidence_detail(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    return _json(await controls.evidence_detail(run, request.match_info["root"]))


def _run_of(controls: Controls, request: web.Request) -> str:
    return find_run(controls.runs(), request.match_info["run"]).run


def _number(request: web.Request, name: str, otherwise: int, least: int, most: int) -> int:
    text = request.query.get(name, str(otherwise))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= number <= most:
        raise RefusedError(400, "bad_request", f"{name} is a number from {least} to {most}")
    return number


async def _preview(controls: Controls, request: web.Request) -> web.Response:
    return _json(await controls.preview((await _body(request, LinkRequest)).link))


async def _join(controls: Controls, request: web.Request) -> web.Response:
    return _json(await controls.join((await _body(request, LinkRequest)).link))


async def _host(controls: Controls, request: web.Request) -> web.Response:
    return _json(await controls.host(await _body(request, HostSpec)))


async def _leave(controls: Controls, request: web.Request) -> web.Response:
    found = find_run(controls.runs(), request.match_info["run"])
    await controls.leave(found.run)
    return _json(found)


async def _export(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    wanted = await _body(request, ExportRequest)
    return _json(await controls.export(run, wanted.path))


async def _shutdown(controls: Controls, _: web.Request) -> web.Response:
    controls.request_shutdown()
    return _json({})


async def _body(request: web.Request, kind: type[RequestT]) -> RequestT:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await request.read()
        return msgspec.json.decode(data, type=kind)
    except (TimeoutError, web.RequestPayloadError) as error:
        raise RefusedError(408, "bad_request", "the request's body did not come") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, "bad_request", f"the request can't be read: {error}") from error
