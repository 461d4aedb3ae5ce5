"""What each address of the control API answers."""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import cast, get_args

from aiohttp import web

from node.api.answers import as_json, body_of, number_of
from node.api.controls import Controls
from node.api.refusals import RefusedError
from node.home.version import VERSION
from protocol.accounts import MOST_ROUNDS
from protocol.control import (
    API_PREFIX,
    ContributionRequest,
    ExportRequest,
    Health,
    HostSpec,
    LinkRequest,
    Peer,
)
from protocol.hosting import InviteRequest, RunChange
from protocol.machine import MOST_POINTS, ConfigPatch, DiagnosticsRequest, Metric
from protocol.references import find_run
from protocol.rollcall import MAX_ROUND

MAX_LOG_LINES = 10_000
MOST_PEERS = 100_000
"""In one answer."""
DEFAULT_POINTS = 200
LATEST_SECONDS = 1e11
"""A time since 1970 that no history reaches."""

Answer = Callable[[Controls, web.Request], Awaitable[web.StreamResponse]]

_SORTS = (
    *("name", "id", "state", "standing", "round", "samples_per_second", "share", "device"),
    *("reputation", "latency_seconds", "last_seen_seconds", "accepted_samples", "address"),
)


def routes(controls: Controls) -> Iterable[web.RouteDef]:
    """Return the addresses of a node, but /v1/events and /metrics."""
    table: Sequence[tuple[str, str, Answer]] = (
        ("GET", "/status", _status),
        ("PUT", "/contribution", _contribute),
        ("GET", "/runs", _runs),
        ("POST", "/runs", _host),
        ("POST", "/runs/preview", _preview),
        ("POST", "/runs/join", _join),
        ("DELETE", "/runs/{run}", _leave),
        ("PATCH", "/runs/{run}", _change_run),
        ("POST", "/runs/{run}/export", _export),
        ("GET", "/runs/{run}/history", _history),
        ("GET", "/runs/{run}/peers/{peer}", _peer),
        ("GET", "/runs/{run}/evidence", _evidence),
        ("GET", "/runs/{run}/evidence/{root}", _evidence_detail),
        ("POST", "/runs/{run}/invites", _create_invite),
        ("GET", "/runs/{run}/invites", _invites),
        ("DELETE", "/runs/{run}/invites/{invite}", _revoke_invite),
        ("GET", "/runs/{run}/members", _members),
        ("PUT", "/runs/{run}/bans/{peer}", _ban),
        ("DELETE", "/runs/{run}/bans/{peer}", _unban),
        ("PUT", "/runs/{run}/blocks/{peer}", _block),
        ("DELETE", "/runs/{run}/blocks/{peer}", _unblock),
        ("GET", "/peers", _peers),
        ("GET", "/history/{metric}", _series),
        ("GET", "/checkpoints", _checkpoints),
        ("POST", "/checkpoints/{checkpoint}/export", _export_checkpoint),
        ("GET", "/config", _config),
        ("PATCH", "/config", _set_config),
        ("GET", "/devices", _devices),
        ("GET", "/logs", _logs),
        ("POST", "/diagnostics", _diagnostics),
        ("POST", "/shutdown", _shutdown),
    )
    yield web.get("/healthz", partial(_health, controls))
    for method, path, answer in table:
        yield web.route(method, API_PREFIX + path, partial(answer, controls))


async def _health(_: Controls, __: web.Request) -> web.Response:
    return as_json(Health(version=VERSION, pid=os.getpid()))


async def _status(controls: Controls, _: web.Request) -> web.Response:
    return as_json(controls.status())


async def _contribute(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.contribute(await body_of(request, ContributionRequest)))


# runs


async def _runs(controls: Controls, _: web.Request) -> web.Response:
    return as_json(controls.runs())


async def _host(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.host(await body_of(request, HostSpec)))


async def _preview(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.preview((await body_of(request, LinkRequest)).link))


async def _join(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.join((await body_of(request, LinkRequest)).link))


async def _leave(controls: Controls, request: web.Request) -> web.Response:
    found = find_run(controls.runs(), request.match_info["run"])
    await controls.leave(found.run)
    return as_json(found)


