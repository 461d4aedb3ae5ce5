"""Liars of simulated runs, by the names that plans use: attacks of trust.attacks, and some more."""

import asyncio
from hashlib import sha256

from msgspec.structs import replace

from node.demo.liar import liar_of
from node.demo.spsa_liar import spsa_attacks, spsa_liar_of
from node.exchange.setting import Update
from node.exchange.wire import Floats
from node.run.local import LocalWorker
from node.run.spsa import SpsaWorker
from node.run.worker import Worker
from node.store.state import State
from protocol.events import Result
from protocol.presence import Head, Presence
from protocol.rollcall import Roll
from protocol.signing import MessageT, Signed
from tests.chain_liars import Forging, OutOfTurn, TwoBlocks, closing_by
from trust.attacks import ATTACKS

FORGE_SECONDS = 3.0


def local_liar(lie: str) -> type[LocalWorker]:
    """Return a worker of method `local` that lies so; "" = an honest one."""
    match lie:
        case "":
            return LocalWorker
        case "forged-roots":
            return ForgingLocal
        case "silent":
            return Silent
        case "copycats":

            class TheseCopycats(Copycat):
                said: dict[int, Floats] = {}  # noqa: RUF012 - all that lie so share it

            return TheseCopycats
        case _:
            return liar_of(ATTACKS[lie])


def spsa_liar(lie: str) -> type[SpsaWorker]:
    """Return a worker of method `spsa` that lies so; "" = an honest one."""
    match lie:
        case "":
            return SpsaWorker
        case "forged-roots":
            return ForgingSpsa
        case "two-blocks":
            return closing_by(TwoBlocks)
        case "out-of-turn":
            return closing_by(OutOfTurn)
        case "forged-tickets":
            return closing_by(Forging)
        case _:
            return spsa_liar_of(spsa_attacks()[lie])


class Silent(LocalWorker):
    """Commits, then neither sends nor reduces."""

    async def _exchange(self, roll: Roll) -> None:
        await asyncio.Event().wait()


class Copycat(LocalWorker):
    """Sends what the first of its kind sends: one peer's work under many names."""

    said: dict[int, Floats]

    def _pack(self, update: Floats, state: State) -> Update:
        return super()._pack(self.said.setdefault(state.round, update), state)


class Forger(Worker):
    """Votes for roots that it made up, and says that it stands on them, or far ahead."""

    async def run(self) -> None:
        sign = self._channel.sign

        def lie(message: MessageT) -> Signed[MessageT]:
            if isinstance(message, Result):
                message = replace(message, root=_forged(message.root))
            return sign(message)

        self._channel.sign = lie  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as tasks:
            forging = tasks.create_task(self._forge(), name="forge")
            try:
                await super().run()
            finally:
                forging.cancel()

    async def _forge(self) -> None:
        while True:
            await asyncio.sleep(FORGE_SECONDS)
            head = self.machine.head
            if head is None:
                continue
            for claimed in (
                Head(head.round, _forged(head.root), head.prev_root),
                Head(head.round + 1, _forged(head.root), head.root),
                Head(head.round + 1000, _forged(head.root), head.root),
            ):
                self._channel.say(self._channel.sign(self._presence(claimed)))
                await asyncio.sleep(FORGE_SECONDS)

    def _presence(self, head: Head) -> Presence:
        return Presence(
            at=self._set.swarm.time(),
            name=self._set.name,
            round=head.round,
            root=head.root,
            prev_root=head.prev_root,
            samples=1 << 40,
            samples_per_second=1e12,
            capacity=1 << 40,
            addresses=(),
            state="training",
        )


def _forged(root: bytes) -> bytes:
    return sha256(b"forged" + root).digest()


class ForgingLocal(Forger, LocalWorker):
    """A forger of method `local`."""


class ForgingSpsa(Forger, SpsaWorker):
    """A forger of method `spsa`."""
