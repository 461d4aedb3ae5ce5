from collections.abc import Sequence
from hashlib import sha256

import msgspec
import pytest

from protocol.block_tree import Link
from protocol.blocks import (
    MAX_BLOCK_BYTES,
    MAX_HEIGHT,
    MAX_TICKETS,
    TICKETS_PER_PEER,
    Block,
    OpenBlock,
    log_chunks,
    open_block,
    read_log,
)
from protocol.errors import CodecError, ProtocolError, RoundError, SignatureError
from protocol.merkle import root_of
from protocol.signing import Signed, seal, unseal
from protocol.tickets import MAX_PROBES, Measured, Ticket, sign_ticket
from tests.chain_scene import ROUND, block, ticket
from tests.messages import OTHER_RUN, ROOT, RUN, identity, peer

GENESIS = Link(0, ROOT)


def of(number: int, *seqs: int) -> list[Ticket]:
    return [ticket(number, seq, GENESIS) for seq in seqs]


def in_order(tickets: list[Ticket]) -> list[bytes]:
    return [each.data for each in sorted(tickets, key=lambda each: each.key)]


def closed(tickets: Sequence[bytes], **changes: object) -> Signed[Block]:
    """Return a signed block of any bytes."""
    message = Block(ROUND, ROOT, 1, ROOT, 0, tuple(tickets))
    return seal(identity(1), RUN, msgspec.structs.replace(message, **changes))


def reopened(found: Signed[Block]) -> OpenBlock:
    return open_block(unseal(found.envelope, RUN, Block, MAX_BLOCK_BYTES), RUN)


# what a block says


def test_a_block_is_read_from_its_envelope_alone() -> None:
    tickets = [*of(2, 0, 1), *of(3, 0), *of(1, 5)]
    found = reopened(closed(in_order(tickets)))
    assert found.convener == peer(1)
    assert set(found.tickets) == set(tickets)
    assert found.digest == sha256(found.envelope).digest()
    assert (found.message.round, found.message.height) == (ROUND, 1)


def test_a_block_of_fixed_tickets_has_fixed_bytes() -> None:
    found = block(1, GENESIS, [*of(2, 0), *of(3, 0)])
    assert found.digest.hex() == "d96925333b827c172bfb28eddadb802d8d53c96b06ef1c5a96e20e6f8368efdb"
    assert (
        root_of(log_chunks([found]))[0].hex()
        == "5a8e6c475d8411272e42b6d26106677132173abdf1b8b34eccf2f61711d77200"
    )


def test_tickets_that_were_checked_before_are_not_checked_again() -> None:
    first, second = sorted([*of(2, 0), *of(3, 0)], key=lambda each: each.key)
    asked: list[bytes] = []

    def known(data: bytes) -> Ticket | None:
        asked.append(data)
        return first if data == first.data else None

    found = open_block(closed([first.data, second.data]), RUN, known)
    assert found.tickets[0] is first
    assert found.tickets[1] == second
    assert asked == [first.data, second.data]


def test_the_largest_block_fits_into_its_limit() -> None:
    said = Measured((1 << 32) - 1, 9, ROOT[:16], ROOT[:16], -64, (-127,) * MAX_PROBES)
    tickets = [sign_ticket(identity(number), RUN, ROOT, said) for number in range(MAX_TICKETS)]
    found = reopened(closed(in_order(tickets), height=MAX_HEIGHT, life=1 << 32))
    assert len(found.tickets) == MAX_TICKETS
    assert len(found.envelope) < MAX_BLOCK_BYTES // 2


# what is refused


def test_tickets_out_of_order_are_refused() -> None:
    data = in_order([*of(2, 0), *of(3, 0)])
    with pytest.raises(RoundError, match="order"):
        reopened(closed(data[::-1]))
    with pytest.raises(RoundError, match="order"):
        reopened(closed([each.data for each in of(2, 1, 0)]))


def test_a_ticket_that_is_there_twice_is_refused() -> None:
    (data,) = in_order(of(2, 0))
    with pytest.raises(RoundError, match="twice"):
        reopened(closed([data, data]))


