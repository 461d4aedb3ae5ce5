"""Tickets and blocks are heard once their author is known to be theirs; strangers cost little."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from dht.fence.refusals import DISCOURAGED_SECONDS
from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import NetworkError
from dht.virtual_time import run
from node.chain.channel import MAX_EARLY_PER_AUTHOR, MAX_UNSAID, ChainChannel
from node.run.allowances import BURST_SECONDS, MESSAGES_PER_SECOND
from protocol.block_tree import Link
from protocol.blocks import Block, OpenBlock
from protocol.errors import RoundError
from protocol.identity import PeerId, public_key_of
from protocol.signing import seal
from protocol.tickets import Measured, Ticket, sign_ticket
from tests.chain_scene import block
from tests.chain_scene import ticket as ticket_on
from tests.messages import OTHER_RUN, ROOT, RUN, identity, peer

ME, OTHER, STRANGER = 1, 2, 3
TOPIC = f"talkoot/1/{RUN.hex()}/chain"
START = Link(0, ROOT)


class Scene:
    """A channel, two others that broadcast, and what was heard of one round."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(seed=1)
        self.tickets: list[Ticket] = []
        self.blocks: list[tuple[PeerId, OpenBlock]] = []
        self.may_close = {peer(OTHER)}
        self.swarms: dict[int, MemorySwarm] = {}
        self.channel: ChainChannel

    @property
    def refused(self) -> Counter[str]:
        return self.swarms[ME].refused

    def known_ticket(self, data: bytes) -> Ticket | None:
        return next((ticket for ticket in self.tickets if ticket.data == data), None)

    def hear_ticket(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)

    def check_convener(self, convener: PeerId, block: Block) -> None:
        if convener not in self.may_close:
            raise RoundError("it may not close blocks")

    def hear_block(self, author: PeerId, block: OpenBlock) -> None:
        self.blocks.append((author, block))

    async def broadcast(self, data: bytes, by: int = OTHER) -> None:
        await self.swarms[by].publish(TOPIC, data)
        await asyncio.sleep(0.1)

    async def say(self, ticket: Ticket, by: int = OTHER, root: bytes = ROOT) -> None:
        await self.broadcast(b"\x00" + root[:8] + ticket.data, by)

    async def close(self, made: OpenBlock, by: int = OTHER) -> None:
        await self.broadcast(b"\x01" + made.envelope, by)


def play(story: Callable[[Scene], Awaitable[None]], *, follow: bool = True) -> None:
    async def main() -> None:
        scene = Scene()
        async with AsyncExitStack() as stack:
            for number in (ME, OTHER, STRANGER):
                swarm = MemorySwarm(scene.network, identity(number))
                scene.swarms[number] = await stack.enter_async_context(swarm)
                await swarm.connect(await scene.swarms[ME].addresses())
            scene.channel = ChainChannel(scene.swarms[ME], peer(ME), RUN)
            if follow:
                scene.channel.follow(ROOT, scene)
            async with asyncio.TaskGroup() as tasks:
                works = (scene.channel.listen, scene.channel.speak)
                working = [tasks.create_task(work()) for work in works]
                await asyncio.sleep(0)
                await story(scene)
                for task in working:
                    task.cancel()

    run(main(), limit_seconds=1000)


def on_start(number: int = OTHER, seq: int = 0) -> Ticket:
    return ticket_on(number, seq, START)


def test_tickets_and_blocks_are_heard_with_every_signature_checked() -> None:
    async def story(scene: Scene) -> None:
        ticket, made = on_start(), block(OTHER, START, [on_start(), on_start(STRANGER)])
        await scene.say(ticket)
        await scene.close(made)
        assert scene.tickets == [ticket]
        assert scene.blocks == [(peer(OTHER), made)]
        assert not scene.refused

    play(story)


def test_what_we_say_is_broadcast_and_not_heard_by_ourselves() -> None:
    async def story(scene: Scene) -> None:
        ticket, made = on_start(ME), block(ME, START, [on_start(ME)])
        async with scene.swarms[OTHER].subscribe(TOPIC) as broadcasts:
            scene.channel.say_ticket(ticket, ROOT)
            scene.channel.say_block(made)
            said = [await anext(broadcasts) for _ in range(2)]
        await asyncio.sleep(1)
        await scene.broadcast(said[0][1], by=OTHER)  # somebody repeats our words
        assert sorted(data for _, data in said) == [
            b"\x00" + ROOT[:8] + ticket.data,
            b"\x01" + made.envelope,
        ]
        assert not scene.tickets
        assert not scene.blocks
        assert scene.channel.bytes_said == sum(len(data) for _, data in said)

    play(story)


def test_a_ticket_that_is_known_is_not_heard_again() -> None:
    async def story(scene: Scene) -> None:
        for _ in range(3):
            await scene.say(on_start())
        assert scene.tickets == [on_start()]

    play(story)


def in_another_s_name() -> bytes:
    """Return a ticket with another peer's key in place of its own."""
    data = on_start().data
    return public_key_of(peer(STRANGER)) + data[32:]


