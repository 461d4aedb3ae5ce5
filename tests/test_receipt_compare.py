"""A reducer that signs another receipt for each member is found out by the members' votes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from dht.swarm import Stream
from node.exchange.exchange import Exchange
from node.exchange.reduction import Reducer
from node.run.local import LocalWorker
from protocol.codec import encode
from protocol.identity import PeerId
from protocol.signing import seal
from protocol.transfers import Aggregate
from tests.messages import among_friends
from tests.swarm_run import PeerOptions, RunOptions, SwarmRun, play, without_chunk_audits

UNAUDITED = replace(among_friends(), audit_rate=0.0)


@pytest.fixture(autouse=True)
def no_chunk_audits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the lies to those that they are about."""
    without_chunk_audits(monkeypatch)


class TwoFacedExchange(Exchange):
    """Signs for each member what is true of that one, and false about all others."""

    async def _send_aggregates(self, stream: Stream, chunks: Sequence[int]) -> None:
        member = self._members.index(stream.peer)
        for chunk in chunks:
            reduced = await self._reducer.reduce(chunk)
            receipt = reduced.receipt.message
            distances = tuple(
                distance if distance is None or index == member else distance * (2 + member)
                for index, distance in enumerate(receipt.distances)
            )
            told = seal(self._set.identity, self._set.run, replace(receipt, distances=distances))
            await self._send(stream, encode(Aggregate(chunk, reduced.data, told.envelope)))


class TwoFaced(LocalWorker):
    exchange_kind = TwoFacedExchange


class OneSidedReducer(Reducer):
    """Signs one receipt for all, which is false about one member only."""

    def _by_member(self, present: list[int], figures: Sequence[float]) -> tuple[float | None, ...]:
        found = list(super()._by_member(present, figures))
        me = self._roll.peers.index(self._set.identity.peer_id)
        victim = next(member for member in range(len(found)) if member != me)
        told = found[victim]
        if told is not None and sum(figures) > 1.01:  # no shares
            found[victim] = 2 * told
        return tuple(found)


class OneSidedExchange(Exchange):
    reducer_kind = OneSidedReducer


class OneSided(LocalWorker):
    exchange_kind = OneSidedExchange


def banned(swarm: SwarmRun, number: int) -> frozenset[PeerId]:
    state = swarm.worker(number).state
    return state.ledger.banned if state else frozenset()


async def until_banned(swarm: SwarmRun, liar: int, honest: range) -> None:
    name = swarm.peers[liar].id
    await swarm.until(lambda: all(banned(swarm, each) == {name} for each in honest), 300)
    await swarm.reach(swarm.peers[0].round + 3, honest, seconds=200)
    await swarm.same_root(honest)


def kinds_of_evidence(swarm: SwarmRun, numbers: range) -> set[str]:
    return {note.kind for number in numbers for note in swarm.ledger(number).evidence()}


def test_a_reducer_with_a_receipt_for_each_member_is_banned_by_proof(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=TwoFaced))
        await until_banned(swarm, 4, range(4))
        assert kinds_of_evidence(swarm, range(4)) == {"Equivocation"}

    play(tmp_path, scenario, RunOptions(trust=UNAUDITED, min_peers=4))


def test_a_reducer_that_lies_about_one_member_is_audited_by_that_one(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(4))
        await swarm.start(4, PeerOptions(kind=OneSided))
        await until_banned(swarm, 4, range(4))
        assert kinds_of_evidence(swarm, range(4)) == {"FalseAggregate"}

    play(tmp_path, scenario, RunOptions(trust=UNAUDITED, min_peers=4))


def test_honest_members_serve_the_same_receipts_and_fetch_none(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.reach(4, range(3))
        kept = [swarm.worker(number)._receipts._rounds for number in range(3)]
        for roll in set.intersection(*(set(each) for each in kept)):
            roots = {each[roll].tree.root for each in kept}
            assert len(roots) == 1
            for number in range(3):
                asked = {root for root, _ in swarm.shelf(number).asked}
                assert not asked & roots

    play(tmp_path, scenario, RunOptions(trust=UNAUDITED, min_peers=3))
