"""Which chain a round's members agree on, and what it does to the state."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec.structs import replace

from node.chain.seal import Past, Seal, candidate_logs, chain_rules
from node.chain.sync import SealedRound
from node.methods.spsa.moves import Move
from node.run.setting import RunSetting
from protocol.block_tree import Link
from protocol.errors import RoundError
from protocol.identity import PeerId
from protocol.manifest import MethodSpec, RoundSpec, TrustSpec
from protocol.rollcall import Accusation, Roll, convener_rank
from protocol.signing import Signed
from protocol.tickets import NULL
from tests.messages import ROOT, RUN, among_friends, commitment, manifest, peer
from tests.ticket_round import TicketRound, block, copy_of

ONE, OTHER = b"1" * 32, b"2" * 32


def roll_of(roots: Mapping[int, bytes], **changes: object) -> Roll:
    """Return a roll call whose members committed to these chains."""
    members = [
        Signed(peer(number), replace(commitment(), update_root=root, **changes), b"")
        for number, root in roots.items()
    ]
    ordered = tuple(sorted(members, key=lambda each: each.signer))
    return Roll(ordered[0].signer, 3, ROOT, ordered, b"roll")


def chosen(roots: Mapping[int, bytes], judges: tuple[int, ...] = (1, 2, 3, 4)) -> bytes:
    return candidate_logs(roll_of(roots), {peer(number) for number in judges})[0][0]


def test_the_chain_that_most_judges_committed_to_counts() -> None:
    assert chosen({1: ONE, 2: OTHER, 3: OTHER}) == OTHER
    assert chosen({1: ONE, 2: ONE, 3: OTHER}) == ONE


def test_who_is_no_judge_has_no_vote_but_may_have_the_chain() -> None:
    roots = {1: ONE, 2: ONE, 5: OTHER, 6: OTHER, 7: OTHER}
    ((root, holders),) = candidate_logs(roll_of(roots), {peer(1), peer(2)})
    assert root == ONE
    assert set(holders) == {peer(1), peer(2)}
    assert set(candidate_logs(roll_of({1: ONE, 5: ONE}), {peer(1)})[0][1]) == {peer(1), peer(5)}


def test_where_no_judge_committed_all_members_have_a_vote() -> None:
    assert chosen({5: ONE, 6: OTHER, 7: OTHER}) == OTHER


def test_of_equals_that_of_the_lowest_rank_counts() -> None:
    first = min((1, 2), key=lambda number: convener_rank(ROOT, 3, peer(number)))
    assert chosen({1: ONE, 2: OTHER}) == {1: ONE, 2: OTHER}[first]
    assert chosen({1: OTHER, 2: ONE}) == {1: OTHER, 2: ONE}[first]


def test_without_a_majority_all_that_a_quarter_committed_to_may_count() -> None:
    third, few = b"3" * 32, b"4" * 32
    groups = [ONE] * 5 + [OTHER] * 4 + [third] * 6 + [few]
    roots = dict(enumerate(groups, start=1))
    found = candidate_logs(roll_of(roots), {peer(number) for number in roots})
    assert [root for root, _ in found] == [third, ONE, OTHER]


# --- rounds that are over


def setting(trust: TrustSpec | None = None, **method: float) -> RunSetting:
    spec = manifest(
        trust=trust or among_friends(),
        method=MethodSpec(kind="spsa", settings={"learning_rate": 0.1, "max_rate": 4.0, **method}),
        round=RoundSpec(local_steps=12, max_seconds=60.0, min_peers=1),
    )
    facts = SimpleNamespace(run=RUN, manifest=spec, stewards=frozenset({peer(1)}))
    return cast("RunSetting", facts)


def test_the_rules_of_a_chain_are_the_manifest_s() -> None:
    rules = chain_rules(setting(depth=3, block_seconds=0.5))
    assert (rules.blocks, rules.depth, rules.block_seconds, rules.turn_seconds) == (12, 3, 0.5, 0.5)


def scene_of(*blocks: tuple[int, ...]) -> TicketRound:
    """Return a round with blocks of tickets of these peers."""
    scene = TicketRound()
    for peers in blocks:
        scene.close(*(scene.say(number, [3, -number]) for number in peers))
    return scene


def past_of(scene: TicketRound) -> Past:
    return Past(scene.state, scene.branches, copy_of(scene.chain.tip))


def test_a_round_that_is_over_is_checked_block_by_block() -> None:
    scene = scene_of((1, 2), (2, 3))
    blocks = scene.chain.tip.blocks()
    found = Past.of(setting(), scene.state, SealedRound(tuple(blocks), b""))
    assert found.tip.digest == scene.chain.tip.digest
    for wrong in (blocks[1:], blocks[::-1], [blocks[0], blocks[0]]):
        with pytest.raises(RoundError):
            Past.of(setting(), scene.state, SealedRound(tuple(wrong), b""))
    early = block(scene.state, Link(0, scene.state.root), [scene.say(1, [1])])
    with pytest.raises(RoundError):  # measured on a block that is not there yet
        Past.of(setting(), scene.state, SealedRound((early,), b""))


def test_places_are_found_by_what_tickets_call_them() -> None:
    past = past_of(scene_of((1,), (1,), (1,)))
    for link in (past.tip, past.tip.back(2), past.tip.back(0)):
        assert past.place(link.height, link.mark) is link
    assert past.place(2, past.tip.mark) is None
    assert past.place(9, past.tip.mark) is None


def weights_of(moves: list[Move] | tuple[Move, ...]) -> list[str]:
    return [ticket.peer for move in moves for ticket in move.tickets]


def test_what_peers_did_is_found_in_every_block() -> None:
    past = past_of(scene_of((1, 2), (3,), (2, 3)))
    assert weights_of(past.chain.tickets_of({peer(2)})) == [peer(2)] * 2
    assert past.chain.tickets_of({peer(9)}) == []


# --- the seal


def accused(number: int, round_: int) -> tuple[Accusation, ...]:
    return (Accusation(accused=peer(number), evidence=b"e" * 32, round=round_, chunk=None),)


def test_a_ban_takes_back_all_kept_tickets_and_the_scale() -> None:
    now = past_of(scene_of((1, 2, 3), (2, 3)))
    everyone = {1: ONE, 2: ONE, 3: ONE, 4: ONE}
    for round_ in (0, 1):
        roll = roll_of(everyone, accusations=accused(3, round_))
        seal = Seal.of(setting(), now, roll, ())
        assert weights_of(seal.void) == [peer(3)] * 2
        assert seal.scale == now.state.header.scale
        assert seal.ledger.banned == {peer(3)}
        assert seal.reports[peer(3)].share == 0
    honest = Seal.of(setting(), now, roll_of(everyone), ())
    assert honest.void == ()
    assert honest.ledger.banned == frozenset[PeerId]()
    assert honest.reports[peer(3)].share == pytest.approx(4 / 10)
    assert honest.scale == now.branches.scale_at(now.tip) != now.state.header.scale


def test_the_kept_rounds_before_are_taken_back_too() -> None:
    now, before = past_of(scene_of((1, 2))), past_of(scene_of((1, 3), (3,)))
    roll = roll_of({1: ONE, 2: ONE, 4: ONE}, accusations=accused(3, 0))
    assert weights_of(Seal.of(setting(), now, roll, [before.chain]).void) == [peer(3)] * 2


def test_a_member_without_tickets_is_missing_and_one_of_nulls_has_no_share() -> None:
    scene = TicketRound()
    scene.close(scene.say(1, [5, 5]), scene.say(2, [NULL, NULL]))
    seal = Seal.of(setting(), past_of(scene), roll_of({1: ONE, 2: ONE, 4: ONE}), ())
    told = {number: seal.reports[peer(number)] for number in (1, 2, 4)}
    assert [told[number].share for number in (1, 2, 4)] == [1, 0, 0]
    assert [told[number].missing for number in (1, 2, 4)] == [0, 1, 1]
    standings = seal.ledger.by_peer()
    assert [standings[peer(number)].rounds for number in (1, 2, 4)] == [1, 0, 0]


def test_a_round_without_blocks_changes_no_weights() -> None:
    scene = TicketRound()
    seal = Seal.of(setting(), past_of(scene), roll_of({1: ONE, 2: ONE}), ())
    assert seal.void == ()
    assert seal.scale == scene.state.header.scale
