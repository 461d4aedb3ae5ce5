"""The end of a round of method spsa: which chain counts, and the state that it leads to."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from node.chain.master import Branches
from node.chain.sync import SealedRound
from node.exchange.outcome import MemberReport
from node.methods.spsa.blocks import BlockRules, only
from node.methods.spsa.moves import Move
from node.methods.spsa.settings import SpsaSettings
from node.run.setting import RunSetting, electorate_after
from node.store.outline import Outlined
from node.store.state import State
from protocol.chain import ChainRules, Link, grow
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.rollcall import Roll, convener_rank
from protocol.tickets import NULL, Ticket
from trust.admission import bans_of
from trust.reputation import Probed, advance_by_tickets

QUARTERS = 4
"""A chain that fewer than one in so many committed to is nobody's but its own."""


def candidate_logs(roll: Roll, judges: Set[PeerId]) -> list[tuple[bytes, list[PeerId]]]:
    """Return the roots of the blocks that may be agreed on, each with who committed to it.

    It is what more than half of the judges committed to. Where there is none such, it is all that a
    quarter of them did, of which the best branch counts (protocol.block_tree.best_of): honest peers
    that differ in their last block share the rest, and outweigh fewer who share a chain of their
    own. Where there is none such either, it is that of the judge with the lowest rank among the
    largest groups, which nobody could foresee.
    """
    votes = {member.signer: member.message.update_root for member in roll.members}
    counted = {peer: root for peer, root in votes.items() if peer in judges} or votes
    counts = Counter(counted.values())

    def rank(root: bytes) -> tuple[int, bytes]:
        ranks = (
            convener_rank(roll.prev_root, roll.round, peer)
            for peer, each in counted.items()
            if each == root
        )
        return -counts[root], min(ranks)

    ordered = sorted(counts, key=rank)
    chosen = [root for root in ordered if QUARTERS * counts[root] >= len(counted)]
    if not chosen or 2 * counts[ordered[0]] > len(counted):
        chosen = ordered[:1]
    return [(root, [peer for peer, each in votes.items() if each == root]) for root in chosen]


@dataclass(frozen=True, slots=True)
class PastChain:
    """The chain of a round that is over, as far as it takes to take back what is in it."""

    scale: float
    """Of the state that it grew from."""
    branches: Branches
    tip: Link

    @classmethod
    def of(cls, setting: RunSetting, state: Outlined, sealed: SealedRound) -> "PastChain":
        """Return the chain of the round that grew from `state`, every block checked again.

        Raises:
            RoundError: a block doesn't follow the one before, or holds what it may not.
        """
        branches, rules = branches_of(setting, state), chain_rules(setting)
        link = Link(0, state.root)
        for block in sealed.blocks:
            link = grow(link, block, rules, branches.rules.counts)
        return cls(state.header.scale, branches, link)

    def tickets_of(self, peers: Set[PeerId]) -> list[Move]:
        """Return what these peers' tickets did."""
        moves = self.branches.path(self.tip.back(0), self.tip)
        return [part for move in moves if (part := only(move, peers)).tickets]


@dataclass(frozen=True, slots=True)
class Past:
    """A round that is over: its chain, and what it did to the weights."""

    state: State
    """The state that it grew from."""
    branches: Branches
    tip: Link

    @classmethod
    def of(cls, setting: RunSetting, state: State, sealed: SealedRound) -> "Past":
        """Return the round that grew from `state`; raises as PastChain.of does."""
        chain = PastChain.of(setting, state, sealed)
        return cls(state, chain.branches, chain.tip)

    @property
    def chain(self) -> PastChain:
        """Its chain alone."""
        return PastChain(self.state.header.scale, self.branches, self.tip)

    def place(self, height: int, mark: bytes) -> Link | None:
        """Return the place that tickets name so, if it is in the chain."""
        link = self.tip.back(height)
        return link if (link.height, link.mark) == (height, mark) else None

    def holds(self, ticket: Ticket) -> bool:
        """Return whether a ticket is in a block of this round."""
        return any(ticket in block.tickets for block in self.tip.blocks())


def branches_of(setting: RunSetting, state: Outlined) -> Branches:
    """Return what blocks do in the round that grows from a state."""
    rates = SpsaSettings.read(setting.manifest.method.settings).rates(state.layout.size)
    counts = electorate_after(setting, state).includes
    return Branches(BlockRules(state.root, rates, counts), state.header.scale)


def chain_rules(setting: RunSetting) -> ChainRules:
    """Return how the chains of a run grow."""
    settings = SpsaSettings.read(setting.manifest.method.settings)
    seconds = settings.block_seconds
    blocks = setting.manifest.round.local_steps or 1
    return ChainRules(blocks, settings.depth, seconds, turn_seconds=seconds)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a chain does to the state that it grows from, beside the weights."""

    void: tuple[Move, ...]
    """What is taken back: the tickets in this round and those kept, of who was proved a liar."""
    ledger: Ledger
    scale: float
    """Where liars had their say, it is again what it was before."""
    reports: dict[PeerId, MemberReport]
    """What share each peer had in the round."""

    @classmethod
    def of(cls, setting: RunSetting, now: Past, roll: Roll, before: Sequence[PastChain]) -> "Seal":
        """Return the seal of the chain of the round `now`.

        Args:
            setting: the run.
            now: the round.
            roll: its roll call.
            before: the chains of the rounds before it that bans take back from (History.before).
        """
        spec, stewards, ledger = setting.manifest.trust, setting.stewards, now.state.ledger
        bans = bans_of(roll, ledger, spec, stewards)
        lied = [(chain, chain.tickets_of(bans.keys())) for chain in (*before, now.chain)]
        void = [move for _, moves in lied for move in moves]
        first = next((chain for chain, moves in lied if moves), None)
        said, counted = _probes_of(now.chain, bans.keys())
        after = ledger_after(setting, ledger, roll, now.chain)
        reports = _reports(roll, said, counted)
        scale = now.branches.scale_at(now.tip) if first is None else first.scale
        return cls(tuple(void), after, scale, reports)


def ledger_after(setting: RunSetting, ledger: Ledger, roll: Roll, chain: PastChain) -> Ledger:
    """Return the ledger that a round's roll call and chain lead to."""
    spec, stewards = setting.manifest.trust, setting.stewards
    said, counted = _probes_of(chain, bans_of(roll, ledger, spec, stewards).keys())
    per_probe = setting.manifest.task.samples_per_step or 1
    probed = Probed(said, {peer: per_probe * probes for peer, probes in counted.items()})
    return advance_by_tickets(ledger, roll, probed, spec, stewards)


def _probes_of(chain: PastChain, banned: Set[PeerId]) -> tuple[Counter[PeerId], Counter[PeerId]]:
    """Return how many probes each peer claimed, and how many of them count."""
    said: Counter[PeerId] = Counter()
    counted: Counter[PeerId] = Counter()
    for block in chain.tip.blocks():
        for ticket in block.tickets:
            said[ticket.peer] += sum(value != NULL for value in ticket.said.projections)
        counted.update(chain.branches.rules.accepted(block))
    for peer in banned:
        counted.pop(peer, None)
    return said, counted


def _reports(
    roll: Roll, said: Counter[PeerId], counted: Counter[PeerId]
) -> dict[PeerId, MemberReport]:
    total, spoken = max(1, counted.total()), max(1, said.total())
    return {
        peer: MemberReport(
            share=counted[peer] / total,
            expected=said[peer] / spoken,
            missing=0.0 if said[peer] else 1.0,
        )
        for peer in {*roll.peers, *said}
    }
