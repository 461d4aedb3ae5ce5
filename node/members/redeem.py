"""Opening a join link: the manifest behind it, and by an invite a membership too."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from dht.swarm import NetworkError, Swarm
from node.members.admission import REDEEM_SECONDS
from node.members.members import RunMembers
from node.store.run_folder import RunFolder
from node.store.storage import StateError
from node.transfer.sources import Sources
from node.transfer.transfer import fetch_manifest
from protocol.codec import encode
from protocol.errors import LinkError, ManifestError, NotMemberError, ProtocolError, TalkootError
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

log = logging.getLogger(__name__)

_WORTH_ASKING_ON = frozenset({"refused", "not_a_steward"})


@dataclass(frozen=True, slots=True)
class OpenedLink:
    """What is behind a join link: the manifest's envelope, and what an invite has brought."""

    link: JoinLink
    manifest: bytes
    admission: Admission | None = None

    @property
    def seen(self) -> tuple[int, int | None]:
        """How many peers an invite shows, and the round that they are in."""
        return (self.admission.peers, self.admission.round) if self.admission else (0, None)


async def open_link(
    swarm: Swarm, link: JoinLink, known: bytes | None, *, belongs: bool, enter: bool
) -> OpenedLink:
    """Return what is behind a link.

    Args:
        swarm: the network.
        link: what a person gave.
        known: the manifest's envelope, where this node has it already.
        belongs: whether this node is in the run.
        enter: whether to redeem an invite, where one is needed.

    Raises:
        InviteError, NotMemberError: the invite lets nobody in any more.
        FetchError, NetworkError: nobody has the manifest, or nobody answers.
    """
    peers = await swarm.connect(link.peers)
    if link.invite and not belongs:
        admission = await redeem(swarm, link, peers, enter=enter)
        return OpenedLink(link, admission.manifest, admission)
    if known:
        return OpenedLink(link, known)
    if not peers:
        raise _nobody_answers(link)
    return OpenedLink(link, await fetch_manifest(Sources(swarm, link.run, peers)))


def known_manifest(folder: RunFolder, run: bytes) -> bytes | None:
    """Return the manifest on disk, of a run that this node founded, joined or left."""
    try:
        envelope = folder.manifest()
        if envelope is not None:
            open_manifest(envelope, run)
    except (StateError, ManifestError) as error:
        log.info("the manifest of %s is fetched anew: %s", run.hex()[:12], error)
        return None
    return envelope


def _nobody_answers(link: JoinLink) -> NetworkError:
    return NetworkError(
        f"none of the link's {len(link.peers)} peers answers",
        hint="They may be offline, or behind a firewall. Ask for a fresh link.",
    )


async def redeem(swarm: Swarm, link: JoinLink, peers: list[PeerId], *, enter: bool) -> Admission:
    """Return what the first of `peers` that may let us in says.

    Args:
        swarm: the network.
        link: with an invite.
        peers: those of the link's peers that answer.
        enter: whether to become a member; else the run is only looked at.

    Raises:
        InviteError, NotMemberError: it is good no more, or nobody who may admit is there.
        ManifestError: what they show is not this run's, or of a later version.
        NetworkError: nobody answers.
    """
    secret, expires = link.invite, link.expires
    if secret is None or expires is None:
        raise LinkError("the link holds no invite", hint="Ask the host for one.")
    failure: TalkootError = _nobody_answers(link)
    for peer in peers:
        try:
            reply = await _ask(swarm, peer, link.run, (secret, expires), enter=enter)
            if isinstance(reply, Admission):
                open_manifest(reply.manifest, link.run)
                return reply
        except ManifestError as error:
            failure = error
            continue
        except (NetworkError, ProtocolError, TimeoutError):
            continue
        failure = refusal_of(reply.reason)
        if reply.reason not in _WORTH_ASKING_ON:
            break
    raise failure


async def may_take_part(members: RunMembers, *, load: bool) -> bool:
    """Return whether this node is let into a run already, by what it has on disk with `load`."""
    try:
        if load:
            await members.load()
        members.check()
    except NotMemberError:
        return False
    return not members.is_banned


async def keep(members: RunMembers, admission: Admission) -> None:
    """Write what an admission brings, beside what is known: certificate, charter, key, members.

    Raises:
        ProtocolError: it isn't one.
        StateError: it can't be written.
    """
    with suppress(NotMemberError):
        await members.load()
    if admission.charter:
        members.register.adopt(admission.charter, admission.key)
    if admission.passport:
        members.register.welcome(admission.passport)
    members.register.welcome_all(admission.roster)
    members.check()
    await members.save()
    members.changed.set()


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
