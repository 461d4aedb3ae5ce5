"""What a worker is given, and what it has to show."""

from dataclasses import dataclass, field

from dht.swarm import Swarm
from node.exchange.outcome import MemberReport, Outcome
from node.exchange.setting import ExchangeTiming
from node.exchange.wire import UPDATE_BYTES
from node.home.address_book import AddressBook
from node.store.ledger import RunLedger
from node.store.outline import Outlined
from node.store.run_folder import RunFolder
from node.training.permit import Permit
from protocol.electorate import Electorate
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest
from protocol.rollcall import MAX_MEMBERS, Roll, Terms
from protocol.rounds import RoundRules
from trust.admission import established

MOST_CAPACITY = 10_000_000_000
"""Buffers of the system take what is sent as fast as memory is."""


@dataclass(frozen=True, slots=True)
class RunSetting:
    """A run and what this peer brings to it."""

    swarm: Swarm
    identity: Identity
    run: bytes
    manifest: Manifest
    folder: RunFolder
    book: AddressBook
    name: str
    """What others call this peer."""
    reduces: bool = True
    max_state_bytes: int = 1 << 34
    """Largest state that fits this machine."""
    nonce: int = 0
    """Our proof of work, where the run asks for one."""
    ledger: RunLedger | None = None
    """Where this node keeps the run's history and evidence; None = nowhere."""
    permit: Permit = field(default_factory=Permit)
    """Whether training may run."""
    device: str = ""
    """What others see that this peer trains on."""

    @property
    def stewards(self) -> frozenset[PeerId]:
        """The keys that the manifest trusts from the start."""
        return frozenset(PeerId(peer) for peer in self.manifest.stewards)

    @property
    def terms(self) -> Terms:
        """What the manifest asks of every commitment."""
        manifest = self.manifest
        steps = manifest.round.local_steps if manifest.method.kind == "local" else None
        return Terms(manifest.trust.work_bits, steps, manifest.task.samples_per_step)

    @property
    def round_rules(self) -> RoundRules:
        """When a round ends; who is left out of an exchange waits until it is over."""
        rules, parameters = self.manifest.round, self.manifest.task.parameters
        exchange = ExchangeTiming.for_bytes(UPDATE_BYTES * parameters, MAX_MEMBERS)
        return RoundRules(
            rules.max_seconds,
            rules.min_peers,
            rules.target_samples,
            watch_seconds=max(60.0, exchange.total),
        )

    def is_finished(self, round_: int) -> bool:
        """Return whether the state after `round_` rounds is the last one planned."""
        total = self.manifest.round.total
        return total is not None and round_ >= total


def electorate_after(setting: RunSetting, state: Outlined) -> Electorate:
    """Return whose word counts by a state's ledger; everybody's in a run without probation."""
    spec, stewards = setting.manifest.trust, setting.stewards
    probation = spec.probation_rounds or spec.probation_passes
    counted = established(state.ledger, spec, stewards) if probation else None
    return Electorate(stewards, counted, state.ledger.banned)


@dataclass(slots=True)
class Tally:
    """What the worker has to show, for people."""

    reason: str = ""
    """What keeps this peer from its work; empty = nothing."""
    doubled: bool = False
    """Whether another node has our identity."""
    paused: bool = False
    """Whether the others need not wait for this peer: its trainer fails, or may not run."""
    samples_in_round: int = 0
    samples_mine: int = 0
    samples_accepted: int = 0
    samples_rejected: int = 0
    samples_per_second: float = 0.0
    progress: float = 0.0
    loss: float | None = None
    reports: dict[PeerId, MemberReport] = field(default_factory=dict)
    reported_round: int = 0
    round_seconds: float | None = None
    """How long the last round took, from its training to the agreed state."""
    missing: int = 0
    capacity: int = 0
    """Bytes per second that we offer as a reducer."""
    probes: int = 0
    """Of method spsa, made here."""
    bytes_said: int = 0
    """In tickets and blocks, by this peer."""
    bytes_heard: int = 0

    def note_round(self, roll: Roll, reports: dict[PeerId, MemberReport]) -> None:
        """Note what each peer had of a round."""
        losses = [member.message.loss for member in roll.members]
        known = sorted(loss for loss in losses if loss is not None)
        self.loss = known[len(known) // 2] if known else None
        self.reports, self.reported_round = reports, roll.round

    def note_credit(self, samples: int, mine: MemberReport | None) -> None:
        """Note what became of our own work in a round that is agreed."""
        if mine is not None and mine.share > 0:
            self.samples_accepted += samples
        elif mine is not None:
            self.samples_rejected += samples

    def note_exchange(self, roll: Roll, outcome: Outcome, *, reduces: bool) -> None:
        """Note what came of an exchange."""
        self.note_round(roll, outcome.reports)
        self.missing = len(outcome.missing)
        if reduces and outcome.send_rate:
            rate = min(outcome.send_rate, MOST_CAPACITY)
            self.capacity = int(0.7 * self.capacity + 0.3 * rate)
