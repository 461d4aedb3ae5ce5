"""Method `spsa` at this peer: a round is a chain of blocks, and its exchange agrees on the chain.

TRAINING     the chain grows (node.chain.round)
COMMITTED    each peer has said which chain it has, by the Merkle root over its blocks
EXCHANGING   it is settled which chain counts (node.chain.seal); who has another one fetches it,
             and its weights go there by exactly what differs
AGREEING     the state that the seal leads to is voted on, as with any method
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from node.audit.accuser import Accuser
from node.audit.books import RoundFacts, telling, write_history
from node.audit.evidence_box import EvidenceBox
from node.audit.evidence_check import EvidenceChecker
from node.audit.inspection import Inspector
from node.audit.listener import Listener
from node.audit.witness import Witness
from node.chain.channel import ChainChannel
from node.chain.checks import RECENT_BLOCKS, TicketChecks
from node.chain.history import History
from node.chain.master import Master
from node.chain.replay import Replay
from node.chain.round import ChainRound, Others, RoundTools
from node.chain.seal import Past, Seal, branches_of, candidate_logs
from node.chain.sync import BlockServer, SealedRound
from node.methods.spsa.settings import SpsaSettings
from node.run.setting import RunSetting
from node.run.worker import Work, Worker
from node.store.lives import next_life
from node.store.state import State
from node.training.trainer import Prober, Vectors
from node.training.training import OtherModelError
from node.transfer.tree_server import HeldTree, TreeShelf
from protocol.block_tree import best_of
from protocol.blocks import MAX_HEIGHT, OpenBlock, log_chunks, read_log
from protocol.chain import Fork, Link
from protocol.errors import TalkootError
from protocol.events import Committed, Exchanged, Result, Trained
from protocol.evidence import Equivocation, FalseTicket, ForkedTickets, Proof
from protocol.identity import PeerId
from protocol.presence import Head
from protocol.rollcall import Commitment, Roll, Verdict
from protocol.rounds import Phase
from protocol.signing import Signed
from protocol.tickets import Ticket
from trust.admission import judges_of
from trust.audit import AuditVerdict

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
SERVED_CHAINS = 4
CHAINS_SECONDS = 20.0
"""For all other chains that may be agreed on, asked for at once."""


@dataclass(slots=True)
class _Contribution:
    commitment: Signed[Commitment]
    tree: HeldTree
    tip: Link


class SpsaWorker(Worker):
    """Takes part in one run of method `spsa` until cancelled.

    A demonstration's liar is a subclass with a round of its own.

    Args:
        setting: the run and what this peer brings.
        trainer: evaluates probes; its task is loaded, and the caller ends it.
        shelf: where this peer puts its states and chains for others to fetch.
        state: the agreed state that this peer holds already, if any.
        fresh: this peer made the state itself just now, so there is nobody to ask for a newer one.
    """

    round_kind: ClassVar[type[ChainRound]] = ChainRound

    def __init__(
        self,
        setting: RunSetting,
        trainer: Prober,
        shelf: TreeShelf,
        state: State | None,
        *,
        fresh: bool = False,
    ) -> None:
        super().__init__(setting, shelf, state, fresh=fresh)
        self.settings = SpsaSettings.read(setting.manifest.method.settings)
        me = setting.identity.peer_id
        self._shelf = shelf
        self._trainer = trainer
        self._master = Master(trainer, setting.run)
        self.chain_channel = ChainChannel(setting.swarm, me, setting.run)
        self._blocks = BlockServer(setting.swarm, setting.run)
        self._history = History(setting, self._keeper, self._blocks)
        self._checks = TicketChecks(self._master, setting.run, me, np.random.default_rng())
        self._inspector = Inspector(setting, None, shelf)
        checker = EvidenceChecker(setting, self._inspector, self._keeper, self._checks)
        box = EvidenceBox(setting, self._channel, shelf, self._inspector, checker)
        self._auditor = Accuser(setting, self._keeper, box)
        self._listener = Listener(me, self._auditor, Witness(setting.run))
        self.round: ChainRound | None = None
        """The round that we are in."""
        self._stopped = asyncio.Event()
        self._contribution: _Contribution | None = None
        self._trees: deque[HeldTree] = deque()
        self._candidate: RoundFacts | None = None
        self._sealed: SealedRound | None = None
        """The round that led to the candidate."""
        self._closed: asyncio.Queue[RoundFacts] = asyncio.Queue()
        self._checks.past = self._past
        self._tools = RoundTools(
            setting=setting,
            settings=self.settings,
            channel=self.chain_channel,
            master=self._master,
            tally=self.tally,
            others=self._others,
            on_samples=lambda samples: self._post(Trained(samples)),
            on_fork=self._on_fork,
            side_work=self._side_work,
            on_trouble=self._heartbeat.say_presence,
        )

    async def run(self) -> None:
        """Take part until cancelled (see Worker)."""
        async with self._blocks.serving():
            await super().run()

    def _work(self) -> Sequence[Work]:
        return self.chain_channel.listen, self.chain_channel.speak, self._keep_books

    @property
    def _own(self) -> Signed[Commitment] | None:
        return self._contribution.commitment if self._contribution else None

    # measuring

    def _begin(self) -> None:
        self._stopped = asyncio.Event()

    def _stop(self) -> None:
        self._stopped.set()

    def _check(self, state: State) -> None:
        if self._trainer.layout != state.layout:
            raise OtherModelError

    async def _train(self, round_: int) -> None:
        state = self.state
        if state is None or state.round != round_ or self._is_banned(state):
            return
        self._check(state)
        chain = await self._round_after(state)
        await chain.run(self._stopped)
        if self.machine.phase is not Phase.TRAINING:
            return
        tip = chain.chain.tip
        tree = HeldTree.of(log_chunks(tip.blocks()))
        self._serve(tree)
        signed = self._channel.sign(self._commitment(chain, tree.root))
        self._contribution = _Contribution(signed, tree, tip)
        self.tally.samples_mine += signed.message.samples
        self._heartbeat.commitment = signed
        self._channel.say(signed, "roll")
        self._post(Committed(signed))

    def _serve(self, tree: HeldTree) -> None:
        """Serve our chain for as long as anybody may be behind."""
        self._shelf.put(tree)
        self._trees.append(tree)
        while len(self._trees) > SERVED_CHAINS:
            self._shelf.drop(self._trees.popleft().root)

    async def _round_after(self, state: State) -> ChainRound:
        """Return the round that grows from a state; one that was begun here goes on.

        A round that begins anew is another life: nobody remembers what was signed in the one
        before.
        """
        if self.round is not None and self.round.state.root == state.root:
            return self.round
        path = self._set.folder.path / "lives"
        life = await asyncio.to_thread(next_life, path, self._set.folder.disk)
        self.round = self.round_kind(self._tools, state, branches_of(self._set, state), life)
        self._blocks.chain = self.round.chain
        self._checks.begin(self.round)
        return self.round

    def _others(self) -> Others:
        live, head, me = self.machine.live, self.machine.head, self._set.identity.peer_id
        here = live.peers().keys() | {me}
        expected = live.expected(head) if head else set()
        return Others(
            expected=live.electorate.among(expected | {me}),
            conveners=live.conveners(here),
            live=here,
        )

    async def _on_fork(self, fork: Fork, state: State) -> None:
        first, second = fork.first, fork.second
        proof: Proof
        if isinstance(first, Ticket) and isinstance(second, Ticket):
            accused = first.peer
            proof = ForkedTickets(state.round, state.root, first.data, second.data)
        elif not isinstance(first, Ticket) and not isinstance(second, Ticket):
            accused = first.convener
            proof = Equivocation(first.envelope, second.envelope)
        else:
            raise TypeError("a ticket and a block are no fork")
        await self._auditor.evidence.accuse(accused, proof)

    async def _side_work(self, chain: ChainRound) -> None:
        """Check what others said, where our lot or an accusation asks for it."""
        evidence = self._auditor.evidence
        if evidence.has_work:
            await evidence.judge_work()
        if not self._checks.happens(self._set.manifest.trust.audit_rate):
            return
        accused = frozenset(PeerId(each.accused) for each in self._auditor.accusations(chain.state))
        state, tip = chain.state, chain.chain.tip
        past = None
        if state.round > 0 and tip.height < RECENT_BLOCKS:
            past = await self._past(state.round - 1, state.header.prev_root)
        ticket = self._checks.draw([past.tip, tip] if past else [tip], accused)
        if ticket is None:
            return
        if past is not None and past.holds(ticket):
            state = past.state
            verdict = await self._checks.check_past(past, ticket)
        else:
            verdict = await self._checks.check(chain, ticket)
        if verdict is AuditVerdict.HOLDS:
            proof = FalseTicket(state.round, state.root, ticket.data)
            await evidence.accuse(ticket.peer, proof)
        elif verdict is AuditVerdict.FALSE:
            self._auditor.note_verdict(Verdict(ticket.peer, passed=True))

    def _commitment(self, chain: ChainRound, root: bytes) -> Commitment:
        losses = [loss for loss in chain.losses if math.isfinite(loss)]
        per_probe = self._set.manifest.task.samples_per_step or 1
        return Commitment(
            round=chain.state.round,
            prev_root=chain.state.root,
            at=self._set.swarm.time(),
            samples=chain.probes * per_probe,
            steps=chain.probes,
            loss=sum(losses) / len(losses) if losses else None,
            capacity=0,
            update_root=root,
            nonce=self._set.nonce,
            verdict=self._auditor.take_verdict(),
            accusations=self._auditor.accusations(chain.state),
            objections=self._auditor.take_objections(),
        )

    # the seal

    async def _exchange(self, roll: Roll) -> None:
        chain, contribution = self.round, self._contribution
        if chain is None or contribution is None:
            raise RuntimeError("there is no chain to seal")
        spec, stewards = self._set.manifest.trust, self._set.stewards
        state = chain.state
        judges = judges_of(roll, state.ledger, spec, stewards)
        tip = await self._agreed_tip(chain, contribution, roll, judges)
        now = Past(state, chain.branches, tip)
        seal = Seal.of(self._set, now, roll, await self._history.before(state, roll))
        params, rest = await self._sealed_vectors(now, seal)
        candidate = await asyncio.to_thread(state.next, params, rest, seal.ledger, seal.scale)
        self._sealed = SealedRound(tuple(tip.blocks()), roll.envelope)
        self.tally.note_round(roll, seal.reports)
        self.tally.bytes_said = self.chain_channel.bytes_said
        self.tally.bytes_heard = self.chain_channel.bytes_heard
        seconds = asyncio.get_running_loop().time() - self._began_at
        self._candidate = RoundFacts(state, candidate, roll, seal.reports, self.tally.loss, seconds)
        signed = self._channel.sign(
            Result(
                round=roll.round,
                prev_root=roll.prev_root,
                roll=roll.digest,
                root=candidate.root,
                missing=0,
            )
        )
        self._heartbeat.result = signed
        self._channel.say(signed, "state")
        self._post(Exchanged(signed))

    async def _agreed_tip(
        self, chain: ChainRound, own: _Contribution, roll: Roll, judges: frozenset[PeerId]
    ) -> Link:
        """Return the end of the chain that counts; ours where no other can be had in time."""
        logs = candidate_logs(roll, judges)
        async with asyncio.TaskGroup() as tasks:
            fetches = [
                tasks.create_task(self._log_of(roll, root, holders), name="fetch a chain")
                for root, holders in logs
                if root != own.tree.root
            ]
        chains = [log for fetch in fetches if (log := fetch.result()) is not None]
        chains += [own.tip.blocks()] * (len(fetches) < len(logs))
        rules, counts = chain.chain.rules, chain.branches.rules.counts
        tip = await asyncio.to_thread(best_of, roll.prev_root, chains, rules, counts)
        return own.tip if tip.block is None else tip

    async def _log_of(
        self, roll: Roll, root: bytes, holders: Sequence[PeerId]
    ) -> list[OpenBlock] | None:
        """Return the blocks of another chain than ours; None if it can't be had in time."""
        log.info("another chain than ours may be agreed on in round %d", roll.round)
        try:
            async with asyncio.timeout(CHAINS_SECONDS):
                return await self._fetch_log(roll, root, holders)
        except (TalkootError, TimeoutError) as error:
            log.warning("a chain of round %d can't be had: %s", roll.round, error)
            return None

    async def _fetch_log(
        self, roll: Roll, root: bytes, holders: Sequence[PeerId]
    ) -> list[OpenBlock]:
        leaves, found = await self._inspector.fetch(root, holders, MAX_HEIGHT)
        chunks = [found[index] for index in range(len(leaves))]
        return await asyncio.to_thread(read_log, chunks, self._set.run, roll.round, roll.prev_root)

    async def _past(self, round_: int, root: bytes) -> Past | None:
        """Return the round that grew from a state, if it is kept."""
        sealed = self._blocks.find(root)
        if sealed is None:
            return None
        state = await asyncio.to_thread(self._keeper.find, round_, root)
        if state is None:
            return None
        return await asyncio.to_thread(Past.of, self._set, state, sealed)

    async def _sealed_vectors(self, now: Past, seal: Seal) -> Vectors:
        while True:
            try:
                await self._master.goto(now.state, now.branches, now.tip)
                return await self._master.seal(seal.void)
            except TalkootError as error:
                log.error("sealing failed: %s", error)  # noqa: TRY400
                self.tally.reason = f"sealing failed: {error.message}"
            await asyncio.sleep(RETRY_SECONDS)

    # states

    def _adopt(self) -> None:
        facts, self._candidate = self._candidate, None
        sealed, self._sealed = self._sealed, None
        if facts is None or sealed is None:
            raise RuntimeError("there is no state to adopt")
        self._blocks.keep(facts.before.root, sealed)
        if self._contribution:
            mine = facts.reports.get(self._set.identity.peer_id)
            self.tally.note_credit(self._contribution.commitment.message.samples, mine)
        self.tally.round_seconds = facts.seconds
        self._hold(facts.after)
        self._closed.put_nowait(facts)

    async def _fetch(self, head: Head, holders: tuple[PeerId, ...], have: State | None) -> State:
        """Return the state `head`: by the blocks since ours where that is sooner."""
        state = self.state
        if state is None or head.round <= state.round:
            return await super()._fetch(head, holders, have)
        replay = Replay(self._set, self._master, holders, self._history)
        try:
            found = await replay.run(state, head)
        except TalkootError as error:
            log.info("no replay: %s", error)
            return await super()._fetch(head, holders, have)
        log.info("replayed %d rounds", head.round - state.round)
        for root, (_, sealed) in replay.passed.items():
            self._blocks.keep(root, sealed)
        return found

    async def _keep_books(self) -> None:
        while True:
            facts = await self._closed.get()
            with telling("its history"):
                await write_history(self._set, facts)
            self._auditor.evidence.note_bans(facts.after.ledger, facts.roll.peers)

    def _forget(self) -> State | None:
        facts, self._candidate = self._candidate, None
        self._contribution = None
        return facts.after if facts else None
