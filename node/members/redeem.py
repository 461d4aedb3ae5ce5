"""Redeeming an invite: asking the link's peers for the run behind it, and to be let in."""

import asyncio

from dht.swarm import NetworkError, Swarm
from node.members.admission import REDEEM_SECONDS
from protocol.codec import encode
from protocol.errors import LinkError, ProtocolError, TalkootError
from protocol.identity import PeerId
from protocol.invites import (
    ADMISSION_BYTES,
    INVITE_PROTOCOL,
    Admission,
    InviteSecret,
    RedeemReply,
    ask_with,
    read_redeem_reply,
    refusal_of,
)
from protocol.link import JoinLink
from protocol.manifest import open_manifest

_WORTH_ASKING_ON = frozenset({"refused", "not_a_steward"})


async def redeem(swarm: Swarm, link: JoinLink, peers: list[PeerId], *, enter: bool) -> Admission:
    """Return what the first of `peers` that may let us in says.

    Args:
        swarm: the network.
        link: with an invite.
        peers: those of the link's peers that answer.
        enter: whether to become a member; else the run is only looked at.

    Raises:
        InviteError, NotMemberError: it is good no more, or nobody who may admit is there.
        NetworkError: nobody answers.
    """
    secret, expires = link.invite, link.expires
    if secret is None or expires is None:
        raise LinkError("the link holds no invite", hint="Ask the host for one.")
    failure: TalkootError = NetworkError(
        f"none of the link's {len(link.peers)} peers answers",
        hint="They may be offline, or behind a firewall. Ask for a fresh link.",
    )
    for peer in peers:
        try:
            reply = await _ask(swarm, peer, link.run, (secret, expires), enter=enter)
        except (NetworkError, ProtocolError, TimeoutError):
            continue
        if isinstance(reply, Admission):
            open_manifest(reply.manifest, link.run)
            return reply
        failure = refusal_of(reply.reason)
        if reply.reason not in _WORTH_ASKING_ON:
            break
    raise failure


async def _ask(
    swarm: Swarm, peer: PeerId, run: bytes, invite: tuple[InviteSecret, int], *, enter: bool
) -> RedeemReply:
    secret, expires = invite
    async with asyncio.timeout(REDEEM_SECONDS):
        stream = await swarm.open(peer, INVITE_PROTOCOL, ADMISSION_BYTES)
        try:
            asked = ask_with(secret, expires, run, swarm.peer_id, peer, enter=enter)
            await stream.send(encode(asked))
            return read_redeem_reply(await stream.receive())
        finally:
            await stream.close()
