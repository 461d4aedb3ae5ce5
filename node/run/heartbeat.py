"""What a worker does at intervals: say that it is here, look up what it missed, stay connected."""

import asyncio
import logging
from collections.abc import Collection
from itertools import count

from dht.swarm import NetworkError
from node.home.address_book import MAX_ADDRESS_CHARACTERS
from node.run.channel import RunChannel
from node.run.setting import RunSetting, Tally
from protocol.events import Result
from protocol.identity import PeerId
from protocol.presence import LEAVING_STATE, Presence
from protocol.rollcall import Commitment
from protocol.rounds import Phase, RoundMachine
from protocol.signing import Signed

log = logging.getLogger(__name__)

PRESENCE_SECONDS = 3.0
PRESENCE_RECORD_SECONDS = 30.0
LOOK_UP_SECONDS = 2.0
PRESENCE_TURNS = 11
"""Of `LOOK_UP_SECONDS`: at other moments each time than those at which our own is stored, or a
second node with our identity might never be seen."""
DIAL_TURNS, SAVE_TURNS = 10, 5
"""Of `PRESENCE_SECONDS`."""
_SOON_TURNS = frozenset({1, 2, 4})
"""Without a connection; who has been alone for longer may be for days."""
LEAVE_SECONDS = 0.5
MAX_ADDRESSES = 16
CLOCK_STEP_SECONDS = 1e-3
"""Between words that are said at once, by a coarse clock."""


class Heartbeat:
    """The periodic work of one run.

    `announce`, `look_up` and `keep_connected` run for ever: a network that fails a call is asked
    again at the next turn, and its end is for `RunChannel.listen` to tell.
    """

    def __init__(
        self, setting: RunSetting, machine: RoundMachine, channel: RunChannel, tally: Tally
    ) -> None:
        self.commitment: Signed[Commitment] | None = None
        """Our own of the current round, repeated while we wait for the roll call."""
        self.result: Signed[Result] | None = None
        """Our vote of the current round, repeated while we wait for the others'."""
        self._set = setting
        self._machine = machine
        self._channel = channel
        self._tally = tally
        self._addresses: list[str] = []
        self._said_at = 0.0

    async def announce(self) -> None:
        """Say where we are, and repeat what others may have missed."""
        while True:
            await self._find_addresses()
            self.say_presence(record=True)
            for _ in range(int(PRESENCE_RECORD_SECONDS / PRESENCE_SECONDS)):
                await asyncio.sleep(PRESENCE_SECONDS)
                self.say_presence()
                if said := self._unanswered:
                    self._channel.say(said)

    @property
    def _unanswered(self) -> Signed[Commitment] | Signed[Result] | None:
        """Our last word in the round, if others may have missed what we wait for them to hear."""
        words = {Phase.COMMITTED: self.commitment, Phase.AGREEING: self.result}
        head, said = self._machine.head, words.get(self._machine.phase)
        return said if said and head and said.message.round == head.round else None

    async def _find_addresses(self) -> None:
        try:
            found = await self._set.swarm.addresses()
            self._addresses = [each for each in found if len(each) <= MAX_ADDRESS_CHARACTERS]
        except NetworkError as error:
            log.info("our own addresses are not known: %s", error)

    def say_presence(self, *, record: bool = False) -> None:
        """Say once where we are; who neither holds nor fetches a state says nothing."""
        if presence := self._presence(self.state):
            self._channel.say(presence, "presence" if record else None)

    async def say_goodbye(self) -> None:
        """Say once that we leave, within `LEAVE_SECONDS`; if that fails, silence will tell."""
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                if presence := self._presence(LEAVING_STATE):
                    await self._channel.say_at_once(presence)
        except TimeoutError:
            log.debug("no goodbye")

    @property
    def state(self) -> str:
        """What we do, in the word that others hear."""
        head = self._machine.head
        if head is not None and self._set.is_finished(head.round):
            return "finished"
        if self._tally.paused and self._machine.phase is Phase.TRAINING:
            return "paused"
        return self._machine.phase.value

    def _presence(self, state: str) -> Signed[Presence] | None:
        head = self._machine.target or self._machine.head
        if head is None:
            return None
        presence = Presence(
            at=self._next_time(),
            name=self._set.name,
            round=head.round,
            root=head.root,
            prev_root=head.prev_root,
            samples=self._tally.samples_in_round,
            samples_per_second=self._tally.samples_per_second,
            capacity=self._tally.capacity,
            addresses=tuple(self._addresses[:MAX_ADDRESSES]),
            state=state,
            nonce=self._set.nonce,
            device=self._set.device,
        )
        return self._channel.sign(presence)

    def _next_time(self) -> float:
        """Return the time, or a little later, so that this word counts as later than the last."""
        now, later = self._set.swarm.time(), self._said_at + CLOCK_STEP_SECONDS
        self._said_at = later if now < later < now + 1 else now
        return self._said_at

    async def look_up(self) -> None:
        """Read from the DHT what we wait for and did not hear."""
        before = None
        for turn in count():
            head = self._machine.head
            now = self._machine.phase, head
            self._tally.doubled = self._channel.doubled
            if self._machine.phase is Phase.JOINING or turn % PRESENCE_TURNS == 0:
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
        """Dial whom we know and lost; so two halves of a split swarm find each other again.

        Who has nobody left, as after a network process that died, dials sooner.
        """
        alone = 0
        for turn in count():
            connected = await self._connected()
            alone = 0 if connected else alone + 1
            if turn % DIAL_TURNS == 0 or alone in _SOON_TURNS:
                await self._dial_lost(connected)
            if turn % SAVE_TURNS == 0:
                await self._set.book.save()
            self._note_live()
            await asyncio.sleep(PRESENCE_SECONDS)

    async def _connected(self) -> set[PeerId]:
        try:
            return await self._set.swarm.connected()
        except NetworkError as error:
            log.info("who is connected is not known: %s", error)
            return set()

    def _note_live(self) -> None:
        live = self._machine.live.peers()
        self._set.book.note_live({peer: live[peer].presence.addresses for peer in live})

    async def _dial_lost(self, connected: Collection[PeerId]) -> None:
        try:
            if lost := self._set.book.addresses(without=connected):
                await self._set.swarm.connect(lost)
        except NetworkError as error:  # one liar's wrong clock is among these
            log.warning("peers we lost can't be reached: %s", error)
