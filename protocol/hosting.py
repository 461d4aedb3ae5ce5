"""The control API's vocabulary for who hosts a run: invites, members, bans, a pause for all."""

from typing import Annotated, Literal

from msgspec import Meta

from protocol.control import LONGEST_FOR_S, Reply, Request

MOST_USES = 1000
INVITE_SECONDS = 7 * 86_400.0
"""How long an invite is good for unless its host says otherwise."""

Role = Literal["member", "steward"]
"""What an invite makes of who redeems it; a steward may admit others while the host is away."""
Station = Literal["host", "steward", "member"]
InviteState = Literal["open", "used up", "expired", "revoked"]


class InviteRequest(Request, frozen=True, kw_only=True):
    """An invite to make, to a run whose admission is by invite."""

    uses: Annotated[int, Meta(ge=1, le=MOST_USES)] = 1
    """How many peers may join by it."""
    for_s: Annotated[float, Meta(gt=0, le=LONGEST_FOR_S)] = INVITE_SECONDS
    role: Role = "member"


class Invite(Reply, frozen=True, kw_only=True):
    """An invite that this node made, with the secret link: for the control scope only."""

    id: str
    """Names it to `DELETE runs/{run}/invites/{id}`; tells nothing of the secret."""
    link: str
    role: Role
    uses: int
    used: int
    """How many peers have joined by it, as far as this node knows."""
    created: float
    """Seconds since 1970."""
    expires: float
    revoked: bool = False


class Member(Reply, frozen=True, kw_only=True):
    """Somebody who was let in, or in an open run, who is there now or banned."""

    peer: str
    """The PeerID."""
    name: str = ""
    """As it last called itself; empty = not heard of."""
    station: Station
    me: bool = False
    online: bool = False
    banned: bool = False
    """By the host."""
    admitted: float | None = None
    """When, in seconds since 1970; None = it needed no admission."""
    admitted_by: str = ""
    """The PeerID of the host or steward that admitted it."""
    invite: str = ""
    """The id of the invite by which it came."""
    expires: float | None = None
    """When its membership ends; None = not by itself."""


class RunChange(Request, frozen=True, kw_only=True):
    """What the host changes of a run for everybody."""

    paused: bool


def state_of(invite: Invite, now: float) -> InviteState:
    """Return whether somebody can join by an invite at `now` (seconds since 1970), or why not."""
    if invite.revoked:
        return "revoked"
    if invite.used >= invite.uses:
        return "used up"
    return "expired" if invite.expires <= now else "open"