def test_two_tickets_of_one_number_are_refused() -> None:
    pair = [ticket(2, 0, GENESIS, value=1).data, ticket(2, 0, GENESIS, value=2).data]
    for data in pair, pair[::-1]:
        with pytest.raises(RoundError, match="twice"):
            reopened(closed(data))


def test_a_peer_has_four_tickets_in_a_block_at_most() -> None:
    others = [*of(3, 0), *of(4, 0)]
    most = of(2, *range(TICKETS_PER_PEER))
    assert len(reopened(closed(in_order([*most, *others]))).tickets) == TICKETS_PER_PEER + 2
    many = of(2, *range(TICKETS_PER_PEER + 1))
    with pytest.raises(RoundError, match="more than 4"):
        reopened(closed(in_order([*many, *others])))


def test_a_forged_ticket_is_refused() -> None:
    data = in_order([*of(2, 0), *of(3, 0)])
    forged = data[1][:-70] + bytes([data[1][-70] ^ 1]) + data[1][-69:]
    with pytest.raises(SignatureError):
        reopened(closed([data[0], forged]))


def test_order_is_checked_before_signatures_that_cost_more() -> None:
    data = [each.data[:-64] + bytes(64) for each in of(2, 1, 0)]
    with pytest.raises(RoundError):
        reopened(closed(data))


def test_a_ticket_of_another_run_or_state_is_refused() -> None:
    said = of(2, 0)[0].said
    for run, root in (OTHER_RUN, ROOT), (RUN, b"o" * 32):
        foreign = sign_ticket(identity(2), run, root, said).data
        with pytest.raises(SignatureError):
            reopened(closed([foreign]))


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 119, b"x" * 184])
def test_what_is_no_ticket_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        reopened(closed([data]))


@pytest.mark.parametrize("count", [0, MAX_TICKETS + 1])
def test_a_block_holds_one_to_256_tickets(count: int) -> None:
    envelope = closed(in_order(of(2, 0)) * count).envelope
    with pytest.raises(CodecError):
        unseal(envelope, RUN, Block, MAX_BLOCK_BYTES)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 0},
        {"height": MAX_HEIGHT + 1},
        {"round": -1},
        {"life": (1 << 32) + 1},
        {"prev": b"short"},
        {"root": b"short"},
    ],
)
def test_numbers_out_of_bounds_are_refused(changes: dict[str, object]) -> None:
    envelope = closed(in_order(of(2, 0)), **changes).envelope
    with pytest.raises(CodecError):
        unseal(envelope, RUN, Block, MAX_BLOCK_BYTES)


def test_a_block_above_its_size_is_refused() -> None:
    fat = closed([b"x" * 183] * MAX_TICKETS).envelope
    assert unseal(fat, RUN, Block, MAX_BLOCK_BYTES).message.height == 1
    with pytest.raises(CodecError, match="limit"):
        unseal(fat, RUN, Block, len(fat) - 1000)


def test_a_block_changed_in_any_byte_is_refused() -> None:
    envelope = closed(in_order(of(2, 0))).envelope
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 1
        with pytest.raises(ProtocolError):
            unseal(bytes(changed), RUN, Block, MAX_BLOCK_BYTES)


# the log of a round


def log() -> list[OpenBlock]:
    first = block(1, GENESIS, of(2, 0))
    after = Link(1, first.digest)
    return [first, block(3, after, [ticket(2, 1, after, first.tickets[0])])]


def test_a_log_comes_back_from_its_chunks() -> None:
    blocks = log()
    assert read_log(log_chunks(blocks), RUN, ROUND, ROOT) == blocks


def test_a_log_of_another_round_or_state_is_refused() -> None:
    chunks = [each.envelope for each in log()]
    with pytest.raises(RoundError, match="another round"):
        read_log(chunks, RUN, ROUND + 1, ROOT)
    with pytest.raises(RoundError, match="another round"):
        read_log(chunks, RUN, ROUND, b"o" * 32)
    with pytest.raises(SignatureError):
        read_log(chunks, OTHER_RUN, ROUND, ROOT)


def test_a_log_with_a_forged_ticket_is_refused() -> None:
    data = of(2, 0)[0].data
    forged = closed([data[:60] + bytes([data[60] ^ 1]) + data[61:]])
    with pytest.raises(SignatureError):
        read_log([forged.envelope], RUN, ROUND, ROOT)
