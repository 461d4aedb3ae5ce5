"""What only the host can do: found the membership, invite, ban, pause; each by a new charter."""

import os
from collections.abc import Sized

from msgspec.structs import replace

from node.members.members import MAX_INVITES, KeptInvite, RunMembers, key_hash
from protocol.errors import NotHostError, NotPrivateError, TalkootError
from protocol.hosting import InviteRequest
from protocol.identity import Identity, PeerId
from protocol.invites import make_invite
from protocol.membership import MAX_ROSTER, Charter
from protocol.references import find_invite
from protocol.signing import seal

_ID_BYTES = 6


class TooManyError(TalkootError):
    """A list of the run is full."""

    code = "list_full"


class BannedHostError(TalkootError):
    """A host that would ban itself."""

    code = "bans_itself"


def invite_id(key: bytes) -> str:
    """Return what names the invite with this public key to people."""
    return key[:_ID_BYTES].hex()


class Authority:
    """The host's powers over `members`, if `identity` is the host.

    Whatever changes is on disk before a call returns.
    """

    def __init__(self, members: RunMembers, identity: Identity) -> None:
        self._members = members
        self._identity = identity

    async def found(self) -> None:
        """Make a private run's first charter and key, where this host has none."""
        if self._members.register.is_private and self._members.register.charter is None:
            await self._decree(Charter(number=1), rotate=True)

    async def invite(self, wanted: InviteRequest) -> KeptInvite:
        """Make an invite.

        Raises:
            NotHostError, NotPrivateError: there are no invites of this node to this run.
            TooManyError: there are so many that are still good.
        """
        self._check_host("invite others")
        members = self._members
        if not members.register.is_private:
            raise NotPrivateError
        now = members.clock()
        self._forget_old(now)
        expires = int(now + wanted.for_s)
        seed = os.urandom(32)
        secret = make_invite(self._identity, members.run, seed, wanted.uses, wanted.role, expires)
        kept = KeptInvite(seed, wanted.uses, wanted.role, now, expires, secret.signature)
        members.invites[kept.key] = kept
        await members.save()
        return kept

    async def revoke(self, reference: str) -> KeptInvite:
        """Let nobody come by an invite any more. Raises NotHostError, UnknownInviteError."""
        self._check_host("take an invite back")
        invites = {invite_id(key): key for key in self._members.invites}
        key = invites[find_invite(invites, reference.casefold())]
        revoked = self._charter.revoked
        if key not in revoked:
            _check_room(revoked, "invites are taken back")
            await self._decree(replace(self._charter, revoked=(*revoked, key)))
        return self._members.invites[key]

    async def ban(self, peer: PeerId) -> None:
        """Shut `peer` out for everybody; a private run gets another key. Raises NotHostError."""
        self._check_host("ban")
        if peer == self._identity.peer_id:
            raise BannedHostError(
                "a host can't ban itself", hint="To end its part: talkoot leave, or host pause."
            )
        banned = self._charter.banned
        if peer not in banned:
            _check_room(banned, "peers are banned")
            changed = replace(self._charter, banned=(*banned, peer))
            await self._decree(changed, rotate=self._members.register.is_private)

    async def unban(self, peer: PeerId) -> None:
        """Take a ban back. Raises NotHostError."""
        self._check_host("take a ban back")
        banned = self._charter.banned
        if peer in banned:
            left = tuple(each for each in banned if each != peer)
            await self._decree(replace(self._charter, banned=left))

    async def pause(self, *, paused: bool) -> None:
        """Pause the run for everybody, or let it go on. Raises NotHostError."""
        self._check_host("pause or resume the run")
        if self._charter.paused != paused:
            await self._decree(replace(self._charter, paused=paused))

    @property
    def _charter(self) -> Charter:
        signed = self._members.register.charter
        return signed.message if signed else Charter(number=1)

    async def _decree(self, charter: Charter, *, rotate: bool = False) -> None:
        register = self._members.register
        key = os.urandom(32) if rotate else register.key
        number = register.charter.message.number + 1 if register.charter else 1
        charter = replace(charter, number=number, key_hash=key_hash(key) if key else None)
        register.adopt(seal(self._identity, self._members.run, charter).envelope, key)
        self._members.changed.set()
        await self._members.save()

    def _check_host(self, what: str) -> None:
        if self._identity.peer_id != self._members.register.host:
            raise NotHostError(what)

    def _forget_old(self, now: float) -> None:
        invites = self._members.invites
        for key in [key for key, each in invites.items() if each.expires <= now]:
            if len(invites) >= MAX_INVITES:
                del invites[key]
        if len(invites) >= MAX_INVITES:
            raise TooManyError(
                f"{MAX_INVITES} invites to this run are still good",
                hint="Make one with more uses, or wait until some have expired.",
            )


def _check_room(listed: Sized, what: str) -> None:
    if len(listed) >= MAX_ROSTER:
        hint = "Found another run, and invite to that one whom you trust."
        raise TooManyError(f"{MAX_ROSTER} {what} already", hint=hint)
