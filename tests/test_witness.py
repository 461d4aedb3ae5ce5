"""Who says two things where one may be said is noticed, and who says much crowds out nobody."""

from msgspec.structs import replace

from node.audit.witness import (
    MAX_SAYING_BYTES,
    MAX_SAYINGS,
    MAX_SAYINGS_PER_PEER,
    Witness,
)
from protocol.events import ResultHeard, RollHeard
from protocol.rollcall import open_roll
from protocol.signing import seal
from tests.messages import HEAD, RUN, committed, identity, peer, result, roll, roll_call
from trust.evidence import check_equivocation

ROLL = roll(1, [committed(1), committed(2)])


def a_result(number: int, root: bytes = b"n" * 32, about: int = 0) -> ResultHeard:
    told = replace(result(number, ROLL, root).message, roll=about.to_bytes(32, "big"))
    return ResultHeard(seal(identity(number), RUN, told))


def test_two_results_of_one_peer_prove_it_a_liar() -> None:
    witness = Witness(RUN)
    assert witness.hear(a_result(2)) is None
    found = witness.hear(a_result(2, b"o" * 32))
    assert found is not None
    assert found[0] == peer(2)
    assert check_equivocation(RUN, *found)


def test_the_same_said_again_and_by_others_proves_nothing() -> None:
    witness = Witness(RUN)
    for event in (a_result(1), a_result(1), a_result(2, b"o" * 32), RollHeard(ROLL)):
        assert witness.hear(event) is None


def test_two_roll_calls_for_one_attempt_prove_a_convener_a_liar() -> None:
    witness = Witness(RUN)
    members = [committed(1), committed(2)]
    other = replace(roll_call(1, members).message, closed_at=9.0)
    witness.hear(RollHeard(ROLL))
    found = witness.hear(RollHeard(open_roll(seal(identity(1), RUN, other), RUN)))
    assert found is not None
    assert found[0] == peer(1)


def test_a_flood_of_one_peer_makes_nobody_elses_words_forgotten() -> None:
    witness = Witness(RUN)
    witness.hear(a_result(2))
    for number in range(500):
        witness.hear(a_result(3, about=number))
    assert witness.hear(a_result(2, b"o" * 32)) is not None
    assert len(witness._said[peer(3)]) == MAX_SAYINGS_PER_PEER


def test_what_is_remembered_is_bounded_in_number_and_size() -> None:
    witness = Witness(RUN)
    signed = result(1, ROLL)
    for number in range(MAX_SAYINGS // MAX_SAYINGS_PER_PEER + 10):
        for about in range(MAX_SAYINGS_PER_PEER):
            place = "result", about.to_bytes(32, "big"), HEAD.root, 0
            witness._compare(peer(number), place, signed.envelope)
    assert sum(map(len, witness._said.values())) == witness._count == MAX_SAYINGS
    for number in range(100):
        witness._compare(peer(number), ("roll", b"", b"", number), bytes(1 << 19))
    assert witness._bytes <= MAX_SAYING_BYTES
