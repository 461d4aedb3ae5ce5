"""A private run among friends: its members, its invites, and what its host does."""

import time
from hashlib import sha256

from msgspec.structs import replace

from benches.gui_node.swarm import RUN
from protocol.control import Peer
from protocol.hosting import Invite, InviteRequest, Member
from protocol.identity import peer_id_of
from protocol.link import JoinLink
from protocol.references import find_invite

_NAMES = ("amber-otter", "quiet-heron", "blue-walnut", "lucky-badger", "grey-fox", "solar-eagle")
_DAY = 86_400.0
_SECRET = "kqM3v0x1TnYy2u7c9bQe5w"  # noqa: S105 - nobody's


def _id(name: str) -> str:
    return peer_id_of(sha256(name.encode()).digest())


def friends(now: float) -> list[Member]:
    """Return the members of a run that is some days old, the host first."""
    host = Member(peer=_id(_NAMES[0]), name=_NAMES[0], station="host", me=True, online=True)
    others = [
        Member(
            peer=_id(name),
            name=name,
            station="steward" if name == "quiet-heron" else "member",
            online=name not in {"lucky-badger", "grey-fox"},
            banned=name == "grey-fox",
            admitted=now - (6 - place) * _DAY,
            admitted_by=_id(_NAMES[1] if place > 3 else _NAMES[0]),
            expires=now + 25 * _DAY if place > 3 else None,
        )
        for place, name in enumerate(_NAMES)
        if place
    ]
    return [host, *others]


class FriendsRun:
    """Invites and members, kept as long as the node runs."""

    def __init__(self) -> None:
        now = time.time()
        self.members = friends(now)
        self.invites = [
            _invite("f31c70a2", 5, 2, now - _DAY, 7 * _DAY),
            replace(_invite("08d2b96e", 1, 1, now - 5 * _DAY, 7 * _DAY), role="steward"),
            replace(_invite("b5571e04", 10, 1, now - 6 * _DAY, 30 * _DAY), revoked=True),
        ]

    def create(self, wanted: InviteRequest) -> Invite:
        name = sha256(str(len(self.invites)).encode()).hexdigest()[:8]
        made = replace(_invite(name, wanted.uses, 0, time.time(), wanted.for_s), role=wanted.role)
        self.invites.insert(0, made)
        return made

    def revoke(self, invite: str) -> Invite:
        wanted = find_invite([each.id for each in self.invites], invite)
        self.invites = [
            replace(each, revoked=True) if each.id == wanted else each for each in self.invites
        ]
        return next(each for each in self.invites if each.id == wanted)

    def ban(self, peer: str, *, banned: bool) -> Member:
        self.members = [
            replace(each, banned=banned) if each.peer == peer else each for each in self.members
        ]
        return next(each for each in self.members if each.peer == peer)


def block(peers: list[Peer], peer: str, *, blocked: bool) -> Peer:
    """Return a peer of the crowd as if it were (or weren't) blocked."""
    return replace(next(each for each in peers if each.id == peer), blocked=blocked)


def _invite(name: str, uses: int, used: int, created: float, for_s: float) -> Invite:
    address = f"/ip4/203.0.113.7/tcp/4001/p2p/{_id(_NAMES[0])}"
    link = str(JoinLink(bytes.fromhex(RUN), "letters-to-grandma", (address,)))
    return Invite(
        id=name,
        link=link.replace("&c=", f"&k={_SECRET}&x={created + for_s:.0f}&c="),
        role="member",
        uses=uses,
        used=used,
        created=created,
        expires=created + for_s,
    )
