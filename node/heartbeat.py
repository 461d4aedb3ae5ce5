"""What a worker does at intervals: say that it is here, look up what it missed, stay connected."""

import asyncio

from node.channel import RunChannel
from node.run_setting import RunSetting, Tally
from protocol.presence import Presence
from protocol.rollcall import Commitment
from protocol.rounds import Phase, RoundMachine
from protocol.signing import Signed

PRESENCE_SECONDS = 3.0
PRESENCE_RECORD_SECONDS = 30.0
LOOK_UP_SECONDS = 2.0
DIAL_SECONDS = 30.0
MAX_ADDRESSES = 16


class Heartbeat:
    """The periodic work of one run; each public coroutine but `say_presence` runs for ever."""

    def __init__(
        self, setting: RunSetting, machine: RoundMachine, channel: RunChannel, tally: Tally
    ) -> None:
        self.commitment: Signed[Commitment] | None = None
        """Our own of the current round, repeated while we wait for the roll call."""
        self._set = setting
        self._machine = machine
        self._channel = channel
        self._tally = tally
        self._addresses: list[str] = []

    async def announce(self) -> None:
        """Say where we are, and repeat what others may have missed."""
        while True:
            self._addresses = await self._set.swarm.addresses()
            await self.say_presence(record=True)
            for _ in range(int(PRESENCE_RECORD_SECONDS / PRESENCE_SECONDS)):
                await asyncio.sleep(PRESENCE_SECONDS)
                await self.say_presence()
                if self.commitment and self._machine.phase is Phase.COMMITTED:
                    await self._channel.say(self.commitment)

    async def say_presence(self, *, record: bool = False, leaving: bool = False) -> None:
        """Say once where we are; who neither holds nor fetches a state says nothing."""
        head = self._machine.target or self._machine.head
        if head is None:
            return
        state = "finished" if self._set.is_finished(head.round) else self._machine.phase.value
        presence = Presence(
            at=self._set.swarm.time(),
            name=self._set.name,
            round=head.round,
            root=head.root,
            prev_root=head.prev_root,
            samples=self._tally.samples_in_round,
            samples_per_second=self._tally.samples_per_second,
            capacity=self._tally.capacity,
            addresses=tuple(self._addresses[:MAX_ADDRESSES]),
            state="leaving" if leaving else state,
        )
        await self._channel.say(self._channel.sign(presence), "presence" if record else None)

    async def look_up(self) -> None:
        """Read from the DHT what we wait for and did not hear."""
        before = None
        while True:
            head = self._machine.head
            now = self._machine.phase, head
            if self._machine.phase is Phase.JOINING:
                await self._channel.look_up("presence")
            elif now == before and head is not None:
                await self._look_up_round(head.round)
            before = now
            await asyncio.sleep(LOOK_UP_SECONDS)

    async def _look_up_round(self, round_: int) -> None:
        match self._machine.phase:
            case Phase.COMMITTED:
                await self._channel.look_up("roll", round_)
                await self._channel.look_up("rollcall", round_)
            case Phase.AGREEING:
                await self._channel.look_up("state", round_)
            case _:
                pass

    async def keep_connected(self) -> None:
        """Dial whom we know and lost; so two halves of a split swarm find each other again."""
        book = self._set.book
        while True:
            if lost := book.addresses(without=await self._set.swarm.connected()):
                await self._set.swarm.connect(lost)
            for _ in range(int(DIAL_SECONDS / PRESENCE_SECONDS)):
                for peer, live in self._machine.live.peers().items():
                    book.note(peer, live.presence.addresses)
                await asyncio.to_thread(book.save)
                await asyncio.sleep(PRESENCE_SECONDS)
