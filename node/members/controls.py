"""What a host, and who would rather not deal with somebody, can ask of a node's runs."""

import time
from abc import ABC, abstractmethod

from msgspec.structs import replace

from node.api.activity import ActivityLog
from node.api.chronicle import admitted
from node.members.authority import invite_id
from node.members.members import MAX_BLOCKED, KeptInvite
from node.run.session import Session
from node.store.storage import StateError
from protocol.control import Peer, RunStatus
from protocol.errors import NotHostError
from protocol.hosting import Invite, InviteRequest, Member, RunChange, Station
from protocol.identity import PeerId
from protocol.references import NoSuchPeerError, find_peer


class HostingControls(ABC):
    """Answers for invites, members, bans and blocks; `node.app.Node` adds the rest."""

    activity: ActivityLog

    @abstractmethod
    def session(self, run: str) -> Session:
        """Return the session of a run, by its id in hex."""

    def note_joined(self, session: Session, peer: PeerId) -> None:
        """Tell the host that a peer has joined."""
        if session.is_host:
            name = session.names().get(peer, "")
            self.activity.add(admitted(session.status(), peer, name, time.time()))

    async def change_run(self, run: str, change: RunChange) -> RunStatus:
        """Change what the host may change of a run for everybody. Raises NotHostError."""
        session = self.session(run)
        await session.affairs.authority.pause(paused=change.paused)
        session.affairs.obey()
        return session.status()

    async def create_invite(self, run: str, wanted: InviteRequest) -> Invite:
        """Make an invite. Raises NotHostError, NotPrivateError."""
        session = self.session(run)
        return _shown(session, await session.affairs.authority.invite(wanted))

    async def invites(self, run: str) -> list[Invite]:
        """Return the invites that this node made, newest first. Raises NotHostError."""
        session = self.session(run)
        if not session.is_host:
            raise NotHostError("see its invites")
        made = reversed(session.affairs.members.invites.values())
        return [_shown(session, invite) for invite in made]

    async def revoke_invite(self, run: str, invite: str) -> Invite:
        """Let nobody join by an invite any more. Raises NotHostError, UnknownInviteError."""
        session = self.session(run)
        return _shown(session, await session.affairs.authority.revoke(invite))

    async def members(self, run: str) -> list[Member]:
        """Return who was let in, the host first; in an open run, who is there or banned."""
        session = self.session(run)
        members = session.affairs.members
        register = members.register
        found = {members.me, *session.affairs.present(), *register.banned, *register.named}
        if register.is_private:
            found = {*register.certificates, *register.banned, *register.named}
        shown = [self._member(session, peer) for peer in found]
        ranks: dict[Station, int] = {"host": 0, "steward": 1, "member": 2}
        return sorted(shown, key=lambda each: (ranks[each.station], each.banned, each.peer))

    async def ban(self, run: str, peer: str) -> Member:
        """Shut a peer out of a run. Raises NotHostError, NoSuchPeerError."""
        session = self.session(run)
        found = self._find(session, peer)
        await session.affairs.authority.ban(found)
        return self._member(session, found)

    async def unban(self, run: str, peer: str) -> Member:
        """Take a ban back. Raises NotHostError, NoSuchPeerError."""
        session = self.session(run)
        found = self._find(session, peer)
        await session.affairs.authority.unban(found)
        return self._member(session, found)

    async def block(self, run: str, peer: str) -> Peer:
        """Have no dealings with a peer any more, on this node. Raises NoSuchPeerError."""
        return await self._set_blocked(run, peer, blocked=True)

    async def unblock(self, run: str, peer: str) -> Peer:
        """Deal with a blocked peer again. Raises NoSuchPeerError."""
        return await self._set_blocked(run, peer, blocked=False)

    async def _set_blocked(self, run: str, peer: str, *, blocked: bool) -> Peer:
        session = self.session(run)
        found, members = self._find(session, peer), session.affairs.members
        if found == members.me:
            raise NoSuchPeerError("a node can't block itself", hint="To end its part: leave.")
        if blocked and len(members.blocked) >= MAX_BLOCKED:
            raise StateError(f"{MAX_BLOCKED} peers are blocked already", hint="Unblock some.")
        shown = {each.id: each for each in session.peers()}
        if blocked:
            members.blocked.add(found)
        else:
            members.blocked.discard(found)
        await members.save()
        members.changed.set()
        shown |= {each.id: each for each in session.peers()}
        bare = Peer(id=found, name=session.names().get(found, ""), run=run)
        return replace(shown.get(found, bare), blocked=blocked)

    def _find(self, session: Session, reference: str) -> PeerId:
        members, names = session.affairs.members, session.names()
        register = members.register
        peers = {*register.certificates, *register.named, *register.banned, *members.blocked}
        known: dict[str, str] = {peer: names.get(peer, "") for peer in peers | names.keys()}
        return PeerId(find_peer(known, reference))

    def _member(self, session: Session, peer: PeerId) -> Member:
        members = session.affairs.members
        register, signed = members.register, members.register.certificates.get(peer)
        station: Station = "steward" if register.may_admit(peer, members.clock()) else "member"
        certificate = signed.message if signed else None
        return Member(
            peer=peer,
            name=session.names().get(peer, ""),
            station="host" if peer == register.host else station,
            me=peer == members.me,
            online=peer == members.me or peer in session.affairs.present(),
            banned=peer in register.banned,
            admitted=certificate.admitted if certificate else None,
            admitted_by=signed.signer if signed else "",
            invite=invite_id(certificate.invite) if certificate else "",
            expires=certificate.expires if certificate else None,
        )


def _shown(session: Session, invite: KeptInvite) -> Invite:
    register = session.affairs.members.register
    revoked = register.charter.message.revoked if register.charter else ()
    return Invite(
        id=invite_id(invite.key),
        link=session.invite_link(invite),
        role=invite.role,
        uses=invite.uses,
        used=register.uses(invite.key),
        created=invite.created,
        expires=invite.expires,
        revoked=invite.key in revoked,
    )
