"""What a peer says to all others of its run, and hears from them.

Everything is said twice: broadcast at once, and stored in the DHT as the record of truth for who
missed it. Both ways in lead through the same checks to the same events.

What strangers can cost is bounded: each author has an allowance, by which a roll call counts for as
many messages as its signatures take to check; and nothing waits for the network without a limit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dht.swarm import NetworkError, Swarm
from node.run.allowances import Allowances
from protocol.codec import Message
from protocol.errors import AdmissionError, ProtocolError, RecordError, RoundError, SignatureError
from protocol.events import (
    AccusationHeard,
    Announcement,
    CommitmentHeard,
    Event,
    PresenceHeard,
    Result,
    ResultHeard,
    RollHeard,
)
from protocol.identity import Identity, PeerId
from protocol.presence import Presence
from protocol.proof_of_work import is_paid
from protocol.records import Record, RecordKey, Topic
from protocol.rollcall import NO_TERMS, Accusation, Commitment, RollCall, Terms, open_roll
from protocol.signing import MessageT, Signed, seal, unseal

log = logging.getLogger(__name__)

RECORD_SECONDS = 120.0
PRESENCE_SKEW_SECONDS = 60.0
"""A presence older than this, or as far in the future, is not believed."""
MEMBERS_PER_MESSAGE = 8
"""So many signatures in a roll call cost as much as a message."""
DHT_SECONDS = 15.0
"""For a record to be stored or looked up; a DHT in trouble takes longer, and is tried again."""
MAX_UNSAID = 64
"""While p2pd takes nothing, older words give way to newer ones."""
MAX_PRESENCES = 64
"""Of our own records, to tell them from those of a node with our identity."""
TWIN_SECONDS = 5.0
"""What we said before a start is no twin's word, by a clock that was set back a little."""
AT_ONCE = 32
"""Messages heard or looked up until others have their turn."""


@dataclass(frozen=True, slots=True)
class ChannelRules:
    """What a run asks of everybody's words."""

    total: int | None = None
    """The round after which the run is finished; None = it goes on."""
    terms: Terms = NO_TERMS
    """What is asked of every commitment."""


