"""Answers as JSON, errors among them, and what is read of a request."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from node.api.refusals import BadPathError, NoSuchCheckpointError, NotPermittedError, RefusedError
from protocol.codec import UNREADABLE
from protocol.control import Failure, Request
from protocol.errors import (
    InviteError,
    InviteExpiredError,
    InviteUsedUpError,
    NotHostError,
    NotMemberError,
    NotPrivateError,
    TalkootError,
)
from protocol.references import (
    AmbiguousPeerError,
    AmbiguousRunError,
    NoSuchEvidenceError,
    NoSuchPeerError,
    NoSuchRunError,
    UnknownInviteError,
)

MAX_BODY_BYTES = 64 << 10
BODY_SECONDS = 10.0

RequestT = TypeVar("RequestT", bound=Request)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ERRORS = web.AppKey("errors", Counter[str])
"""How many calls failed, by error code."""
log = logging.getLogger(__name__)

_NOT_FOUND = (
    NoSuchRunError,
    AmbiguousRunError,
    NoSuchPeerError,
    AmbiguousPeerError,
    NoSuchEvidenceError,
    NoSuchCheckpointError,
    UnknownInviteError,
)
_NOT_PERMITTED = (NotPermittedError, NotHostError, NotMemberError, InviteError)
_STATUS = {
    BadPathError.code: 400,
    NotPrivateError.code: 409,
    InviteExpiredError.code: 410,
    InviteUsedUpError.code: 410,
    **dict.fromkeys((kind.code for kind in _NOT_PERMITTED), 403),
    **dict.fromkeys((kind.code for kind in _NOT_FOUND), 404),
}
_OLDER = "Another version of talkoot may still run: talkoot down, then talkoot up -d"
_INTERNAL = Failure(
    code="internal_error",
    message="the node made a mistake in answering this",
    hint="See why with: talkoot logs",
)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into a `Failure`; a traceback goes to the log alone."""
    try:
        return await handler(request)
    except RefusedError as error:
        return _failure(request, error.status, error)
    except TalkootError as error:
        return _failure(request, _STATUS.get(error.code, 400), error)
    except web.HTTPException as error:
        return _failure(request, error.status, _refused(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        request.app[ERRORS][_INTERNAL.code] += 1
        return as_json(_INTERNAL, 500)


def _refused(error: web.HTTPException) -> RefusedError:
    status = error.status
    match status:
        case 404:
            return RefusedError(status, "not_found", "the control API has no such address", _OLDER)
        case 405:
            return RefusedError(
                status, "not_found", "this address doesn't take that method", _OLDER
            )
        case 413:
            message = f"the request is above {MAX_BODY_BYTES >> 10} KiB"
            return RefusedError(status, "too_large", message, "Ask for less at once.")
        case _:
            return RefusedError(status, "bad_request", error.reason, _OLDER)


def _failure(request: web.Request, status: int, error: TalkootError) -> web.Response:
    request.app[ERRORS][error.code] += 1
    return as_json(Failure(code=error.code, message=error.message, hint=error.hint), status)


def as_json(value: object, status: int = 200) -> web.Response:
    """Return `value` as an answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


async def body_of(request: web.Request, kind: type[RequestT]) -> RequestT:
    """Return what a request's body says.

    Raises:
        RefusedError: it doesn't come, or isn't a `kind`.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            data = await request.read()
        return msgspec.json.decode(data, type=kind)
    except (TimeoutError, web.RequestPayloadError) as error:
        raise RefusedError(
            408, "bad_request", "the request's body did not come", "Send it, then try again."
        ) from error
    except UNREADABLE as error:
        raise RefusedError(
            400, "bad_request", f"the request can't be read: {error}", _OLDER
        ) from error


def number_of(request: web.Request, name: str, otherwise: int, least: int, most: int) -> int:
    """Return a whole number from the query of a request.

    Raises:
        RefusedError: it isn't one from `least` to `most`.
    """
    text = request.query.get(name, str(otherwise))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= number <= most:
        message = f"{name} is a number from {least} to {most}"
        raise RefusedError(400, "bad_request", message, "Give another.")
    return number