async def _export(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    wanted = await body_of(request, ExportRequest)
    return as_json(await controls.export(run, wanted))


async def _history(controls: Controls, request: web.Request) -> web.Response:
    peer = request.query.get("peer")
    since = number_of(request, "since", 0, 0, MAX_ROUND)
    limit = number_of(request, "limit", MOST_ROUNDS, 1, MOST_ROUNDS)
    return as_json(await controls.history(_run_of(controls, request), peer, since, limit))


async def _peer(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.peer(_run_of(controls, request), request.match_info["peer"]))


async def _evidence(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.evidence(_run_of(controls, request)))


async def _evidence_detail(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    return as_json(await controls.evidence_detail(run, request.match_info["root"]))


# hosting, and with whom one deals


async def _change_run(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    return as_json(await controls.change_run(run, await body_of(request, RunChange)))


async def _create_invite(controls: Controls, request: web.Request) -> web.Response:
    run = _run_of(controls, request)
    return as_json(await controls.create_invite(run, await body_of(request, InviteRequest)))


async def _invites(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.invites(_run_of(controls, request)))


async def _revoke_invite(controls: Controls, request: web.Request) -> web.Response:
    invite = request.match_info["invite"]
    return as_json(await controls.revoke_invite(_run_of(controls, request), invite))


async def _members(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.members(_run_of(controls, request)))


async def _ban(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.ban(_run_of(controls, request), request.match_info["peer"]))


async def _unban(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.unban(_run_of(controls, request), request.match_info["peer"]))


async def _block(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.block(_run_of(controls, request), request.match_info["peer"]))


async def _unblock(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.unblock(_run_of(controls, request), request.match_info["peer"]))


def _run_of(controls: Controls, request: web.Request) -> str:
    return find_run(controls.runs(), request.match_info["run"]).run


def _run_if_named(controls: Controls, request: web.Request) -> str | None:
    reference = request.query.get("run")
    return None if reference is None else find_run(controls.runs(), reference).run


# peers and figures over time


async def _peers(controls: Controls, request: web.Request) -> web.Response:
    limit = number_of(request, "limit", MOST_PEERS, 1, MOST_PEERS)
    order = _order_of(request.query.get("sort", ""))
    found = controls.peers(_run_if_named(controls, request))
    if wanted := request.query.get("q", "").strip().casefold():
        found = [peer for peer in found if _matches(peer, wanted)]
    if order is not None:
        found = _sorted(found, *order)
    return as_json(found[:limit])


def _order_of(text: str) -> tuple[str, bool] | None:
    """Return the field to sort by and whether downwards; None where no order is asked for."""
    field = text.removeprefix("-")
    if text and field not in _SORTS:
        hint = f"Choose one of: {', '.join(_SORTS)}; with - before it, the largest comes first."
        raise RefusedError(400, "bad_request", "peers can't be sorted by that", hint)
    return (field, text.startswith("-")) if text else None


def _sorted(peers: list[Peer], field: str, downwards: bool) -> list[Peer]:
    """Sort by a field; peers of which it isn't known come last, whichever way."""
    known = [peer for peer in peers if getattr(peer, field) is not None]
    known.sort(key=lambda peer: (getattr(peer, field), peer.id), reverse=downwards)
    return known + [peer for peer in peers if getattr(peer, field) is None]


def _matches(peer: Peer, wanted: str) -> bool:
    texts = (peer.name, peer.id, peer.state, peer.standing, peer.device)
    return any(wanted in text.casefold() for text in texts)


async def _series(controls: Controls, request: web.Request) -> web.Response:
    metric = request.match_info["metric"]
    if metric not in get_args(Metric):
        hint = f"There are: {', '.join(get_args(Metric))}."
        raise RefusedError(404, "not_found", "there is no history of that", hint)
    points = number_of(request, "points", DEFAULT_POINTS, 1, MOST_POINTS)
    run, since = _run_if_named(controls, request), _since_of(request)
    return as_json(await controls.series(cast("Metric", metric), run, since, points))


def _since_of(request: web.Request) -> float:
    try:
        since = float(request.query.get("since", "0"))
    except ValueError:
        since = math.nan
    if not 0 <= since <= LATEST_SECONDS:
        raise RefusedError(
            400, "bad_request", "since is a time in seconds since 1970", "0 is the beginning."
        )
    return since


# this machine


async def _checkpoints(controls: Controls, _: web.Request) -> web.Response:
    return as_json(await controls.checkpoints())


async def _export_checkpoint(controls: Controls, request: web.Request) -> web.Response:
    wanted = await body_of(request, ExportRequest)
    checkpoint = request.match_info["checkpoint"]
    return as_json(await controls.export_checkpoint(checkpoint, wanted))


async def _config(controls: Controls, _: web.Request) -> web.Response:
    return as_json(await controls.config())


async def _set_config(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.set_config(await body_of(request, ConfigPatch)))


async def _devices(controls: Controls, _: web.Request) -> web.Response:
    return as_json(await controls.devices())


async def _logs(controls: Controls, request: web.Request) -> web.Response:
    lines = number_of(request, "lines", 200, 1, MAX_LOG_LINES)
    return as_json(await asyncio.to_thread(controls.logs, lines))


async def _diagnostics(controls: Controls, request: web.Request) -> web.Response:
    return as_json(await controls.diagnostics(await body_of(request, DiagnosticsRequest)))


async def _shutdown(controls: Controls, _: web.Request) -> web.Response:
    controls.request_shutdown()
    return as_json({})
