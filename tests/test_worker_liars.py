"""Whole swarms with a peer that lies: the honest ones go on, on one root, at little cost."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from msgspec.structs import replace

from dht.memory import MemorySwarm
from dht.memory_streams import MemoryStream
from dht.swarm import NetworkError
from node.exchange.exchange import Exchange
from node.exchange.reduction import Reduced, Reducer
from node.exchange.setting import Update, exchange_protocol
from node.exchange.wire import Floats, pack_update
from node.run.local import LocalWorker
from node.store.state import State
from protocol.events import Announcement, Result
from protocol.identity import Identity
from protocol.merkle import leaf_hash, root_of
from protocol.presence import Head, Presence
from protocol.rollcall import Commitment, Roll, RollCall, call_roll
from protocol.rounds import Phase
from protocol.signing import Signed, seal, unseal
from protocol.transfers import TRANSFER_FRAME_BYTES
from protocol.trees import TREE_FRAME_BYTES, tree_protocol
from tests.swarm_run import LAYOUT, PeerOptions, RunOptions, SwarmRun, play


def scaled(factor: float) -> Callable[[Floats, int], Floats]:
    return lambda update, _: np.float32(factor) * update


# --- updates


@pytest.mark.parametrize("factor", [-10.0, 1e4, np.nan, np.inf])
def test_one_liar_of_four_changes_nothing_under_clipping(tmp_path: Path, factor: float) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(corrupt=scaled(factor)))
        await swarm.reach(6, range(3))
        await swarm.same_root(range(3))
        assert swarm.share(0, of=3).share == 0
        assert swarm.distance(0) < 0.7

    play(tmp_path, scenario, RunOptions(min_peers=4))


def test_one_liar_of_four_destroys_a_plain_mean(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(corrupt=scaled(-10)))
        await swarm.reach(8, range(3))
        await swarm.same_root(range(3))
        assert swarm.distance(0) > 1.5

    play(tmp_path, scenario, RunOptions(rule="mean", min_peers=4))


class WrongShape(LocalWorker):
    """Commits to parts of the wrong size."""

    def _pack(self, update: Floats, state: State) -> Update:
        return committed_to([b"\0" * 10 for _ in state.layout.chunks])


class TooManyBytes(LocalWorker):
    """Commits to parts beyond any limit."""

    def _pack(self, update: Floats, state: State) -> Update:
        return committed_to([b"\0" * (600 << 10) for _ in state.layout.chunks])


class OtherThanCommitted(LocalWorker):
    """Sends something else than it committed to."""

    def _pack(self, update: Floats, state: State) -> Update:
        honest, other = super()._pack(update, state), super()._pack(-update, state)
        return Update(other.parts, honest.leaves, honest.root)


class Silent(LocalWorker):
    """Commits, then neither sends nor reduces."""

    async def _exchange(self, roll: Roll) -> None:
        await asyncio.Event().wait()


def committed_to(parts: list[bytes]) -> Update:
    root, leaves = root_of(parts)
    return Update(tuple(parts), tuple(leaves), root)


@pytest.mark.parametrize("kind", [WrongShape, TooManyBytes, OtherThanCommitted, Silent])
def test_who_sends_nothing_usable_is_left_out(tmp_path: Path, kind: type[LocalWorker]) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=kind, reduces=kind is Silent))
        await swarm.reach(1, range(3))
        await swarm.same_root(range(3))
        assert swarm.share(0, of=3).share == 0
        assert swarm.tally(0).missing == 0

    play(tmp_path, scenario, RunOptions(min_peers=4))


class Boaster(LocalWorker):
    """Claims more samples and capacity than anybody could have."""

    async def _train(self, round_: int) -> None:
        sign = self._channel.sign

        def boast(message: Announcement) -> Signed[Announcement]:
            if isinstance(message, Commitment):
                message = replace(message, samples=1 << 40, capacity=1 << 40)
            return sign(message)

        self._channel.sign = boast  # type: ignore[method-assign,assignment]
        await super()._train(round_)


def test_claimed_samples_and_capacity_are_capped(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=Boaster))
        await swarm.reach(3, range(3))
        assert swarm.share(0, of=3).expected == pytest.approx(1.25 / 4.25)
        await swarm.same_root(range(3))

    play(tmp_path, scenario, RunOptions(min_peers=4))


# --- reducers


class LyingReducer(Reducer):
    """Signs for numbers of its own in place of the aggregate."""

    def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> Reduced:
        return self._lie(super()._aggregate(chunk, inputs), 30_000.0)

    def _lie(self, reduced: Reduced, value: float) -> Reduced:
        start, stop = LAYOUT.chunks[reduced.receipt.message.chunk]
        data = pack_update(np.full(stop - start, value, np.float32))
        receipt = replace(reduced.receipt.message, leaf=leaf_hash(data))
        return Reduced(data, seal(self._set.identity, self._set.run, receipt))


class TwoFacedReducer(LyingReducer):
    """Tells everybody something else."""

    told = 0

    async def reduce(self, chunk: int) -> Reduced:
        self.told += 1
        return self._lie(await super().reduce(chunk), float(self.told))


class NonsenseReducer(LyingReducer):
    """Signs for what is no number."""

    def _aggregate(self, chunk: int, inputs: dict[int, bytes]) -> Reduced:
        return self._lie(Reducer._aggregate(self, chunk, inputs), np.nan)


def reducing_by(kind: type[Reducer]) -> type[LocalWorker]:
    class LyingExchange(Exchange):
        reducer_kind = kind

    class LyingWorker(LocalWorker):
        exchange_kind = LyingExchange

    return LyingWorker


@pytest.mark.parametrize("kind", [LyingReducer, TwoFacedReducer, NonsenseReducer])
def test_a_lying_reducer_splits_nobody_and_leaves_numbers(
    tmp_path: Path, kind: type[Reducer]
) -> None:
    """Without audits what it does to its own share is only bounded."""

    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=reducing_by(kind)))
        await swarm.together(range(4))
        held = swarm.peers[0].round
        await swarm.reach(held + 4, range(3))
        await swarm.same_root(range(3))
        for number in range(3):
            state = swarm.worker(number).state
            assert state is not None
            assert state.is_finite()

    play(tmp_path, scenario)


# --- roll calls


class LyingConvener(LocalWorker):
    """Counts how often it could lie."""

    lies = 0


class TwoRolls(LyingConvener):
    """As convener signs two lists, and shows each to half of the others."""

    def _announce_roll(self, call: RollCall) -> None:
        signed = [
            self._channel.sign(replace(call, closed_at=call.closed_at + number))
            for number in range(2)
        ]
        self.lies += 1
        swarm = cast("MemorySwarm", self._set.swarm)
        for number, other in enumerate(swarm.neighbours()):
            envelope = signed[number % 2].envelope
            other.hear(self._channel._topic, (swarm.peer_id, envelope))


class OmittingConvener(LyingConvener):
    """As convener lists itself alone."""

    def _announce_roll(self, call: RollCall) -> None:
        self.lies += 1
        mine = self.machine.commitments[self._set.identity.peer_id]
        super()._announce_roll(replace(call, commitments=(mine.envelope,)))


class LoudConvener(LyingConvener):
    """Closes the roll call as soon as it has committed, again and again."""

    async def _train(self, round_: int) -> None:
        await super()._train(round_)
        await asyncio.sleep(0)
        self.lies += 1
        for attempt in range(10):
            known = tuple(self.machine.commitments.values())
            if known:
                at = self._set.swarm.time() + attempt
                call = call_roll(round_, known[0].message.prev_root, at, known)
                self._channel.say(self._channel.sign(call), "rollcall")
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", [TwoRolls, OmittingConvener, LoudConvener])
def test_a_lying_convener_holds_nobody_up_for_long(tmp_path: Path, kind: type[LocalWorker]) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(3))
        await swarm.start(3, PeerOptions(kind=kind))
        await swarm.together(range(4))
        held = swarm.peers[0].round
        await swarm.reach(held + 12, range(3), seconds=60)
        await swarm.same_root(range(3))
        assert cast("LyingConvener", swarm.worker(3)).lies > 0

    play(tmp_path, scenario)


# --- strangers


class Stranger:
    """A peer that takes no part but says what it likes."""

    def __init__(self, swarm: SwarmRun, seed: bytes = b"x" * 32) -> None:
        self.run = swarm
        self.identity = Identity.from_seed(seed)
        self.net = MemorySwarm(swarm.network, self.identity)
        self.topic = f"talkoot/1/{swarm.run.hex()}"

    async def __aenter__(self) -> "Stranger":
        await self.net.__aenter__()
        host = self.run.peers[0].swarm
        assert host is not None
        await self.net.connect(await host.addresses())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.net.__aexit__(*error)

    async def say(self, message: Announcement) -> None:
        await self.net.publish(self.topic, seal(self.identity, self.run.run, message).envelope)

    def head(self) -> Head:
        head = self.run.worker(0).machine.head
        assert head is not None
        return head

    def presence(self, head: Head) -> Presence:
        return Presence(
            at=self.net.time(),
            name="x",
            round=head.round,
            root=head.root,
            prev_root=head.prev_root,
            samples=1 << 40,
            samples_per_second=1e12,
            capacity=1 << 40,
            addresses=(f"/memory/x/p2p/{self.identity.peer_id}",) * 16,
            state="training",
        )

    def commitment(self, head: Head) -> Commitment:
        return Commitment(
            round=head.round,
            prev_root=head.root,
            at=self.net.time(),
            samples=1 << 40,
            steps=1,
            loss=None,
            capacity=1 << 40,
            update_root=bytes(32),
        )


def test_a_stranger_cannot_lead_a_finished_run_on(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start_many(range(2))
        await swarm.reach(2, range(2))
        final = swarm.peers[0].root
        async with Stranger(swarm) as liar:
            for _ in range(20):
                head = liar.head()
                beyond = Head(head.round + 1, b"z" * 32, head.root)
                mine = seal(liar.identity, swarm.run, liar.commitment(head))
                await liar.say(liar.presence(beyond))
                await liar.say(mine.message)
                call = seal(liar.identity, swarm.run, call_roll(head.round, head.root, 0.0, [mine]))
                await liar.say(call.message)
                digest = sha256(call.envelope).digest()
                await liar.say(Result(head.round, head.root, digest, b"z" * 32, 0))
                for _ in range(20):
                    await asyncio.sleep(0.25)
                    phases = {swarm.worker(number).machine.phase for number in range(2)}
                    assert phases == {Phase.TRAINING}
        assert {peer.root for peer in swarm.peers.values()} == {final}
        assert all(swarm.worker(number).finished for number in range(2))

    play(tmp_path, scenario, RunOptions(total=2, max_seconds=10.0))


def test_garbage_at_every_door_stops_nobody(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        held = swarm.peers[0].round
        async with Stranger(swarm) as liar, asyncio.TaskGroup() as tasks:
            attacks = [
                tasks.create_task(attack(liar, number))
                for attack in (broadcast_garbage, open_and_send_garbage, commit_and_vanish)
                for number in range(3)
            ]
            await swarm.reach(held + 6, range(3), seconds=90)
            for task in attacks:
                task.cancel()
        await swarm.same_root(range(3))

    play(tmp_path, scenario)


async def broadcast_garbage(liar: Stranger, number: int) -> None:
    dice = np.random.default_rng(number)
    while True:
        await liar.net.publish(liar.topic, dice.bytes(200))
        await asyncio.sleep(0.05)


async def open_and_send_garbage(liar: Stranger, number: int) -> None:
    protocols = {
        exchange_protocol(liar.run.run): TRANSFER_FRAME_BYTES,
        tree_protocol(liar.run.run): TREE_FRAME_BYTES,
    }
    streams: list[MemoryStream] = []
    while True:
        for protocol, frame_bytes in protocols.items():
            try:
                stream = await liar.net.open(liar.run.peers[number].id, protocol, frame_bytes)
                await stream.send_raw(1 << 40 if len(streams) % 2 else 100, b"\xc1" * 100)
                streams.append(stream)
            except NetworkError:
                pass
        await asyncio.sleep(0.2)


async def commit_and_vanish(liar: Stranger, number: int) -> None:
    while True:
        await liar.say(liar.presence(liar.head()))
        if number == 0:
            await liar.say(liar.commitment(liar.head()))
        await asyncio.sleep(1)


def test_words_of_earlier_rounds_change_nothing(tmp_path: Path) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.together(range(3))
        heard: list[tuple[str, bytes]] = []
        author = swarm.peers[1].swarm
        assert author is not None
        original = author.publish

        async def publish(topic: str, data: bytes) -> None:
            """Says everything of the last rounds again."""
            heard.append((topic, data))
            del heard[:-50]
            await original(topic, data)
            if not isinstance(unseal(data, swarm.run, Announcement).message, Presence):
                for each in heard:
                    await original(*each)

        author.publish = publish  # type: ignore[method-assign]
        held = swarm.peers[0].round
        await swarm.reach(held + 8, range(3), seconds=60)
        await swarm.same_root(range(3))
        assert swarm.share(0, of=1).share > 0

    play(tmp_path, scenario)
