"""A peer of talkoot that does nothing but exchange, by its own p2pd on loopback."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benches.peers.friends import Friends
from benches.peers.group import Timed
from benches.peers.stopwatch import Stopwatch
from dht.hivemind_swarm import HivemindSwarm
from node.exchange.exchange import Exchange
from node.exchange.server import ExchangeServer
from node.exchange.setting import ExchangeSetting, ExchangeTiming, Update
from node.exchange.wire import Floats
from protocol.identity import Identity
from protocol.layout import Layout, TensorSpec
from protocol.ledger import NO_LEDGER
from protocol.manifest import TrustSpec
from protocol.rollcall import Commitment, RollCall, call_roll, open_roll
from protocol.signing import seal, unseal

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
RUN = bytes(range(32))
STATE_ROOT = bytes(32)


def serve(pipe: Connection, number: int, folder: Path, tensors: tuple[int, ...]) -> None:
    """Be a peer with tensors of these sizes; keep its identity in `folder`."""
    asyncio.run(_serve(pipe, number, folder, tensors))


async def _serve(pipe: Connection, number: int, folder: Path, tensors: tuple[int, ...]) -> None:
    identity = Identity.from_seed(bytes([number + 1]) * 32)
    path = folder / f"identity-{number}"
    path.write_bytes(identity.to_libp2p())
    specs = (TensorSpec(name=f"t{index}", shape=(size,)) for index, size in enumerate(tensors))
    async with HivemindSwarm(identity, path, listen=LOOPBACK) as swarm:
        peer = Peer(identity, swarm, Layout(tuple(specs)), seed=number)
        async with peer.server.serving():
            pipe.send("ready")
            await _answer_calls(pipe, peer)


async def _answer_calls(pipe: Connection, peer: "Peer") -> None:
    methods: dict[str, Callable[[Any], Awaitable[object]]] = {
        "addresses": peer.addresses,
        "connect": peer.connect,
        "commit": peer.commit,
        "call_roll": peer.call_roll,
        "prepare": peer.prepare,
        "exchange": peer.exchange,
        "trust": peer.trust,
        "believe": peer.believe,
    }
    while True:
        try:
            method, argument = await asyncio.to_thread(pipe.recv)
        except EOFError:
            return
        pipe.send(await methods[method](argument))


class Peer:
    """Goes through the exchange of one round after the other as the benchmark says."""

    def __init__(self, identity: Identity, swarm: HivemindSwarm, layout: Layout, seed: int) -> None:
        self.server = ExchangeServer(swarm, RUN, on_roll=lambda _: None)
        self._identity = identity
        self._swarm = swarm
        self._layout = layout
        self._values = _update(layout.size, seed)
        self._round = -1
        self._update = Update.pack(self._values, layout)
        self._exchange: Exchange | None = None
        self._stopwatch = Stopwatch()
        self._stopwatch.attach()
        self._friends = Friends()

    async def addresses(self, _: None) -> list[str]:
        """Return where others reach this peer."""
        return await self._swarm.addresses()

    async def connect(self, addresses: list[str]) -> int:
        """Return how many peers answered."""
        return len(await self._swarm.connect(addresses))

    async def commit(self, _: None) -> Timed:
        """Serialize the update and sign for it: the result is the commitment."""
        self._round += 1
        self._stopwatch.start()
        began = time.monotonic()
        self._update = Update.pack(self._values, self._layout)
        commitment = Commitment(
            round=self._round,
            prev_root=STATE_ROOT,
            at=self._swarm.time(),
            samples=100,
            steps=50,
            loss=None,
            capacity=10_000_000,
            update_root=self._update.root,
        )
        envelope = seal(self._identity, RUN, commitment).envelope
        return began, time.monotonic(), envelope

    async def call_roll(self, commitments: list[bytes]) -> bytes:
        """Return the roll call over these commitments, signed by this peer."""
        signed = [unseal(envelope, RUN, Commitment) for envelope in commitments]
        call = call_roll(self._round, STATE_ROOT, self._swarm.time(), signed)
        return seal(self._identity, RUN, call).envelope

    async def prepare(self, envelope: bytes) -> None:
        """Take note of the roll call."""
        roll = open_roll(unseal(envelope, RUN, RollCall), RUN)
        timing = ExchangeTiming.for_bytes(2 * self._layout.size, len(roll.members))
        setting = ExchangeSetting(
            self._swarm,
            self._identity,
            RUN,
            self._layout,
            TrustSpec("clip"),
            frozenset(),
            NO_LEDGER,
            timing,
        )
        self._exchange = Exchange(setting, roll, self._update)

    async def exchange(self, _: None) -> Timed:
        """Exchange: the result is the aggregate's digest, the bytes sent, and the faults."""
        if self._exchange is None:
            raise RuntimeError("there is no roll call")
        began = time.monotonic()
        self.server.add(self._exchange)
        outcome = await self._exchange.run()
        ended = time.monotonic()
        digest = sha256(outcome.aggregate.data).hexdigest()
        return began, ended, (digest, outcome.bytes_sent, {**outcome.faults})

    async def trust(self, _: None) -> dict[str, float]:
        """Return what trust took since the commitment was begun (`Stopwatch.read`)."""
        return self._stopwatch.read()

    async def believe(self, everybody: bool) -> None:
        """Exchange as among friends from now on, or as among strangers."""
        self._friends.believe(everybody=everybody)


def _update(size: int, seed: int) -> Floats:
    """Return float32 (size,): what all peers have in common, and noise of its own."""
    common = np.random.default_rng(0).standard_normal(size, np.float32)
    return 0.3 * common + np.random.default_rng(seed + 1).standard_normal(size, np.float32)
