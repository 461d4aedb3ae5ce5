"""Who is here and where they stand: liveness, and the head that most peers stand on."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from protocol.codec import Message
from protocol.electorate import Electorate
from protocol.identity import PeerId
from protocol.proof_of_work import MAX_NONCE
from protocol.rollcall import RoundField
from protocol.signing import Bytes32

MAX_LIVE_PEERS = 1024
MAX_DEVICE_CHARACTERS = 40
GONE_SECONDS = 120.0
"""The last word of a peer that left is kept so long: an older one, still on its way, is no news."""
HOLDING_STATES = frozenset({"training", "committed", "exchanging", "agreeing"})
LISTENING_STATE = "joining"
FETCHING_STATE = "catching_up"
"""Such a peer names the head that it is fetching, not one that it holds."""
LEAVING_STATE = "leaving"


@dataclass(frozen=True, slots=True)
class Head:
    """An agreed state: its round, its root and the root it grew from."""

    round: int
    root: bytes
    prev_root: bytes


class Presence(Message, frozen=True):
    """A peer says that it is here, where it stands, and how it can be reached."""

    at: Annotated[float, Meta(ge=0)]
    """DHT time; an old presence can't be replayed."""
    name: Annotated[str, Meta(max_length=40)]
    round: RoundField
    root: Bytes32
    prev_root: Bytes32
    samples: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Trained in this round so far."""
    samples_per_second: Annotated[float, Meta(ge=0, le=1e12)]
    capacity: Annotated[int, Meta(ge=0, le=1 << 40)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=16)]
    state: Annotated[str, Meta(max_length=20)]
    """The phase's name, "paused", "finished", or "leaving" as the last word of a peer that goes."""
    nonce: Annotated[int, Meta(ge=0, le=MAX_NONCE)] = 0
    """Its proof of work, where the run asks for one."""
    device: Annotated[str, Meta(max_length=MAX_DEVICE_CHARACTERS)] = ""
    """What it trains on, in its own words."""

    @property
    def head(self) -> Head:
        """Where it stands."""
        return Head(self.round, self.root, self.prev_root)


@dataclass(frozen=True, slots=True)
class LivePeer:
    """The last word of a peer, when we heard it, and where the peer stands."""

    presence: Presence
    heard_at: float
    head: Head


