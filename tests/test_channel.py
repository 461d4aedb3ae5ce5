"""What a peer says reaches the others as checked events, and what it may cost them is bounded."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from dht.fence.refusals import DISCOURAGED_SECONDS
from dht.memory import MemoryNetwork, MemorySwarm
from dht.memory_links import Conditions
from dht.swarm import NetworkError
from dht.virtual_time import run
from node.run.allowances import MAX_AUTHORS, MESSAGES_PER_SECOND
from node.run.channel import (
    MAX_PRESENCES,
    MAX_UNSAID,
    RECORD_SECONDS,
    TWIN_SECONDS,
    ChannelRules,
    RunChannel,
)
from protocol.codec import Message
from protocol.events import (
    CommitmentHeard,
    Event,
    PresenceHeard,
    ResultHeard,
    RollHeard,
)
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.records import Record, RecordKey
from protocol.rollcall import Commitment, RollCall
from protocol.signing import Signed, seal, unseal
from tests.messages import (
    HEAD,
    OTHER_RUN,
    RUN,
    commitment,
    committed,
    identity,
    peer,
    presence,
    result,
    roll,
    roll_call,
)

TOPIC = f"talkoot/1/{RUN.hex()}"
ME, OTHER, STRANGER = 1, 2, 3
WORD = committed(OTHER)


@dataclass
class Scene:
    """Our channel, and the swarms of two others."""

    network: MemoryNetwork
    channel: RunChannel
    swarms: dict[int, MemorySwarm]
    heard: list[Event] = field(default_factory=list)

    @property
    def refused(self) -> Counter[str]:
        return self.swarms[ME].refused

    def now(self) -> float:
        return self.swarms[ME].time()

    async def broadcast(self, data: bytes, by: int = OTHER) -> None:
        """Broadcast any bytes and wait until they are heard."""
        await self.swarms[by].publish(TOPIC, data)
        await asyncio.sleep(0.1)

    async def say(self, message: Message, by: int = OTHER) -> None:
        await self.broadcast(seal(identity(by), RUN, message).envelope, by)

    async def record(self, key: RecordKey, body: bytes, by: int = OTHER) -> bool:
        """Leave a record with any body in the DHT."""
        message = Record(key.run, key.topic, key.round, self.now() + 60, body)
        envelope = seal(identity(by), key.run, message).envelope
        return await self.swarms[by].store(key, envelope)


def play(
    story: Callable[[Scene], Awaitable[None]],
    *,
    total: int | None = None,
    conditions: Conditions | None = None,
) -> None:
    async def main() -> None:
        network = MemoryNetwork(1, conditions)
        async with AsyncExitStack() as stack:
            swarms = {
                number: await stack.enter_async_context(MemorySwarm(network, identity(number)))
                for number in (ME, OTHER, STRANGER)
            }
            for swarm in swarms.values():
                await swarm.connect(await swarms[ME].addresses())
            heard: list[Event] = []
            channel = RunChannel(swarms[ME], identity(ME), RUN, heard.append, ChannelRules(total))
            async with asyncio.TaskGroup() as tasks:
                works = (channel.listen, channel.speak, channel.keep_records)
                working = [tasks.create_task(work()) for work in works]
                await asyncio.sleep(0)
                await story(Scene(network, channel, swarms, heard))
                for task in working:
                    task.cancel()

    run(main(), limit_seconds=1000)


def test_every_announcement_is_heard_as_its_event() -> None:
    async def story(scene: Scene) -> None:
        here = presence(at=scene.now())
        await scene.say(here)
        mine = committed(OTHER)
        await scene.broadcast(mine.envelope)
        call = roll_call(OTHER, [mine])
        await scene.broadcast(call.envelope)
        called = roll(OTHER, [mine])
        vote = result(OTHER, called)
        await scene.broadcast(vote.envelope)
        assert scene.heard == [
            PresenceHeard(peer(OTHER), here),
            CommitmentHeard(mine),
            RollHeard(called),
            ResultHeard(vote),
        ]
        assert not scene.refused

    play(story)


def test_what_we_say_is_broadcast_and_kept_as_a_record() -> None:
    async def story(scene: Scene) -> None:
        signed = scene.channel.sign(commitment())
        async with scene.swarms[OTHER].subscribe(TOPIC) as broadcasts:
            scene.channel.say(signed, "roll")
            assert await anext(broadcasts) == (peer(ME), signed.envelope)
        await asyncio.sleep(1)
        assert scene.heard == []  # not our own words
        assert await kept(scene, RecordKey(RUN, "roll", HEAD.round)) == [signed.envelope]
        await asyncio.sleep(RECORD_SECONDS)
        assert await kept(scene, RecordKey(RUN, "roll", HEAD.round)) == []

    play(story)


async def kept(scene: Scene, key: RecordKey) -> list[bytes]:
    found = await scene.swarms[STRANGER].fetch(key)
    return [scene.network.reader.read(envelope).message.body for envelope in found]


def test_what_was_missed_is_looked_up() -> None:
    async def story(scene: Scene) -> None:
        mine = committed(OTHER)
        await scene.record(RecordKey(RUN, "roll", HEAD.round), mine.envelope)
        here = seal(identity(STRANGER), RUN, presence(at=scene.now()))
        await scene.record(RecordKey(RUN, "presence"), here.envelope, by=STRANGER)
        await scene.channel.look_up("roll", HEAD.round)
        await scene.channel.look_up("presence")
        assert scene.heard == [
            CommitmentHeard(mine),
            PresenceHeard(peer(STRANGER), here.message),
        ]

    play(story)


def test_only_the_newest_words_wait_for_a_slow_dht() -> None:
    async def story(scene: Scene) -> None:
        for number in range(10):
            signed = scene.channel.sign(commitment(Head(number, HEAD.root, HEAD.prev_root)))
            scene.channel.say(signed, "roll")
            await asyncio.sleep(0)
        await asyncio.sleep(20)
        kept_rounds = [n for n in range(10) if await kept(scene, RecordKey(RUN, "roll", n))]
        assert len(kept_rounds) < 5
        assert kept_rounds[-1] == 9

    play(story, conditions=Conditions((1.0, 1.0)))


def test_a_network_that_fails_a_call_is_survived_and_its_end_is_told() -> None:
    async def story(scene: Scene) -> None:
        other = RunChannel(scene.swarms[OTHER], identity(OTHER), RUN, scene.heard.append)
        scene.network.kill(peer(OTHER))
        other.say(other.sign(commitment()), "roll")
        await other.say_at_once(other.sign(commitment()))
        await other.look_up("roll")
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work()) for work in (other.speak, other.keep_records)]
            await asyncio.sleep(1)
            for task in working:
                assert not task.done()
                task.cancel()
        with pytest.raises(NetworkError):
            await other.listen()

    play(story)


def test_while_nothing_can_be_said_older_words_give_way() -> None:
    async def story(scene: Scene) -> None:
        scene.network.freeze(peer(ME))
        words = [commitment(Head(number, HEAD.root, HEAD.prev_root)) for number in range(200)]
        for word in words:
            scene.channel.say(scene.channel.sign(word))
        await asyncio.sleep(10)
        async with scene.swarms[OTHER].subscribe(TOPIC) as broadcasts:
            scene.network.thaw(peer(ME))
            await asyncio.sleep(1)
            heard = [await anext(broadcasts) for _ in range(MAX_UNSAID)]
        rounds = [unseal(data, RUN, Commitment).message.round for _, data in heard]
        assert max(rounds) == 199
        assert len([number for number in rounds if number < 100]) <= 1

    play(story)


# --- refused


def forged(scene: Scene) -> bytes:
    """Return the words of a peer that OTHER passes off as its own."""
    return seal(identity(STRANGER), RUN, presence(at=scene.now())).envelope


def changed(scene: Scene) -> bytes:
    envelope = committed(OTHER).envelope
    return envelope.replace(b"u" * 32, b"v" * 32)


def of_another_run(scene: Scene) -> bytes:
    return seal(identity(OTHER), OTHER_RUN, commitment()).envelope


def stale_presence(scene: Scene) -> bytes:
    return seal(identity(OTHER), RUN, presence(at=scene.now() - 61)).envelope


def presence_of_the_future(scene: Scene) -> bytes:
    return seal(identity(OTHER), RUN, presence(at=scene.now() + 61)).envelope


def no_announcement(scene: Scene) -> bytes:
    record = Record(RUN, "roll", 1, scene.now(), b"")
    return seal(identity(OTHER), RUN, record).envelope


def roll_without_its_convener(scene: Scene) -> bytes:
    return roll_call(OTHER, [committed(STRANGER)]).envelope


def roll_with_a_forged_member(scene: Scene) -> bytes:
    member = committed(OTHER)
    bad = Signed(member.signer, member.message, changed(scene))
    return roll_call(OTHER, [bad]).envelope


def garbage(scene: Scene) -> bytes:
    return b"\xff" * 500


@pytest.mark.parametrize(
    "lie",
    [
        forged,
        changed,
        of_another_run,
        stale_presence,
        presence_of_the_future,
        no_announcement,
        roll_without_its_convener,
        roll_with_a_forged_member,
        garbage,
    ],
)
def test_what_is_not_a_peers_own_valid_word_is_refused(lie: Callable[[Scene], bytes]) -> None:
    async def story(scene: Scene) -> None:
        await scene.broadcast(lie(scene))
        assert scene.heard == []
        assert scene.refused.total() == 1
        await asyncio.sleep(DISCOURAGED_SECONDS)
        await scene.record(RecordKey(RUN, "roll", 3), lie(scene))
        await scene.channel.look_up("roll", 3)
        assert scene.heard == []
        assert scene.refused.total() == 2

    play(story)


def test_answers_of_a_lying_dht_are_refused() -> None:
    async def story(scene: Scene) -> None:
        key = RecordKey(RUN, "roll", 3)
        await scene.record(key, committed(OTHER).envelope)
        scene.swarms[ME].shelf.lie(key, [b"garbage", committed(STRANGER).envelope])
        await scene.channel.look_up("roll", 3)
        assert scene.heard == [CommitmentHeard(committed(OTHER))]

    play(story)


def test_nothing_goes_on_beyond_the_last_round() -> None:
    def head(round_: int) -> Head:
        return Head(round_, HEAD.root, HEAD.prev_root)

    async def story(scene: Scene) -> None:
        for beyond in (presence(head(11), scene.now()), commitment(head(10))):
            await scene.say(beyond)
        assert scene.heard == []
        assert scene.refused == Counter(wrong_round=2)
        for within in (presence(head(10), scene.now()), commitment(head(9))):
            await scene.say(within)
        assert len(scene.heard) == 2

    play(story, total=10)


def test_no_roll_call_or_result_is_heard_after_the_last_round() -> None:
    async def story(scene: Scene) -> None:
        mine = committed(OTHER)
        await scene.broadcast(roll_call(OTHER, [mine]).envelope)
        await scene.broadcast(result(OTHER, roll(OTHER, [mine])).envelope)
        assert scene.heard == []
        assert scene.refused == Counter(wrong_round=2)

    play(story, total=HEAD.round)


# --- allowances


async def flood(scene: Scene, count: int, message: bytes) -> None:
    for _ in range(count):
        await scene.swarms[OTHER].publish(TOPIC, message)
    await asyncio.sleep(0.1)


def test_an_author_who_says_too_much_is_refused_until_time_has_passed() -> None:
    async def story(scene: Scene) -> None:
        burst = 3 * MESSAGES_PER_SECOND
        words = committed(OTHER).envelope
        await flood(scene, 5 * burst, words)
        assert len(scene.heard) == pytest.approx(burst, abs=3)
        assert scene.refused["bad_record"] == 5 * burst - len(scene.heard)
        before = len(scene.heard)
        await scene.say(commitment(), by=STRANGER)  # others are not affected
        assert len(scene.heard) == before + 1
        await asyncio.sleep(1)
        await flood(scene, burst, words)
        assert len(scene.heard) == pytest.approx(before + 1 + MESSAGES_PER_SECOND, abs=5)

    play(story)


def test_garbage_counts_like_words() -> None:
    async def story(scene: Scene) -> None:
        await flood(scene, 10 * MESSAGES_PER_SECOND, b"garbage")
        await flood(scene, 10 * MESSAGES_PER_SECOND, committed(OTHER).envelope)
        assert len(scene.heard) < 10

    play(story)


def test_10_000_records_of_one_peer_are_refused_but_for_a_few() -> None:
    async def story(scene: Scene) -> None:
        key = RecordKey(RUN, "roll", HEAD.round)
        junk = [
            seal(identity(STRANGER), RUN, Record(RUN, "roll", HEAD.round, 60.0 + number, b"junk"))
            for number in range(10_000)
        ]
        word = seal(identity(OTHER), RUN, Record(RUN, "roll", HEAD.round, 60.0, WORD.envelope))
        envelopes = [each.envelope for each in (*junk, word)]

        async def fetch(asked: RecordKey) -> list[bytes]:
            return envelopes if asked == key else []

        scene.swarms[ME].fetch = fetch  # type: ignore[method-assign,assignment]
        await scene.channel.look_up("roll", HEAD.round)
        assert scene.heard == [CommitmentHeard(WORD)]
        assert sum(scene.refused.values()) == 10_000
        assert scene.refused["malformed_message"] <= 3 * MESSAGES_PER_SECOND

    play(story)


def test_large_roll_calls_count_for_many_messages() -> None:
    async def story(scene: Scene) -> None:
        members = [committed(number) for number in range(2, 2 + 80)]
        call = roll_call(OTHER, members)
        assert isinstance(call.message, RollCall)
        await flood(scene, 3 * MESSAGES_PER_SECOND, call.envelope)
        assert 1 <= len(scene.heard) < 10

    play(story)


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    async def story(scene: Scene) -> None:
        await scene.say(commitment())
        scene.swarms[ME].skew_seconds = -3600
        await scene.say(commitment())
        assert len(scene.heard) == 2

    play(story)


def test_allowances_are_kept_for_a_bounded_number_of_authors() -> None:
    async def story(scene: Scene) -> None:
        allowances = scene.channel._allowances
        for number in range(MAX_AUTHORS + 10):
            allowances.spend(PeerId(f"author {number}"))
        assert len(allowances) == MAX_AUTHORS
        assert PeerId("author 0") not in allowances

    play(story)


def test_our_own_records_are_no_twins_however_many_rounds_go_by() -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(2 * TWIN_SECONDS)
        scene.channel.say(scene.channel.sign(presence(at=scene.now())), "presence")
        for number in range(2 * MAX_PRESENCES):
            await asyncio.sleep(0.2)
            head = Head(number, bytes(32), bytes(32))
            scene.channel.say(scene.channel.sign(commitment(head)), "roll")
        await scene.channel.look_up("presence")
        assert not scene.channel.doubled

    play(story)


@pytest.mark.parametrize(("age", "doubled"), [(60.0, False), (0.0, True)])
def test_another_node_with_our_identity_is_seen_by_its_records(age: float, doubled: bool) -> None:
    async def story(scene: Scene) -> None:
        await asyncio.sleep(2 * TWIN_SECONDS)
        key = RecordKey(RUN, "presence", 0)
        ours = scene.channel.sign(presence(at=scene.now()))
        scene.channel.say(ours, "presence")
        await asyncio.sleep(1)
        await scene.channel.look_up("presence")
        assert not scene.channel.doubled
        said = scene.channel.sign(presence(at=scene.now() - age, name="twin"))
        record = Record(key.run, key.topic, key.round, scene.now() + 200, said.envelope)
        await scene.swarms[ME].store(key, seal(identity(ME), RUN, record).envelope)
        await scene.channel.look_up("presence")
        assert scene.channel.doubled == doubled

    play(story)
