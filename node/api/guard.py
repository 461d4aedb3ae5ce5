"""Who is let in: programs on this machine that know a token, and no web page.

A web page can reach 127.0.0.1 too, so the Host header must name it (DNS rebinding), an Origin
header is refused, and every call but /healthz carries a bearer token from a file of this user's:
one token is good for everything, the other for what only reads, and reads no secrets.
"""

import asyncio
from dataclasses import dataclass
from hmac import compare_digest

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from node.api.answers import Handler
from node.api.refusals import RefusedError
from protocol.control import API_PREFIX

OPEN_PATHS = frozenset({"/healthz"})
READING = frozenset({"GET", "HEAD"})
SECRETS = frozenset({f"{API_PREFIX}/runs/{{run}}/invites"})
"""What only reads, but reads what lets others in: not for who may see the node's figures."""
MOST_STRANGERS = 64


@dataclass(frozen=True, slots=True)
class Tokens:
    """The secrets of one start of the node, by what they permit."""

    control: str
    read: str


class Strangers:
    """Connections on which no token was shown yet: of too many the oldest end.

    Every user of this machine can connect, and would else take all file handles that a node has.
    """

    def __init__(self) -> None:
        self._waiting: dict[RequestHandler, None] = {}

    def let_in(self, server: web.Server) -> RequestHandler:
        """Return the handler of a new connection."""
        handler = server()
        self._waiting[handler] = None
        if len(self._waiting) > MOST_STRANGERS:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            # soon: of many that come at once it may not be connected yet, and then would stay
            asyncio.get_running_loop().call_soon(oldest.force_close)
        return handler

    def trust(self, request: web.Request) -> None:
        """Let the connection of a request that showed a token last."""
        self._waiting.pop(request.protocol, None)


TOKENS = web.AppKey("tokens", Tokens)
STRANGERS = web.AppKey("strangers", Strangers)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse web pages and whoever doesn't know a token that permits the call."""
    host, port = request.get_extra_info("sockname", ("", 0))[:2]
    if request.headers.get("Host") not in {f"{host}:{port}", f"localhost:{port}"}:
        message, hint = "the Host header doesn't name this node", "Use the URL in node.json."
        raise RefusedError(403, "bad_host", message, hint)
    if "Origin" in request.headers:
        hint = "Use the command line or the window."
        raise RefusedError(403, "bad_origin", "web pages may not use the control API", hint)
    if request.path not in OPEN_PATHS:
        _check_token(request)
    return await handler(request)


def _check_token(request: web.Request) -> None:
    given, tokens = request.headers.get("Authorization", "").encode(), request.app[TOKENS]
    controls = compare_digest(given, f"Bearer {tokens.control}".encode())
    reads = compare_digest(given, f"Bearer {tokens.read}".encode())
    if not controls and not reads:
        raise RefusedError(
            401,
            "unauthorized",
            "the API token is missing or wrong",
            "Programs find it in the file that node.json names; each start of the node makes a "
            "new one.",
        )
    request.app[STRANGERS].trust(request)
    if not controls and not _only_reads(request):
        raise RefusedError(
            403,
            "read_only_token",
            "this token permits to read, but no secrets, and not to change anything",
            "The token that does is in the file that node.json names as token_path.",
        )


def _only_reads(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    secret = resource is not None and resource.canonical in SECRETS
    return request.method in READING and not secret