BAD = {
    "empty": b"",
    "of no kind": b"\x02" + ROOT[:8] + on_start().data,
    "no ticket": b"\x00" + ROOT[:8] + b"x" * 90,
    "too long": b"\x00" + ROOT[:8] + bytes(500),
    "cut short": (b"\x00" + ROOT[:8] + on_start().data)[:-1],
    "another's ticket": b"\x00" + ROOT[:8] + on_start(STRANGER).data,
    "forged ticket": b"\x00" + ROOT[:8] + in_another_s_name(),
    "another run's": b"\x00"
    + ROOT[:8]
    + sign_ticket(identity(OTHER), OTHER_RUN, ROOT, on_start().said).data,
    "no block": b"\x01" + b"\xc1" * 50,
    "another's block": b"\x01" + block(STRANGER, START, [on_start()]).envelope,
    "block with a forged ticket": b"\x01"
    + seal(identity(OTHER), RUN, Block(3, ROOT, 1, ROOT, 0, (in_another_s_name(),))).envelope,
    "block of nothing": b"\x01"
    + seal(identity(OTHER), RUN, Block(3, ROOT, 1, ROOT, 0, ())).envelope,
    "block beyond any height": b"\x01"
    + seal(identity(OTHER), RUN, Block(3, ROOT, 1 << 20, ROOT, 0, (on_start().data,))).envelope,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_forged_or_malformed_is_counted_and_nothing_more(data: bytes) -> None:
    async def story(scene: Scene) -> None:
        await scene.broadcast(data)
        assert sum(scene.refused.values()) == 1
        assert not scene.tickets
        assert not scene.blocks
        await asyncio.sleep(DISCOURAGED_SECONDS)
        await scene.say(on_start())
        assert scene.tickets == [on_start()]

    play(story)


def test_a_block_of_who_may_close_none_costs_no_signatures_of_tickets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> OpenBlock:
        raise AssertionError

    async def story(scene: Scene) -> None:
        await scene.close(block(STRANGER, START, [on_start()]), by=STRANGER)
        assert not scene.blocks
        assert scene.refused == {RoundError.code: 1}

    monkeypatch.setattr("node.chain.channel.open_block", never)
    play(story)


# --- rounds to come


def test_what_was_said_too_early_is_heard_when_its_round_begins() -> None:
    later = b"later" * 6 + b"xx"

    async def story(scene: Scene) -> None:
        said = Measured(0, 0, later[:16], later[:16], -3, (1,))
        ticket = sign_ticket(identity(OTHER), RUN, later, said)
        await scene.say(ticket, root=later)
        await scene.say(on_start())
        assert scene.tickets == [on_start()]
        scene.channel.follow(later, scene)
        assert scene.tickets == [on_start(), ticket]
        assert not scene.refused

    play(story)


def test_before_the_first_round_words_wait() -> None:
    async def story(scene: Scene) -> None:
        made = block(OTHER, START, [on_start()])
        await scene.say(on_start())
        await scene.close(made)
        assert not scene.tickets
        scene.channel.follow(ROOT, scene)
        assert scene.tickets == [on_start()]
        assert scene.blocks == [(peer(OTHER), made)]

    play(story, follow=False)


def test_who_speaks_of_rounds_that_never_come_crowds_nobody_out() -> None:
    async def story(scene: Scene) -> None:
        await scene.say(on_start())
        for number in range(3 * MAX_EARLY_PER_AUTHOR):
            await scene.broadcast(b"\x00" + number.to_bytes(8, "big") + bytes(120), by=STRANGER)
        assert len(scene.channel._early) == 1 + MAX_EARLY_PER_AUTHOR
        scene.channel.follow(ROOT, scene)
        assert scene.tickets == [on_start()]

    play(story, follow=False)


# --- bounds


def test_who_says_too_much_is_not_heard_for_a_while() -> None:
    burst = int(BURST_SECONDS * MESSAGES_PER_SECOND)

    async def story(scene: Scene) -> None:
        for seq in range(2 * burst):
            await scene.swarms[OTHER].publish(TOPIC, b"\x00" + ROOT[:8] + on_start(seq=seq).data)
        await asyncio.sleep(0.1)
        assert burst <= len(scene.tickets) < 1.1 * burst
        await scene.say(on_start(STRANGER), by=STRANGER)
        assert scene.tickets[-1] == on_start(STRANGER)
        await asyncio.sleep(BURST_SECONDS)
        await scene.say(on_start(seq=5000))
        assert scene.tickets[-1] == on_start(seq=5000)

    play(story)


def test_a_large_block_costs_its_convener_as_much_as_its_signatures() -> None:
    async def story(scene: Scene) -> None:
        tickets = [on_start(number) for number in range(100, 164)]
        for life in range(20):
            made = block(OTHER, START, tickets, life=life)
            await scene.swarms[OTHER].publish(TOPIC, b"\x01" + made.envelope)
        await asyncio.sleep(0.1)
        assert 5 <= len(scene.blocks) <= 8  # of 9 messages each

    play(story)


def test_while_nothing_can_be_said_older_words_give_way() -> None:
    async def story(scene: Scene) -> None:
        scene.network.freeze(peer(ME))
        for seq in range(2 * MAX_UNSAID):
            scene.channel.say_ticket(on_start(ME, seq), ROOT)
        await asyncio.sleep(1)
        async with scene.swarms[OTHER].subscribe(TOPIC) as broadcasts:
            scene.network.thaw(peer(ME))
            heard = [(await anext(broadcasts))[1] for _ in range(MAX_UNSAID)]
        last = b"\x00" + ROOT[:8] + on_start(ME, 2 * MAX_UNSAID - 1).data
        assert last in heard

    play(story)


def test_the_end_of_the_network_is_told() -> None:
    async def story(scene: Scene) -> None:
        other = ChainChannel(scene.swarms[OTHER], peer(OTHER), RUN)
        scene.network.kill(peer(OTHER))
        with pytest.raises(NetworkError):
            await other.listen()

    play(story)