class RunChannel:
    """The broadcasts and records of one run.

    Args:
        swarm: the network.
        identity: who we are.
        run: the run's 32-byte id.
        post: takes each event that was heard and checked.
        rules: what the run asks of everybody's words.
    """

    def __init__(
        self,
        swarm: Swarm,
        identity: Identity,
        run: bytes,
        post: Callable[[Event], None],
        rules: ChannelRules = ChannelRules(),
    ) -> None:
        self._swarm = swarm
        self._identity = identity
        self._run = run
        self._post = post
        self._total = rules.total
        self._terms = rules.terms
        self._topic = f"talkoot/1/{run.hex()}"
        self._unsaid: deque[bytes] = deque(maxlen=MAX_UNSAID)
        self._unsaid_filled = asyncio.Event()
        self._outbox: dict[Topic, tuple[RecordKey, bytes]] = {}
        self._outbox_filled = asyncio.Event()
        self._allowances = Allowances()
        self._began_at = swarm.time()
        self._presences: deque[bytes] = deque(maxlen=MAX_PRESENCES)
        """Our own that may still be in the DHT."""
        self.doubled = False
        """Whether another node has our identity."""

    def sign(self, message: MessageT) -> Signed[MessageT]:
        """Sign a message for this run."""
        return seal(self._identity, self._run, message)

    def say(self, signed: Signed[Announcement], topic: Topic | None = None) -> None:
        """Broadcast a message; with a topic, also leave it in the DHT. Best effort: see `speak`.

        Args:
            signed: our own message.
            topic: where its record belongs; it takes the place of one that still waits.
        """
        self._unsaid.append(signed.envelope)
        self._unsaid_filled.set()
        if topic is not None:
            round_ = 0 if topic == "presence" else signed.message.round
            self._outbox[topic] = RecordKey(self._run, topic, round_), signed.envelope
            self._outbox_filled.set()

    async def say_at_once(self, signed: Signed[Announcement]) -> None:
        """Broadcast a message before anything else."""
        await self._publish(signed.envelope)

    async def speak(self) -> None:
        """Broadcast what is said, for ever."""
        while True:
            await self._unsaid_filled.wait()
            self._unsaid_filled.clear()
            while self._unsaid:
                await self._publish(self._unsaid.popleft())

    async def _publish(self, envelope: bytes) -> None:
        try:
            await self._swarm.publish(self._topic, envelope)
        except NetworkError as error:
            log.debug("broadcast failed: %s", error)

    async def listen(self) -> None:
        """Hear broadcasts for ever.

        Raises:
            NetworkError: the network has ended.
        """
        number = 0
        async with self._swarm.subscribe(self._topic) as broadcasts:
            async for author, data in broadcasts:
                self._hear(author, data)
                number += 1
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        raise NetworkError("the network has ended")

    async def keep_records(self) -> None:
        """Store what was said in the DHT, one record after the other, for ever."""
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            while self._outbox:
                await self._store(*self._outbox.pop(next(iter(self._outbox))))

    async def _store(self, key: RecordKey, envelope: bytes) -> None:
        record = Record(
            run=key.run,
            topic=key.topic,
            round=key.round,
            expires=self._swarm.time() + RECORD_SECONDS,
            body=envelope,
        )
        sealed = seal(self._identity, self._run, record)
        if key.topic == "presence":
            self._presences.append(envelope)
        try:
            async with asyncio.timeout(DHT_SECONDS):
                await self._swarm.store(key, sealed.envelope)
        except (NetworkError, TimeoutError) as error:
            log.debug("record not stored: %s", error)

    async def look_up(self, topic: Topic, round_: int = 0) -> None:
        """Read the records of a topic as if they had been broadcast."""
        try:
            async with asyncio.timeout(DHT_SECONDS):
                found = await self._swarm.fetch(RecordKey(self._run, topic, round_))
        except (NetworkError, TimeoutError) as error:
            log.debug("records not read: %s", error)
            return
        for number, data in enumerate(found, start=1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                record = unseal(data, self._run, Record)
                self._look_for_twin(record)
            except ProtocolError as error:
                self._swarm.report(None, error)
            else:
                self._hear(record.signer, record.message.body)

    def _look_for_twin(self, record: Signed[Record]) -> None:
        """Note whether another node signs with our key, which is seen in no broadcast."""
        if record.signer != self._identity.peer_id or record.message.body in self._presences:
            return
        said = unseal(record.message.body, self._run, Announcement).message
        if isinstance(said, Presence) and said.at > self._began_at + TWIN_SECONDS:
            if not self.doubled:
                log.error("another node has this node's identity, and takes part as %s", said.name)
            self.doubled = True

    def _hear(self, author: PeerId, data: bytes) -> None:
        if author == self._identity.peer_id:
            return
        try:
            self._allowances.spend(author)
            signed = unseal(data, self._run, Announcement)
            if signed.signer != author:
                raise SignatureError("it speaks with somebody else's words")
            self._check_round(signed.message)
            self._post(self._to_event(signed))
        except ProtocolError as error:
            self._swarm.report(author, error)

    def _to_event(self, signed: Signed[Message]) -> Event:
        signer, envelope = signed.signer, signed.envelope
        match signed.message:
            case Presence() as presence:
                self._check_work(signer, presence.nonce)
                if abs(presence.at - self._swarm.time()) > PRESENCE_SKEW_SECONDS:
                    raise RecordError("its clock differs by more than a minute, or it is a replay")
                return PresenceHeard(signer, presence)
            case Commitment() as commitment:
                committed = Signed(signer, commitment, envelope)
                self._terms.check(self._run, committed)
                return CommitmentHeard(committed)
            case RollCall() as call:
                self._allowances.spend(signer, len(call.commitments) // MEMBERS_PER_MESSAGE)
                roll = Signed(signer, call, envelope)
                return RollHeard(open_roll(roll, self._run, self._terms))
            case Accusation() as accusation:
                return AccusationHeard(Signed(signer, accusation, envelope))
            case Result() as result:
                return ResultHeard(Signed(signer, result, envelope))
            case other:
                raise RecordError(f"a {type(other).__name__} is no announcement")

    def _check_work(self, peer: PeerId, nonce: int) -> None:
        if not is_paid(self._run, peer, nonce, self._terms.work_bits):
            raise AdmissionError("it has no proof of work")

    def _check_round(self, message: Message) -> None:
        """Refuse what goes on beyond the end: nobody honest is there any more to outvote it."""
        if self._total is None:
            return
        match message:
            case Presence() if message.round > self._total:
                raise RoundError("it stands beyond the run's last round")
            case Commitment() | RollCall() | Result() if message.round >= self._total:
                raise RoundError("the run has no such round")
            case _:
                pass
