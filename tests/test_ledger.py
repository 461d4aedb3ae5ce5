import pytest
from hypothesis import given

from protocol.codec import decode, encode
from protocol.errors import CodecError
from protocol.layout import CHUNK_FLOATS
from protocol.ledger import MAX_LEDGER_BYTES, MAX_STANDINGS, NO_LEDGER, Ledger, Standing
from protocol.state import read_ledger
from tests.messages import examples, messages, peer
from tests.standing_scene import PEERS, ledger, standing

LONGEST = Standing(
    peer="1" * 52,
    joined=1 << 40,
    seen=1 << 40,
    rounds=1 << 40,
    passes=1 << 40,
    score=1 / 3,
    distance=1e30,
    cosine=-1.0,
    worst=1e30,
    noise=1e30,
    punctual=1 / 3,
    copied=1 / 3,
    suspensions=1 << 40,
    samples=1 << 40,
    banned=b"e" * 32,
)


def test_the_largest_ledger_fits_into_one_leaf() -> None:
    names = (f"{number:052}" for number in range(MAX_STANDINGS))
    fields = {name: getattr(LONGEST, name) for name in LONGEST.__struct_fields__ if name != "peer"}
    full = Ledger(tuple(Standing(peer=name, **fields) for name in names))
    data = encode(full)
    assert len(data) <= MAX_LEDGER_BYTES <= 4 * CHUNK_FLOATS
    assert read_ledger(data) == full


@given(messages(Standing))
@examples(50)
def test_a_standing_comes_back_as_it_was(value: Standing) -> None:
    one = Ledger((value,))
    assert read_ledger(encode(one)) == one


def test_the_standings_are_in_order_and_each_peer_has_one() -> None:
    low, high = sorted([standing(0), standing(1)], key=lambda each: each.peer)
    for wrong in ((high, low), (low, low)):
        with pytest.raises(ValueError, match="order"):
            Ledger(wrong)
    with pytest.raises(CodecError, match="order"):
        read_ledger(encode(Ledger((low, high))).replace(low.peer.encode(), b"z" * 52))


def test_a_ledger_has_a_limit_of_standings() -> None:
    names = (f"{number:052}" for number in range(MAX_STANDINGS + 1))
    crowd = Ledger(tuple(Standing(peer=name, joined=0, seen=0) for name in names))
    with pytest.raises(CodecError):
        decode(encode(crowd), Ledger)


def test_a_ledger_knows_its_peers_and_who_is_banned() -> None:
    known = ledger(standing(0), standing(1, banned=b"e" * 32))
    assert known.by_peer()[PEERS[0]] == standing(0)
    assert set(known.by_peer()) == set(PEERS[:2])
    assert known.banned == {PEERS[1]}
    assert peer(17) not in known.by_peer()


def test_before_the_first_round_nobody_stands_anywhere() -> None:
    assert not NO_LEDGER.by_peer()
    assert not NO_LEDGER.banned
