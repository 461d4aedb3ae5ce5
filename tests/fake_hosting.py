"""What the fake node knows of invites, members, bans and blocks: it does as it is told."""

import time
from collections.abc import Iterator

from msgspec.structs import replace

from protocol.control import Peer, RunStatus
from protocol.errors import NotHostError, NotPrivateError
from protocol.hosting import Invite, InviteRequest, Member, RunChange
from protocol.references import find_invite, find_peer

INVITE_LINK = "talkoot:?v=1&r={run}&n=mine&p=/ip4/127.0.0.1/tcp/1/p2p/x&k=s3cret{number}&c=0"
HOST = Member(peer="12D3KooWMe", name="solar-eagle", station="host", me=True, online=True)
MEMBER = Member(
    peer="12D3KooWPeer",
    name="amber-otter",
    station="member",
    online=True,
    admitted=1.7e9,
    admitted_by="12D3KooWMe",
    invite="1nv1te",
)


class FakeHosting:
    """The part of `FakeControls` that hosts; a run that it doesn't host is refused as a node would.

    `listed`, `others`, `known` and `_ask` are the fake node's.
    """

    listed: Peer
    others: list[Peer]
    known: list[RunStatus]

    def __init__(self) -> None:
        self.invited: list[Invite] = []
        self.admitted: list[Member] = [HOST, MEMBER]
        self.no_invites: Exception | None = None
        """Why none can be made."""

    async def change_run(self, run: str, change: RunChange) -> RunStatus:
        self._ask("change_run", run, change)
        self._check_host(run, "pause it for everybody")
        self.known = [
            replace(each, host_paused=change.paused) if each.run == run else each
            for each in self.known
        ]
        return self._run(run)

    async def create_invite(self, run: str, wanted: InviteRequest) -> Invite:
        self._ask("create_invite", run, wanted)
        if self.no_invites is not None:
            raise self.no_invites
        self._check_host(run, "make invites")
        if self._run(run).admission != "invite":
            raise NotPrivateError
        number, now = len(self.invited), time.time()
        made = Invite(
            id=f"{number:x}".rjust(2, "a") * 4,
            link=INVITE_LINK.format(run=run, number=number),
            role=wanted.role,
            uses=wanted.uses,
            used=0,
            created=now,
            expires=now + wanted.for_s,
        )
        self.invited.insert(0, made)
        return made

    async def invites(self, run: str) -> list[Invite]:
        self._ask("invites", run)
        self._check_host(run, "see its invites")
        return list(self.invited)

    async def revoke_invite(self, run: str, invite: str) -> Invite:
        self._ask("revoke_invite", run, invite)
        self._check_host(run, "revoke invites")
        wanted = find_invite([each.id for each in self.invited], invite)
        at = next(place for place, each in enumerate(self.invited) if each.id == wanted)
        self.invited[at] = replace(self.invited[at], revoked=True)
        return self.invited[at]

    async def members(self, run: str) -> list[Member]:
        self._ask("members", run)
        return list(self.admitted)

    async def ban(self, run: str, peer: str) -> Member:
        self._ask("ban", run, peer)
        return self._set_ban(run, peer, banned=True)

    async def unban(self, run: str, peer: str) -> Member:
        self._ask("unban", run, peer)
        return self._set_ban(run, peer, banned=False)

    async def block(self, run: str, peer: str) -> Peer:
        self._ask("block", run, peer)
        return self._set_block(peer, blocked=True)

    async def unblock(self, run: str, peer: str) -> Peer:
        self._ask("unblock", run, peer)
        return self._set_block(peer, blocked=False)

    def _set_ban(self, run: str, peer: str, *, banned: bool) -> Member:
        self._check_host(run, "ban a peer")
        wanted = find_peer({each.peer: each.name for each in self.admitted}, peer)
        self.admitted = [
            replace(each, banned=banned) if each.peer == wanted else each for each in self.admitted
        ]
        self._change_peer(wanted, host_banned=banned)
        return next(each for each in self.admitted if each.peer == wanted)

    def _set_block(self, peer: str, *, blocked: bool) -> Peer:
        wanted = find_peer({each.id: each.name for each in self._all_peers()}, peer)
        self._change_peer(wanted, blocked=blocked)
        return next(each for each in self._all_peers() if each.id == wanted)

    def _all_peers(self) -> Iterator[Peer]:
        yield self.listed
        yield from self.others

    def _change_peer(self, peer: str, **changes: bool) -> None:
        if self.listed.id == peer:
            self.listed = replace(self.listed, **changes)
        self.others = [
            replace(each, **changes) if each.id == peer else each for each in self.others
        ]

    def _run(self, run: str) -> RunStatus:
        return next(each for each in self.known if each.run == run)

    def _check_host(self, run: str, what: str) -> None:
        if self._run(run).role != "host":
            raise NotHostError(what)

    def _ask(self, *call: object) -> None:
        raise NotImplementedError
