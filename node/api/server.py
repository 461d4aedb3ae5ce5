"""The control API: the only door to a running node, for programs of this user on this machine.

    GET  /healthz                              GET  /metrics (for Prometheus)
    GET  /v1/status                            GET  /v1/events (WebSocket)
    PUT  /v1/contribution {mode, for_s?}       GET  /v1/peers?run=&sort=&q=&limit=
    GET  /v1/runs                              GET  /v1/history/{metric}?run=&since=&points=
    POST /v1/runs {a HostSpec}                 GET  /v1/checkpoints
    POST /v1/runs/preview {link}               POST /v1/checkpoints/{checkpoint}/export {path}
    POST /v1/runs/join {link}                  GET|PATCH /v1/config {set}
    DELETE /v1/runs/{run}                      GET  /v1/devices
    POST /v1/runs/{run}/export {path}          GET  /v1/logs?lines=
    GET  /v1/runs/{run}/history?peer=&since=   POST /v1/diagnostics {path}
    GET  /v1/runs/{run}/peers/{peer}           POST /v1/shutdown
    GET  /v1/runs/{run}/evidence[/{root}]      PATCH /v1/runs/{run} {paused}
    POST|GET /v1/runs/{run}/invites            DELETE /v1/runs/{run}/invites/{invite}
    PUT|DELETE /v1/runs/{run}/bans/{peer}      GET  /v1/runs/{run}/members
    PUT|DELETE /v1/runs/{run}/blocks/{peer}

Who may call what is in `node.api.guard`, what is answered in `node.api.routes`. Errors are
`Failure` {code, message, hint} (`node.api.answers`), each code explained in docs/errors.md.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial

from aiohttp import web

from node.api.answers import ERRORS, MAX_BODY_BYTES, answer_errors
from node.api.chronicle import Chronicle
from node.api.controls import Controls
from node.api.events import EventStream
from node.api.guard import STRANGERS, TOKENS, Strangers, Tokens, guard
from node.api.metrics import Metrics
from node.api.routes import routes
from node.home.config import DEFAULT_API
from node.home.config_values import parse_api
from node.home.paths import Paths, announced, new_token
from protocol.control import API_PREFIX
from protocol.errors import TalkootError

SHUTDOWN_SECONDS = 0.5
"""What calls still in progress get when the node ends; aiohttp waits up to twice as long."""

log = logging.getLogger(__name__)


class ApiPortError(TalkootError):
    """The configured port of the control API is taken or not allowed."""

    code = "api_port_taken"


@asynccontextmanager
async def serve_api(controls: Controls, paths: Paths, address: str | None) -> AsyncIterator[str]:
    """Serve the API while the context lasts; gives its URL. `node.json` says where it is.

    Args:
        controls: the node.
        paths: the home; tokens and `node.json` are written there.
        address: the configured one; None = `DEFAULT_API`, or any free port if that is taken.

    Raises:
        ApiPortError: `address` was given and is taken.
        StateError: the state folder can't be written.
    """
    tokens = Tokens(control=new_token(paths.token), read=new_token(paths.read_token))
    app = _application(controls, tokens)
    runner = web.AppRunner(
        app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        with closing(await _listen(runner, address)) as listening:
            url = "http://{}:{}".format(*listening.sockets[0].getsockname())
            with announced(paths, url):
                log.info("the control API is at %s", url)
                yield url
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str | None) -> asyncio.Server:
    if runner.server is None:
        raise RuntimeError("the runner was not set up")
    let_in = partial(runner.app[STRANGERS].let_in, runner.server)
    listen = asyncio.get_running_loop().create_server
    host, port = parse_api(address or DEFAULT_API)
    try:
        return await listen(let_in, host, port)
    except OSError as error:
        if address is not None:
            raise ApiPortError(
                f"the control API can't have {address}: {os.strerror(error.errno or 0)}",
                hint="Set another port, or port 0 for any free one: "
                "talkoot config set node.api 127.0.0.1:0",
            ) from error
        log.info("port %d is taken; the control API takes a free one", port)
        return await listen(let_in, host, 0)


def _application(controls: Controls, tokens: Tokens) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[answer_errors, guard])
    app[TOKENS], app[STRANGERS], app[ERRORS] = tokens, Strangers(), Counter()
    chronicle = Chronicle(controls.activity, controls.peers)
    events, metrics = EventStream(controls, chronicle), Metrics(controls, chronicle)

    async def running(_: web.Application) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(events.run(), name="events")
            yield
            task.cancel()

    async def goodbye(_: web.Application) -> None:
        await events.close()

    app.cleanup_ctx.append(running)
    app.on_shutdown.append(goodbye)
    app.add_routes(routes(controls))
    app.router.add_get(f"{API_PREFIX}/events", events.listen)
    app.router.add_get("/metrics", metrics.scrape)
    return app
