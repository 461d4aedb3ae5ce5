"""The members of one roll call on the in-process network, some honest, some driven by hand."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_streams import MemoryStream
from dht.swarm import Handler, Stream
from dht.virtual_time import run
from node.exchange.exchange import Exchange
from node.exchange.outcome import Outcome
from node.exchange.server import ExchangeServer
from node.exchange.setting import (
    ExchangeSetting,
    ExchangeTiming,
    Update,
    exchange_protocol,
)
from node.exchange.wire import Floats, pack_update, unpack_update
from protocol.codec import decode, encode
from protocol.evidence import Sent
from protocol.identity import Identity, PeerId
from protocol.layout import Layout, TensorSpec
from protocol.ledger import NO_LEDGER, Ledger
from protocol.manifest import Rule, TrustSpec
from protocol.merkle import leaf_hash
from protocol.rollcall import Commitment, Roll, assign_reducers, backup_of, call_roll, open_roll
from protocol.signing import Signed, seal, unseal
from protocol.transfers import TRANSFER_FRAME_BYTES, Aggregate, Offer, Part, Receipt

RUN = bytes(range(32))
PREV_ROOT = bytes(32)
LAYOUT = Layout(
    (
        TensorSpec(name="a", shape=(2_000,)),
        TensorSpec(name="b", shape=(130_000,)),
        TensorSpec(name="c", shape=(2_000,)),
    )
)
"""Three chunks: of four members with the same capacity the first three reduce one each."""
TIMING = ExchangeTiming(open=5.0, stall=5.0, inputs=10.0)


def values_of(number: int) -> Floats:
    """Return a member's update, which float16 holds exactly."""
    return np.full(LAYOUT.size, number + 1, np.float32)


@dataclass
class Group:
    """One roll call. Members are named by their place in it."""

    network: MemoryNetwork
    identities: list[Identity]
    swarms: list[MemorySwarm]
    capacities: Sequence[int]
    rule: Rule
    updates: list[Update]
    roll: Roll = field(init=False)
    steps: dict[int, int] = field(default_factory=dict)
    """Of those that did not do one."""
    ledger: Ledger = NO_LEDGER
    kinds: dict[int, type[Exchange]] = field(default_factory=dict)
    """Of those that don't run an honest exchange."""
    servers: dict[int, ExchangeServer] = field(default_factory=dict)
    shown: list[Roll] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.call_roll()

    def call_roll(self) -> None:
        self.roll = self.roll_of(range(len(self.identities)), self.capacities)

    @property
    def refused(self) -> Counter[str]:
        return self.network.refused

    def peer(self, number: int) -> PeerId:
        return self.identities[number].peer_id

    def commitment(self, number: int, capacity: int, round_: int = 0) -> Signed[Commitment]:
        commitment = Commitment(
            round=round_,
            prev_root=PREV_ROOT,
            at=0.0,
            samples=10,
            steps=self.steps.get(number, 1),
            loss=None,
            capacity=capacity,
            update_root=self.updates[number].root,
        )
        return seal(self.identities[number], RUN, commitment)

    def roll_of(self, numbers: Iterable[int], capacities: Sequence[int], round_: int = 0) -> Roll:
        """Return a roll call of these members; the first of them is its convener."""
        members = list(numbers)
        signed = [self.commitment(n, capacities[n], round_) for n in members]
        call = call_roll(round_, PREV_ROOT, 0.0, signed)
        return open_roll(seal(self.identities[members[0]], RUN, call), RUN)

    def reducer_of(self, chunk: int) -> int:
        sizes = [stop - start for start, stop in LAYOUT.chunks]
        return assign_reducers(self.capacities, sizes)[chunk]

    def backup_of(self, chunk: int) -> int:
        backup = backup_of(self.reducer_of(chunk), self.capacities)
        assert backup is not None
        return backup

    async def serve(self, number: int) -> ExchangeServer:
        server = ExchangeServer(self.swarms[number], RUN, self.shown.append)
        await self.stack.enter_async_context(server.serving())
        self.servers[number] = server
        return server

    async def serve_by_hand(self, number: int, handler: Handler) -> None:
        swarm, protocol = self.swarms[number], exchange_protocol(RUN)
        await swarm.unserve(protocol)
        await swarm.serve(protocol, TRANSFER_FRAME_BYTES, handler)

    def exchange_of(self, number: int) -> Exchange:
        setting = ExchangeSetting(
            self.swarms[number],
            self.identities[number],
            RUN,
            LAYOUT,
            TrustSpec(self.rule),
            frozenset(),
            self.ledger,
            TIMING,
        )
        return self.kinds.get(number, Exchange)(setting, self.roll, self.updates[number])

    async def take_part(self, number: int) -> Outcome:
        """Exchange as an honest member does."""
        server = self.servers.get(number) or await self.serve(number)
        exchange = self.exchange_of(number)
        server.add(exchange)
        return await exchange.run()

    async def exchange(self, numbers: Iterable[int]) -> dict[int, Outcome]:
        """Let these members exchange at the same time."""
        async with asyncio.TaskGroup() as tasks:
            running = {n: tasks.create_task(self.take_part(n), name=f"member {n}") for n in numbers}
        return {number: task.result() for number, task in running.items()}

    async def open(self, number: int, to: int) -> MemoryStream:
        return await self.swarms[number].open(
            self.peer(to), exchange_protocol(RUN), TRANSFER_FRAME_BYTES
        )

    def offer(self, number: int, *chunks: int, roll: Roll | None = None) -> bytes:
        envelope = (roll or self.roll).envelope
        return encode(Offer(envelope, chunks, self.updates[number].leaves))

    def part(self, number: int, chunk: int, **changes: object) -> bytes:
        """Return a part as its sender signs for it, or with another `sent`."""
        data = self.updates[number].parts[chunk]
        return encode(Part(chunk, data, self.sent(number, chunk, data, **changes)))

    def sent(self, number: int, chunk: int, data: bytes, **changes: object) -> bytes:
        said = Sent(self.roll.round, self.roll.digest, chunk, leaf_hash(data))
        return seal(self.identities[number], RUN, replace(said, **changes)).envelope


