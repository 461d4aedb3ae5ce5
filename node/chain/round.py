"""One round of method `spsa` at this peer: measures, says what it measured, and closes blocks.

probe ──ticket──> chain ──block──> weights ──> probe …          until the chain is complete
a block that others build on is missing, or nothing comes ──> ask somebody
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Set
from contextlib import suppress
from dataclasses import dataclass

from dht.swarm import NetworkError
from node.chain.channel import ChainChannel
from node.chain.master import Branches, Master
from node.chain.seal import chain_rules
from node.chain.sync import ask_for_blocks
from node.methods.spsa.quantiser import exponent_of, quantise
from node.methods.spsa.settings import SpsaSettings
from node.run.setting import RunSetting, Tally
from node.store.state import State
from node.training.trainer import Probed
from node.training.training import wait_permitted
from protocol.blocks import MAX_BLOCK_BYTES, TICKETS_PER_PEER, Block, OpenBlock, open_block
from protocol.chain import Chain, CloseBlock, Fork, Link
from protocol.errors import ProtocolError, TalkootError
from protocol.identity import PeerId
from protocol.signing import seal, unseal
from protocol.tickets import VIEW_BYTES, Measured, Ticket, first_seq, is_first, sign_ticket

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05
TICKET_SECONDS = 0.1
"""Who is faster puts more probes into a ticket: others hear so many messages only."""
ASK_AGAIN_SECONDS = 0.5
IDLE_BLOCKS = 1.5
"""Nothing heard for the time of so many blocks: others may be farther."""
RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
"""After a failure of the training process; the wait doubles with each in a row."""
MAX_KNOWN = 4096
"""Tickets whose signatures need not be checked again."""


@dataclass(frozen=True, slots=True)
class Others:
    """Who is at work on the round, as it seems now."""

    expected: Set[PeerId]
    """Who may have a ticket for the next block, and counts; ourselves included."""
    conveners: Set[PeerId]
    """Who may close a block; ourselves included, if we count."""
    live: Set[PeerId]
    """Whom to ask for blocks."""


@dataclass(frozen=True, slots=True)
class RoundTools:
    """What rounds work with."""

    setting: RunSetting
    settings: SpsaSettings
    channel: ChainChannel
    master: Master
    tally: Tally
    others: Callable[[], Others]
    on_samples: Callable[[int], None]
    on_fork: Callable[[Fork, State], Awaitable[None]]
    side_work: "Callable[[ChainRound], Awaitable[None]]"
    """What else takes the training process, after each ticket of ours."""
    on_trouble: Callable[[], None]


class ChainRound:
    """The round that grows from one agreed state.

    Args:
        tools: what it works with.
        state: the agreed state.
        branches: what blocks do to the weights.
        life: never used before in this run.
    """

    def __init__(self, tools: RoundTools, state: State, branches: Branches, life: int) -> None:
        self.state = state
        self.branches = branches
        self.probes = 0
        """Of ours, so far."""
        self.losses: list[float] = []
        """Of our tickets."""
        self._tools = tools
        self._set = tools.setting
        self.me = tools.setting.identity.peer_id
        now = asyncio.get_running_loop().time()
        rules = chain_rules(tools.setting)
        counts = branches.rules.counts
        self.chain = Chain(self.me, state.root, rules, counts, now, round_=state.round)
        self._known: OrderedDict[bytes, Ticket] = OrderedDict()
        self._life = life
        self._seq = first_seq(life)
        self._last_mark = state.root[:VIEW_BYTES]
        self._count = tools.settings.probes
        self._asked = 0
        self._tip = self.chain.tip
        self._moved = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Take part until the chain is complete, or `stop` is set; not before we did something."""
        self._tools.channel.follow(self.state.root, self)
        await self._ask_soon()  # who comes late neither measures nor closes on an old block
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work, name=f"round {self.state.round}")
                for work in (self._probe_on(), self._tend_on(), self._ask_on(), self._await(stop))
            ]
            while not (self.probes and (self.chain.complete or stop.is_set())):
                await self._moved.wait()
                self._moved.clear()
            for task in tasks:
                task.cancel()
        await self._ask_soon()  # of two ends of a chain most should commit to one

    async def _await(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._moved.set()

    # what is heard

    def known_ticket(self, data: bytes) -> Ticket | None:
        """Return a ticket that was checked before, by its bytes."""
        return self._known.get(data)

    def hear_ticket(self, ticket: Ticket) -> None:
        """Take a ticket in."""
        self._remember(ticket)
        self.chain.hear_ticket(ticket)

    def check_convener(self, convener: PeerId, block: Block) -> None:
        """Check who closed a block, before its tickets. Raises RoundError."""
        self.chain.check_convener(convener, block)

    def hear_block(self, author: PeerId, block: OpenBlock) -> None:
        """Take a block in, or refuse it."""
        for ticket in block.tickets:
            self._remember(ticket)
        try:
            self.chain.hear_block(block, _now())
        except ProtocolError as error:
            self._set.swarm.report(author, error)
        self._look()

    def _remember(self, ticket: Ticket) -> None:
        self._known[ticket.data] = ticket
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _look(self) -> None:
        """See whether the chain has moved, and say again what it left out of ours."""
        tip = self.chain.tip
        if tip is self._tip:
            return
        self._tip = tip
        self._moved.set()
        for ticket in self.chain.pending(self.me):
            if ticket.said.base < tip.height:
                self._tools.channel.say_ticket(ticket, self.state.root)

    # closing blocks

    async def _tend_on(self) -> None:
        while True:
            others = self._tools.others()
            close = self.chain.decide(_now(), others.expected, others.conveners)
            if close is not None:
                self._close(close)
            self._look()
            while self.chain.forks:
                await self._tools.on_fork(self.chain.forks.pop(), self.state)
            await asyncio.sleep(TICK_SECONDS)

    def _close(self, close: CloseBlock) -> None:
        message = Block(
            round=self.state.round,
            root=self.state.root,
            height=close.height,
            prev=close.prev,
            life=self._life,
            tickets=tuple(ticket.data for ticket in close.tickets),
        )
        signed = seal(self._set.identity, self._set.run, message)
        block = OpenBlock(self.me, message, close.tickets, signed.envelope)
        try:
            self.chain.hear_block(block, _now())
        except ProtocolError as error:
            log.warning("our block %d is one too many: %s", close.height, error)
        else:
            self._tools.channel.say_block(block)

    # blocks that we missed

    async def _ask_on(self) -> None:
        """Ask for what we miss, for ever."""
        while True:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
            idle = self.chain.idle_seconds(_now())
            if self.chain.complete:
                continue
            if self.chain.missing or idle > IDLE_BLOCKS * self._tools.settings.block_seconds:
                await self._ask()

    async def _ask_soon(self) -> None:
        """Ask somebody, who keeps us waiting for the time of a block at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._tools.settings.block_seconds):
                await self._ask()

    async def _ask(self) -> None:
        """Ask somebody, another one each time, for what follows the last block that both have."""
        peers = sorted(self._tools.others().live - {self.me})
        if not peers:
            return
        self._asked += 1
        peer = peers[self._asked % len(peers)]
        run, marks = self._set.run, self.chain.marks()
        try:
            reply = await ask_for_blocks(self._set.swarm, run, peer, self.state.root, marks)
        except (NetworkError, ProtocolError) as error:
            log.info("%s gives no blocks: %s", peer, error)
            return
        for envelope in reply.blocks:
            try:
                signed = unseal(envelope, run, Block, MAX_BLOCK_BYTES)
                self.chain.check_convener(signed.signer, signed.message)
                block = open_block(signed, run, self._known.get)
                self.chain.hear_block(block, _now(), asked=True)
            except ProtocolError as error:
                self._set.swarm.report(peer, error)
            await asyncio.sleep(0)  # each has many signatures
        self._look()

    # measuring

    async def _probe_on(self) -> None:
        """Measure for ever; a training process that fails is asked again later."""
        seconds, tally = RETRY_SECONDS, self._tools.tally
        while True:
            await wait_permitted(self._set.permit, tally, self._tools.on_trouble)
            try:
                await self._measure()
                await self._tools.side_work(self)
            except TalkootError as error:
                if error.code == "interrupted":
                    continue
                log.error("training stopped: %s", error)  # noqa: TRY400
                tally.reason = f"training stopped: {error.message}. {error.hint}".strip()
                tally.paused = True
                self._tools.on_trouble()
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, LONGEST_RETRY_SECONDS)
            else:
                tally.reason, tally.paused, seconds = "", False, RETRY_SECONDS

    async def _measure(self) -> None:
        """Measure one ticket on the tip, and say it."""
        began, tip = _now(), self.chain.tip
        if self.chain.waiting(self.me) >= TICKETS_PER_PEER or self._is_used_up:
            await asyncio.sleep(TICKET_SECONDS)
            return
        await self._tools.master.goto(self.state, self.branches, tip)
        found = await self._tools.master.probe(self.me, self._seq, self._count)
        took = max(_now() - began, 1e-6)
        await asyncio.sleep(TICKET_SECONDS - took)
        self._say(tip, found)
        self._note(found, max(took, TICKET_SECONDS))

    @property
    def _is_used_up(self) -> bool:
        """Whether the next number would be the first one of another life."""
        return self._seq > first_seq(self._life) and is_first(self._seq)

    def _say(self, base: Link, found: Probed) -> None:
        exponent = exponent_of(self.branches.scale_at(base))
        said = Measured(
            seq=self._seq,
            base=base.height,
            view=base.mark,
            prev=self._last_mark,
            exponent=exponent,
            projections=self._values(found, exponent),
        )
        self._sign(said)

    def _sign(self, said: Measured) -> None:
        ticket = sign_ticket(self._set.identity, self._set.run, self.state.root, said)
        self._seq += 1
        self._last_mark = ticket.mark
        self._remember(ticket)
        self._tools.channel.say_ticket(ticket, self.state.root)
        self.chain.hear_ticket(ticket)

    def _values(self, found: Probed, exponent: int) -> tuple[int, ...]:
        """Return what we say that the probes showed."""
        return tuple(
            quantise(math.nan if value is None else value, exponent) for value in found.projections
        )

    def _note(self, found: Probed, seconds: float) -> None:
        """Note what we did, and how many probes fit into half of the time of a block."""
        done = len(found.projections)
        self.probes += done
        if found.loss is not None:
            self.losses.append(found.loss)
        per_step = self._set.manifest.task.samples_per_step or 1
        tally = self._tools.tally
        tally.probes += done
        tally.samples_in_round = self.probes * per_step
        tally.samples_per_second = done * per_step / seconds
        tally.progress = self.chain.tip.height / self.chain.rules.blocks
        fitting = int(0.5 * self._tools.settings.block_seconds * done / seconds)
        self._count = max(1, min(self._tools.settings.probes, fitting))
        self._tools.on_samples(tally.samples_in_round)
        self._moved.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
