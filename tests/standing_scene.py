"""Roll calls, receipts and standings for the tests of trust, without signatures."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from protocol.rollcall import Accusation, Commitment, Roll
from protocol.signing import Signed
from protocol.transfers import Receipt
from tests.messages import ROOT, commitment, peer
from trust.measures import Exchanged

SPEC = TrustSpec("clip", audit_rate=0.0, probation_rounds=4, probation_passes=1)
ROUND = 7
NO_STEWARDS: frozenset[PeerId] = frozenset()
PEERS = sorted(peer(number) for number in range(1, 17))


def standing(index: int, **changes: object) -> Standing:
    """Return the standing of PEERS[index], long established unless `changes` say otherwise."""
    usual = Standing(
        peer=PEERS[index],
        joined=1,
        seen=ROUND - 1,
        rounds=50,
        passes=9,
        score=1.0,
        distance=1.0,
        worst=1.0,
        noise=1.0,
    )
    return replace(usual, **changes)


def newcomer(index: int, **changes: object) -> Standing:
    return replace(Standing(peer=PEERS[index], joined=1, seen=ROUND - 1), **changes)


def ledger(*standings: Standing) -> Ledger:
    return Ledger(tuple(sorted(standings, key=lambda each: each.peer)))


def established(count: int) -> Ledger:
    return ledger(*map(standing, range(count)))


def member(index: int, **changes: object) -> Signed[Commitment]:
    own_root = bytes([index]) * 32
    message = replace(commitment(), round=ROUND, update_root=own_root, samples=32)
    return Signed(PEERS[index], replace(message, **changes), b"")


def roll(*members: Signed[Commitment]) -> Roll:
    ordered = tuple(sorted(members, key=lambda each: each.signer))
    return Roll(ordered[0].signer, ROUND, ROOT, ordered, b"roll")


def roll_of(count: int, **changes: object) -> Roll:
    return roll(*(member(index, **changes) for index in range(count)))


def accuse(index: int, evidence: bytes = b"e" * 32, chunk: int | None = None) -> Accusation:
    return Accusation(accused=PEERS[index], evidence=evidence, round=ROUND - 1, chunk=chunk)


def receipt(
    reducer: int,
    shares: Sequence[float | None],
    distances: Sequence[float | None],
    norms: Sequence[float | None] = (),
    norm: float = 0.0,
) -> Signed[Receipt]:
    message = Receipt(
        ROUND, ROOT, 0, b"l" * 32, tuple(shares), tuple(distances), tuple(norms), norm
    )
    return Signed(PEERS[reducer], message, b"")


def even_receipt(reducer: int, distances: Sequence[float | None]) -> Signed[Receipt]:
    """Return a receipt by which all had the same share."""
    return receipt(reducer, [1 / len(distances)] * len(distances), distances)


def exchanged(
    roll: Roll,
    receipts: Mapping[int, Signed[Receipt]],
    sizes: Sequence[int] = (),
    reducers: Sequence[int] = (),
) -> Exchanged:
    """Return what was exchanged; who signed for a chunk had to reduce it unless `reducers` say."""
    sizes = sizes or [1000] * (max(receipts, default=-1) + 1)
    duty = [PEERS[index] for index in reducers] or [
        receipts[chunk].signer if chunk in receipts else roll.peers[0]
        for chunk in range(len(sizes))
    ]
    return Exchanged(roll, receipts, duty, sizes)