def play(
    members: int,
    story: Callable[[Group], Awaitable[None]],
    *,
    capacities: Sequence[int] | None = None,
    rule: Rule = "mean",
    updates: dict[int, Update] | None = None,
) -> None:
    """Run `story` in virtual time over `members` connected peers, one of which is a stranger.

    The stranger is the last of `group.swarms` and not in the roll call.
    """

    async def main() -> None:
        network = MemoryNetwork(1)
        identities = sorted(
            (Identity.from_seed(bytes([number + 1]) * 32) for number in range(members)),
            key=lambda identity: identity.peer_id,
        )
        packed = [Update.pack(values_of(number), LAYOUT) for number in range(members)]
        for number, update in (updates or {}).items():
            packed[number] = update
        async with AsyncExitStack() as stack:
            swarms = [
                await stack.enter_async_context(MemorySwarm(network, identity))
                for identity in [*identities, Identity.from_seed(b"s" * 32)]
            ]
            for swarm in swarms[1:]:
                await swarm.connect(await swarms[0].addresses())
            group = Group(
                network, identities, swarms, capacities or [1_000] * members, rule, packed
            )
            async with group.stack:
                await story(group)

    run(main(), limit_seconds=500)


async def answer_with(group: Group, number: int, change: Callable[[Aggregate], Aggregate]) -> None:
    """Let member `number` reduce by hand: its own update for the aggregate, changed."""

    async def handler(stream: Stream) -> None:
        offer = decode(await stream.receive(), Offer)
        for chunk in offer.chunks:
            await stream.send(encode(change(aggregate_of(group, number, chunk))))
        await stream.receive()

    await group.serve_by_hand(number, handler)


def aggregate_of(group: Group, number: int, chunk: int, values: Floats | None = None) -> Aggregate:
    """Return `values`, else its own update, signed for by member `number` with true figures."""
    start, stop = LAYOUT.chunks[chunk]
    sent = [unpack_update(update.parts[chunk], stop - start) for update in group.updates]
    rows = [np.nan_to_num(row) for row in sent]
    values = rows[number] if values is None else values
    data = pack_update(values)
    receipt = Receipt(
        round=group.roll.round,
        roll=group.roll.digest,
        chunk=chunk,
        leaf=leaf_hash(data),
        shares=(1 / len(rows),) * len(rows),
        distances=tuple(length(row - values) for row in rows),
        norms=tuple(length(row) for row in rows),
        norm=length(values),
    )
    return Aggregate(chunk, data, seal(group.identities[number], RUN, receipt).envelope)


def resigned(group: Group, number: int, aggregate: Aggregate, **changes: object) -> Aggregate:
    """Return an aggregate with another receipt, signed for by member `number`."""
    changed = replace(unseal(aggregate.receipt, RUN, Receipt).message, **changes)
    return replace(aggregate, receipt=seal(group.identities[number], RUN, changed).envelope)


def length(values: Floats) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
