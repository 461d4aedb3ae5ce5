"""A stranger to a private run: it knows every address and the run's id, and does all it can.

    python -m tests.attacks.stranger RUN FOLDER ADDRESS...

It goes on until it is ended, and writes to its standard output whatever it is told.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Never

from dht.addresses import parse
from dht.daemon import DaemonRefusedError
from dht.door import DOOR_PROTOCOL, Hello, mark_of
from dht.engine import dht_pb2, get_dht_time
from dht.swarm import NetworkError
from node.exchange.setting import exchange_protocol
from node.home.lifeline import die_with_parent
from protocol.affairs import Tidings, affairs_protocol
from protocol.codec import encode
from protocol.invites import INVITE_PROTOCOL, InviteTerms, Redeem
from protocol.membership import Passport
from protocol.records import Record
from protocol.signing import seal
from protocol.trees import ManifestRequest, tree_protocol
from tests.attacks.hostile import Hostile, frame, hostile, until_cut
from tests.test_fence import nested_extensions

SPELL_SECONDS = 5.0
"""Then it comes as somebody else: nobody listens any more to who it was."""
KINDS = 3
AT_ONCE = 32


class Stranger:
    """Attacks the node at `addresses` for the sake of `run`."""

    def __init__(self, run: bytes, folder: Path, addresses: Sequence[str]) -> None:
        self._run = run
        self._folder = folder
        self._addresses = addresses
        self._host = parse(addresses[0]).peer

    async def attack(self) -> None:
        """Do all at once, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for number, kind in enumerate([self._knock, self._store, self._search]):
                tasks.create_task(self._for_ever(number, kind))

    async def _for_ever(self, number: int, kind: Callable[[Hostile], Awaitable[None]]) -> Never:
        while True:
            with contextlib.suppress(NetworkError, TimeoutError, OSError, ExceptionGroup):
                async with (
                    hostile(self._folder, number, self._addresses) as found,
                    asyncio.timeout(SPELL_SECONDS),
                ):
                    await kind(found)
            number += KINDS

    async def _store(self, found: Hostile) -> None:
        request = dht_pb2.StoreRequest(
            keys=[os.urandom(20)],
            subkeys=[found.peer_id.encode()],
            values=[bytes(1_000_000)],
            expiration_time=[get_dht_time() + 60],
            in_cache=[False],
        ).SerializeToString()
        await self._call_for_ever(found, "rpc_store", request)

    async def _search(self, found: Hostile) -> None:
        keys = [os.urandom(20) for _ in range(16)]
        request = dht_pb2.FindRequest(keys=keys).SerializeToString()
        await self._call_for_ever(found, "rpc_find", request)

    async def _call_for_ever(self, found: Hostile, procedure: str, request: bytes) -> None:
        async def ask() -> None:
            while True:
                await found.call(procedure, request)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(ask())

    async def _knock(self, found: Hostile) -> None:
        run = self._run
        own = Passport(seal(found.identity, run, Tidings(digest=bytes(32))).envelope)
        hellos = [
            encode(Hello(mark_of(run, found.peer_id, self._host), service, passport))
            for service in (tree_protocol(run), affairs_protocol(run), "broadcast")
            for passport in (Passport(), own)
        ]
        terms = InviteTerms(key=bytes(32), uses=9, role="steward", expires=1 << 40)
        redeem = encode(Redeem(run, terms, bytes(64), bytes(64), enter=True))
        frames = {
            DOOR_PROTOCOL: [*hellos, nested_extensions(1_200), b""],
            tree_protocol(run): [encode(ManifestRequest())],
            exchange_protocol(run): [nested_extensions(1_200)],
            affairs_protocol(run): [encode(Tidings(digest=bytes(32)))],
        }
        await self._ask(found, INVITE_PROTOCOL, redeem, told=False)
        for protocol, wanted in frames.items():
            for data in wanted:
                await self._ask(found, protocol, data)
        record = Record(run, "presence", 0, get_dht_time() + 60, b"here I am")
        await found.say(f"talkoot/1/{run.hex()}", seal(found.identity, run, record).envelope)

    async def _ask(self, found: Hostile, protocol: str, data: bytes, *, told: bool = True) -> None:
        try:
            channel = await found.open(protocol)
        except DaemonRefusedError:
            return  # nobody serves it
        await frame(channel, data)
        answer = await until_cut(channel)
        if told and answer:
            sys.stdout.buffer.write(protocol.encode() + b": " + answer + b"\n")
            sys.stdout.flush()


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    run_id, workplace, *places = sys.argv[1:]
    asyncio.run(Stranger(bytes.fromhex(run_id), Path(workplace), places).attack())