class LivePeers:
    """The peers heard of lately, ourselves not among them."""

    def __init__(self, me: PeerId, electorate: Electorate, silence_seconds: float) -> None:
        self.electorate = electorate
        self._me = me
        self._silence_seconds = silence_seconds
        self._peers: dict[PeerId, LivePeer] = {}
        self._gone: dict[PeerId, LivePeer] = {}

    def __getitem__(self, peer: PeerId) -> LivePeer:
        return self._peers[peer]

    def peers(self) -> Mapping[PeerId, LivePeer]:
        """Return everybody who is live."""
        return self._peers

    def believe(self, electorate: Electorate) -> None:
        """Set whose word counts; who is banned is no longer here."""
        self.electorate = electorate
        for peer in electorate.banned:
            self._peers.pop(peer, None)
            self._gone.pop(peer, None)

    def hear(self, peer: PeerId, presence: Presence, now: float) -> None:
        """Take in a presence; an older one than the last known is a replay and changes nothing."""
        known = self._peers.get(peer) or self._gone.get(peer)
        if peer == self._me or peer in self.electorate.banned:
            return
        if known and presence.at <= known.presence.at:
            return
        into, other = self._peers, self._gone
        if presence.state == LEAVING_STATE:
            into, other = other, into
        other.pop(peer, None)
        if peer in into or self.electorate.names(peer) or len(into) < MAX_LIVE_PEERS:
            into[peer] = LivePeer(presence, now, presence.head)

    def forget(self, peers: Collection[PeerId]) -> None:
        """Drop peers that we have no dealings with any more."""
        for peer in peers:
            self._peers.pop(peer, None)

    def forget_silent(self, now: float) -> None:
        """Drop who has not been heard of for `silence_seconds`."""
        for peers, seconds in ((self._peers, self._silence_seconds), (self._gone, GONE_SECONDS)):
            since = now - seconds
            for peer in [peer for peer, last in peers.items() if last.heard_at < since]:
                del peers[peer]

    def alongside(self, head: Head) -> dict[PeerId, Presence]:
        """Return the peers that work on the round after `head`, or are about to.

        Who is fetching that state counts, or a swarm could outrun every newcomer; who is paused or
        finished doesn't.
        """
        working = HOLDING_STATES | {FETCHING_STATE}
        return {
            peer: live.presence
            for peer, live in self._peers.items()
            if live.head == head and live.presence.state in working
        }

    def expected(self, head: Head) -> set[PeerId]:
        """Return who may commit to the round after `head`: who is alongside, or a round behind.

        Without the latter, whoever hears first that a round is agreed would go on alone.
        """
        behind = {
            peer
            for peer, live in self._peers.items()
            if (live.head.round, live.head.root) == (head.round - 1, head.prev_root)
            and live.presence.state in HOLDING_STATES
        }
        return behind | set(self.alongside(head))

    def conveners(self, peers: Set[PeerId]) -> set[PeerId]:
        """Return those of `peers` who may close a roll call: the established.

        Only where none of these is live, ourselves included, it is all others that are.
        """
        here = self._peers.keys() | {self._me}
        if any(map(self.electorate.includes, here)):
            return set(filter(self.electorate.includes, peers))
        return self.electorate.among(peers & here)

    def heaviest_head(
        self, own: Head | None, unreachable: Collection[Head] = (), *, listening: bool = False
    ) -> tuple[Head | None, tuple[PeerId, ...]]:
        """Return the head that most of those stand on whose word counts, and who could give it.

        Who has just begun and listens counts only where nobody else is: it is about to follow.
        Heads one round apart on the same lineage support each other; where most have gone on from
        the heaviest, to whatever heads, it is the heaviest of those. Ties go to the stewards' word,
        then to what is not `unreachable`, then to the later round, then to the lower root: the same
        at every peer. A head is never chosen for its round number: a single peer can claim any.

        Args:
            own: the head that we hold; we count once.
            unreachable: heads that nobody gave us.
            listening: we have just begun, perhaps from a state older than the last we agreed to:
                our own word breaks no tie.
        """
        voters = self._voters(own)
        counts = Counter(voters.values())
        if not counts:
            return None, ()
        weights = _lineage_weights(counts)
        stewards = self.electorate.stewards - ({self._me} if listening else set())
        vouched = {voters[peer] for peer in stewards & voters.keys()}

        def order(head: Head) -> tuple[int, int, bool, bool, int, bytes, bytes]:
            missing = head in unreachable
            ranks = -head.round, head.root, head.prev_root
            return -weights[head], -counts[head], head not in vouched, missing, *ranks

        best = min(counts, key=order)
        while grown := [head for head in counts if _follows(head, best)]:
            if 2 * sum(counts[head] for head in grown) <= len(voters):
                break
            best = min(grown, key=order)
        return best, self._holders(best, voters)

    def stewards_head(self, own: Head) -> tuple[Head | None, tuple[PeerId, ...]]:
        """Return the head that most stewards stand on, and who could give it, if it is far from us.

        None where it is our head or a round from it on its lineage, and in a run in which everybody
        counts: there both halves of a split swarm believe the same peers. Of two heads with as many
        stewards, that of the lowest PeerID: the same at every peer.
        """
        stewards = self.electorate.stewards
        standing = {
            peer: live.head
            for peer, live in self._peers.items()
            if peer in stewards and live.presence.state in HOLDING_STATES
        }
        if self.electorate.established is None or not standing:
            return None, ()
        if self._me in stewards:
            standing[self._me] = own
        counts = Counter(standing.values())
        head = standing[min(standing, key=lambda peer: (-counts[standing[peer]], peer))]
        if head == own or _follows(head, own) or _follows(own, head):
            return None, ()
        return head, self._holders(head, {})

    def _holders(self, head: Head, voters: Mapping[PeerId, Head]) -> tuple[PeerId, ...]:
        """Return who says that it holds `head`: first those whose word counts."""
        found = [
            peer
            for peer, live in self._peers.items()
            if live.head == head and live.presence.state != FETCHING_STATE
        ]
        return tuple(sorted(found, key=lambda peer: peer not in voters))

    def _voters(self, own: Head | None) -> dict[PeerId, Head]:
        """Return the heads that count, by peer.

        A newcomer has no ledger, and the stewards' word is all that it can go by. While one who
        counts is live, strangers do not, even if that one has yet to fetch its state: they could
        show a ledger that bans all others, and who believed it would not come back.
        """
        counts = self.electorate.includes if own else self.electorate.stewards.__contains__
        mine = {self._me: own} if own else {}
        standing = self._standing(counts)
        if mine and counts(self._me):
            return standing | mine
        return standing or self._named(counts) or self._standing(lambda _: True) | mine

    def _named(self, counts: Callable[[PeerId], bool]) -> dict[PeerId, Head]:
        return {peer: live.head for peer, live in self._peers.items() if counts(peer)}

    def _standing(self, counts: Callable[[PeerId], bool]) -> dict[PeerId, Head]:
        """Return where those who count stand; where they listen, only if none of them stands."""
        heads = {peer: live for peer, live in self._peers.items() if counts(peer)}
        for ignored in ({FETCHING_STATE, LISTENING_STATE}, {FETCHING_STATE}):
            standing = {
                peer: live.head
                for peer, live in heads.items()
                if live.presence.state not in ignored
            }
            if standing:
                return standing
        return {}


def _follows(head: Head, before: Head) -> bool:
    """Return whether a head is of the round after another, grown from it."""
    return (head.round - 1, head.prev_root) == (before.round, before.root)


def _lineage_weights(counts: Mapping[Head, int]) -> dict[Head, int]:
    """Return how many stand on each head, on its parent or on a child of it."""
    on_root: Counter[tuple[int, bytes]] = Counter()
    grown_from: Counter[tuple[int, bytes]] = Counter()
    for head, count in counts.items():
        on_root[head.round, head.root] += count
        grown_from[head.round, head.prev_root] += count
    return {
        head: count
        + on_root[head.round - 1, head.prev_root]
        + grown_from[head.round + 1, head.root]
        for head, count in counts.items()
    }
