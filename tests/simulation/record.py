"""What the peers of a simulated run did, as an onlooker sees it who sees all of them at once.

Everything goes into one log, line by line: its hash tells whether two runs were the same.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from node.run.spsa import SpsaWorker
from node.run.worker import Worker
from node.store.state import State
from protocol.codec import Message
from protocol.events import Adopt, Effect, Event, Result
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.rollcall import Roll, RollCall
from protocol.signing import MessageT, Signed
from protocol.tickets import NULL

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Held:
    """A state that a peer came to hold."""

    at: float
    peer: int
    state: State
    adopted: bool
    """By its own exchange, not fetched."""
    before: State | None


@dataclass(frozen=True, slots=True)
class Adoption:
    """A round that a peer finished: the state that its own exchange led to counts."""

    at: float
    peer: int
    before: State
    after: State
    roll: Roll
    said: Mapping[PeerId, int]
    """Samples that were signed for: in commitments, or in the tickets of agreed blocks."""
    by_most: bool
    """Most of the roll's members whose word counts had voted for it; else time was up."""


@dataclass
class Record:
    """The log, and what the promises are checked against.

    `honest` are the numbers of the peers to which promises are made.
    """

    honest: frozenset[int]
    clock: Clock
    trace: Callable[[str], None] | None = None
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Promise and what broke it."""
    held: list[Held] = field(default_factory=list)
    adoptions: list[Adoption] = field(default_factory=list)
    latest: dict[int, Held] = field(default_factory=dict)
    voted: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """Roots that honest peers came to, by their round."""
    committed: Counter[tuple[PeerId, int]] = field(default_factory=Counter)
    """The most samples that anybody committed to, by peer and round."""
    rolls: dict[tuple[PeerId, int, bytes, int], bytes] = field(default_factory=dict)
    """What each honest peer signed as convener, by round, root and attempt."""
    acknowledged: dict[int, tuple[int, str]] = field(default_factory=dict)
    """The newest checkpoint on each peer's disk: round and file."""
    checks: list["Check"] = field(default_factory=list)
    lines: int = 0
    _hash: "sha256" = field(default_factory=sha256)  # type: ignore[valid-type]
    _votes: dict[int, tuple[Roll, bool]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the log so far."""
        return str(self._hash.hexdigest())  # type: ignore[attr-defined]

    def note(self, what: str) -> None:
        """Add a line to the log."""
        line = f"{self.clock():10.4f}  {what}"
        self.lines += 1
        self._hash.update(line.encode() + b"\n")  # type: ignore[attr-defined]
        if self.trace:
            self.trace(line)

    def fail(self, promise: str, what: str) -> None:
        """Note that a promise is broken."""
        self.broken.append((promise, f"{self.clock():.1f} s: {what}"))
        self.note(f"BROKEN {promise}: {what}")

    # watching a worker

    def watch(self, number: int, worker: Worker) -> None:
        """Note from now on what a worker does."""
        self._watch_signing(number, worker)
        if number not in self.honest:
            return
        self._watch_machine(number, worker)
        self._watch_states(number, worker)
        if worker.state is not None:
            self._hold(number, worker.state, adopted=False, before=None)

    def _watch_signing(self, number: int, worker: Worker) -> None:
        sign, me = worker._channel.sign, worker._set.identity.peer_id

        def watched(message: MessageT) -> Signed[MessageT]:
            signed = sign(message)
            self._note_signed(number, me, message, signed.envelope)
            return signed

        worker._channel.sign = watched  # type: ignore[method-assign]

    def _note_signed(self, number: int, me: PeerId, message: Message, envelope: bytes) -> None:
        match message:
            case Result() if number in self.honest:
                self.voted[message.round + 1].add(message.root)
            case RollCall() if number in self.honest:
                place = (me, message.round, message.prev_root, message.attempt)
                if self.rolls.setdefault(place, envelope) != envelope:
                    self.fail("no_honest_peer_convicts_itself", f"{number} signed two rolls")

    def _watch_machine(self, number: int, worker: Worker) -> None:
        machine = worker.machine
        handle = machine.handle

        def watched(event: Event, now: float) -> list[Effect]:
            notes, phase = machine._round, machine.phase
            effects = handle(event, now)
            for effect in effects:
                self.note(f"{number} {type(event).__name__} -> {_told(effect)}")
                if isinstance(effect, Adopt) and notes is not None and notes.roll is not None:
                    voters = machine.live.electorate.among(notes.roll.peers)
                    root = effect.head.root
                    votes = sum(notes.votes.get(peer) == root for peer in voters)
                    self._votes[number] = notes.roll, 2 * votes > len(voters)
            if not effects and machine.phase is not phase:
                self.note(
                    f"{number} {type(event).__name__}: {phase.value} -> {machine.phase.value}"
                )
            return effects

        machine.handle = watched  # type: ignore[method-assign]

    def _watch_states(self, number: int, worker: Worker) -> None:
        hold, adopt = worker._hold, worker._adopt
        adopting = False

        def watched_hold(state: State) -> None:
            before = worker.state
            hold(state)
            self._hold(number, state, adopted=adopting, before=before)

        def watched_adopt() -> None:
            nonlocal adopting
            before = worker.state
            roll, by_most = self._votes[number]
            said = _said(worker, roll)
            for peer, samples in said.items():
                key = peer, roll.round
                self.committed[key] = max(self.committed[key], samples)
            adopting = True
            adopt()
            adopting = False
            after = worker.state
            if before is not None and after is not None:
                self._adopt(Adoption(self.clock(), number, before, after, roll, said, by_most))

        worker._hold = watched_hold  # type: ignore[method-assign]
        worker._adopt = watched_adopt  # type: ignore[method-assign]

    def _hold(self, number: int, state: State, *, adopted: bool, before: State | None) -> None:
        how = "adopts" if adopted else "holds"
        self.note(f"{number} {how} round {state.round} {state.root.hex()[:12]}")
        held = Held(self.clock(), number, state, adopted, before)
        self.held.append(held)
        self.latest[number] = held
        for check in self.checks:
            if found := check.on_held(self, held):
                self.fail(check.name, found)

    def _adopt(self, adoption: Adoption) -> None:
        self.adoptions.append(adoption)
        for check in self.checks:
            if found := check.on_adoption(self, adoption):
                self.fail(check.name, found)

    # disks

    def written(self, number: int, path: Path) -> None:
        """Note a file that is safely on a peer's disk."""
        if path.name.startswith("state-"):
            round_ = int(path.name.removeprefix("state-").partition(".")[0])
            self.acknowledged[number] = round_, path.name


class Check:
    """A promise that is looked at with each state that an honest peer comes to hold."""

    name = ""

    def on_held(self, record: Record, held: Held) -> str | None:
        """Return what breaks the promise, if anything does."""
        return None

    def on_adoption(self, record: Record, adoption: Adoption) -> str | None:
        """Return what breaks the promise, if anything does."""
        return None


def credits_of(ledger: Ledger) -> dict[PeerId, int]:
    """Return everybody's credit, in samples."""
    return {PeerId(each.peer): each.samples for each in ledger.standings}


def _said(worker: Worker, roll: Roll) -> Mapping[PeerId, int]:
    """Return the samples that everybody signed for in a round that is about to be adopted."""
    if not isinstance(worker, SpsaWorker):
        return {each.signer: each.message.samples for each in roll.members}
    probes = Counter[PeerId]()
    for block in worker._sealed.blocks if worker._sealed else ():
        for ticket in block.tickets:
            probes[ticket.peer] += sum(value != NULL for value in ticket.said.projections)
    per_probe = worker._set.manifest.task.samples_per_step or 1
    return {peer: per_probe * count for peer, count in probes.items()}


def _told(effect: Effect) -> str:
    name = type(effect).__name__
    head = getattr(effect, "head", None)
    if head is not None:
        return f"{name} {head.round} {head.root.hex()[:12]}"
    roll = getattr(effect, "roll", None)
    return f"{name} {roll.digest.hex()[:12]}" if roll is not None else name
