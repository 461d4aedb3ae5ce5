"""The answer to who shows an invite: the run, and for who enters a certificate and all keys."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from dht.fence.refusals import RefusedRequestError
from dht.swarm import NetworkError, Stream, Swarm
from node.members.members import RunMembers
from protocol.codec import encode
from protocol.errors import ProtocolError
from protocol.identity import Identity, PeerId
from protocol.invites import (
    ADMISSION_BYTES,
    INVITE_PROTOCOL,
    REDEEM_BYTES,
    Admission,
    InviteTerms,
    NotAdmitted,
    RedeemReply,
    Refusal,
    check_redeem,
    read_redeem,
)
from protocol.membership import MAX_ROSTER, Certificate, Passport
from protocol.signing import seal

log = logging.getLogger(__name__)

REDEEM_SECONDS = 10.0
"""For the question to come, and for the answer to leave."""


class Admitter:
    """Lets peers into one run, if this node may.

    Args:
        members: who belongs to it.
        identity: this peer.
        manifest: the envelope to show.
        seen: returns how many peers are there now, and the round that they are in.
    """

    def __init__(
        self,
        members: RunMembers,
        identity: Identity,
        manifest: bytes,
        seen: Callable[[], tuple[int, int]],
    ) -> None:
        self._members = members
        self._identity = identity
        self._manifest = manifest
        self._seen = seen

    @property
    def host(self) -> PeerId:
        """Whose invites count."""
        return self._members.register.host

    def answer(self, terms: InviteTerms, peer: PeerId, *, enter: bool) -> RedeemReply:
        """Answer to a peer that has shown a valid invite of this run's host."""
        refusal = self._refusal(terms, peer, enter=enter)
        if refusal:
            return NotAdmitted(reason=refusal)
        peers, round_ = self._seen()
        if not enter:
            return Admission(manifest=self._manifest, peers=peers, round=round_)
        self._admit(terms, peer)
        affairs, register = self._members.affairs(), self._members.register
        return Admission(
            manifest=self._manifest,
            peers=peers,
            round=round_,
            passport=register.passport(peer),
            charter=affairs.charter,
            key=affairs.key,
            roster=affairs.roster,
        )

    def _refusal(self, terms: InviteTerms, peer: PeerId, *, enter: bool) -> Refusal | None:
        register, now = self._members.register, self._members.clock()
        revoked = register.charter.message.revoked if register.charter else ()
        if peer not in register.banned and self._belongs(peer):
            return None
        refusals: dict[Refusal, bool] = {
            "banned": peer in register.banned,
            "expired": terms.expires <= now,
            "revoked": terms.key in revoked,
            "used_up": register.uses(terms.key) >= terms.uses,
            "full": len(register.certificates) >= MAX_ROSTER,
            "not_a_steward": enter and not self._may_admit(terms),
        }
        return next((reason for reason, holds in refusals.items() if holds), None)

    def _belongs(self, peer: PeerId) -> bool:
        register = self._members.register
        return peer in register.named or register.is_member(peer, self._members.clock())

    def _may_admit(self, terms: InviteTerms) -> bool:
        register, me = self._members.register, self._members.me
        if terms.role == "steward":
            return me == register.host
        return register.may_admit(me, self._members.clock())

    def _admit(self, terms: InviteTerms, peer: PeerId) -> None:
        if self._belongs(peer):
            return
        register, now = self._members.register, self._members.clock()
        certificate = Certificate(peer=peer, role=terms.role, invite=terms.key, admitted=now)
        envelope = seal(self._identity, self._members.run, certificate).envelope
        own = register.passport(self._members.me).certificate
        register.welcome(Passport(certificate=envelope, issuer=own))
        self._members.changed.set()
        log.info("let %s in", peer)


class Reception:
    """Answers, while its context lasts, who shows an invite to a run of this node.

    Whoever shows none gets the same answer whether the run is here or not.
    """

    def __init__(self, swarm: Swarm, admitters: Mapping[bytes, Admitter]) -> None:
        self._swarm = swarm
        self._admitters = admitters

    async def __aenter__(self) -> "Reception":
        await self._swarm.serve(INVITE_PROTOCOL, REDEEM_BYTES, self._handle)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self._swarm.unserve(INVITE_PROTOCOL)
        except NetworkError:  # a network that is gone serves nothing
            return

    async def _handle(self, stream: Stream) -> None:
        async with asyncio.timeout(REDEEM_SECONDS):
            frame = await stream.receive()
        reply = self._reply(frame, stream.peer)
        stream.allow(ADMISSION_BYTES)
        async with asyncio.timeout(REDEEM_SECONDS):
            await stream.send(encode(reply))

    def _reply(self, frame: bytes, peer: PeerId) -> RedeemReply:
        request = read_redeem(frame)
        admitter, me = self._admitters.get(request.run), self._swarm.peer_id
        try:  # of a run that isn't here too, so that it takes as long
            check_redeem(request, admitter.host if admitter else me, peer, me)
        except ProtocolError as error:
            self._swarm.report(peer, RefusedRequestError("bad_invite", error.message))
            return NotAdmitted(reason="refused")
        if admitter is None:
            return NotAdmitted(reason="refused")
        return admitter.answer(request.terms, peer, enter=request.enter)
