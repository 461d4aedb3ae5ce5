"""A swarm in rounds: train, commit, call the roll, reduce, audit, step, and the next ledger.

The rules, weights, duties, audits and reputation are those of talkoot itself (`trust`), over its
own messages; without signatures, network, or time. The roles that fail do so as the ledger sees it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from benches.attack_sim.court import Court, Work
from benches.attack_sim.crew import LIAR_CAPACITY, Crew
from benches.attack_sim.digits import (
    CHUNK_EDGES,
    CHUNKS,
    Floats,
    Ints,
    Shards,
    Training,
    accuracy,
    initial,
    over_the_wire,
    train,
)
from benches.attack_sim.reduction import Reduced, Reduction
from benches.attack_sim.scenario import PEERS, Result, Scenario, peer
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.rollcall import (
    Accusation,
    Commitment,
    Roll,
    assign_reducers,
    backup_of,
    convener_rank,
)
from protocol.signing import Signed
from trust.admission import bans_of, electorate, established, is_punctual, offers, weigh
from trust.aggregate import Weights
from trust.attacks import ATTACKS, Behaviour
from trust.audit import check_aggregate, chunk_probability, draw_chunk
from trust.measures import Exchanged
from trust.reputation import advance
from trust.rules import cap_weights

SIZES = tuple(stop - start for start, stop in itertools.pairwise(CHUNK_EDGES))
SAMPLES = np.array([32] * 10 + [24, 24, 16, 16, 48, 48])
"""What honest peers do in a step: some are slow, some fast."""
ABSENT_PEERS, ABSENT_PART = 2, 0.1
"""So many honest peers miss so many rounds: unreliable is not malicious."""
VETERAN_ROUNDS = 200
VETERAN_PASSES = 10
VETERAN_SCORE = 0.95
VETERAN_COSINE = 0.5
STEWARDS = 1
OMITTED = 4

_HASHED = 16
"""One value of so many stands for all in an update's root: hashing all would cost a tenth."""
_GRADIENT = Training()
_MOMENTUM = Training(outer_rate=0.5, outer_momentum=0.0)
_ADAM = Training(steps=8, adam=True, outer_rate=0.7, outer_momentum=0.5)


@dataclass(frozen=True, slots=True)
class _Lot:
    """Whom chance made what, and what each has."""

    crew: Crew
    slow: Ints
    """(n,) samples of each."""
    unreliable: tuple[int, ...]
    capacities: tuple[int, ...]
    shards: Shards


@dataclass(slots=True)
class _Tally:
    """What happens on the way."""

    fell: dict[int, int] = field(default_factory=dict)
    """Liars by number, and when each lost its weight."""
    began: int | None = None
    """The round of the first lie."""
    lowest: float = 1.0
    repaired: int = 0
    wrong_verdicts: int = 0

    def note(self, round_: int, before: Ledger, after: Ledger, crew: Crew) -> None:
        """Note who was banned or suspended in a round, and the lowest honest score."""
        known = before.by_peer()
        for standing in after.standings:
            number = int(standing.peer)
            old = known.get(PeerId(standing.peer))
            fallen = standing.banned or standing.suspensions > (old.suspensions if old else 0)
            if number not in crew.members:
                self.lowest = min(self.lowest, standing.score)
            elif fallen and self.began is not None:
                self.fell.setdefault(number, round_)


class SimulatedSwarm:
    """One run of a scenario; `run` may be called once."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario, self._spec = scenario, scenario.spec
        self._rng = np.random.default_rng((scenario.seed, 1))
        self._lot = _deal(scenario, np.random.default_rng((scenario.seed, 2)))
        self._training = _MOMENTUM if scenario.momentum else _GRADIENT
        if scenario.adam:
            self._training = _ADAM
        self._params = initial(np.random.default_rng((scenario.seed, 3)))
        self._momentum = np.zeros_like(self._params)
        self._averages: Floats | None = None
        liars = frozenset(peer(number) for number in self._lot.crew.members)
        self._stewards = frozenset(peer(number) for number in range(STEWARDS))
        self._court = Court(self._spec, self._stewards, liars)
        if self._lot.crew.does(Behaviour.FALSE_ACCUSER):
            self._court.slandered = peer(max(set(range(PEERS)) - set(self._lot.crew.members)))
        self._ledger = _first_ledger(scenario, self._lot.crew)
        self._work = Work(0, {}, {})
        self._past: dict[int, tuple[Floats, Floats]] = {}
        self._tally = _Tally()

    def run(self) -> Result:
        """Run all rounds."""
        for round_ in range(1, self._scenario.lasts + 1):
            self._round(round_)
        return self._result()

    def _round(self, round_: int) -> None:
        root = self._root(round_)
        self._past[round_] = self._params.copy(), self._momentum.copy()
        self._past.pop(round_ - self._spec.kept_rounds - 1, None)
        if self._scenario.trust == "audits":
            self._court.audit_work(root, self._ledger, self._work)
        sent, samples = self._train(round_)
        here = self._present()
        if not here:
            return
        roll = self._call(here, root, sent, samples)
        reduced, reducers = self._exchange(roll, sent)
        if self._scenario.trust != "none":
            self._audit_chunks(self._root(round_ + 1), roll, reduced)
        self._step(reduced)
        if self._scenario.trust != "none":
            self._judge(roll, reduced, reducers)

    def _root(self, round_: int) -> bytes:
        return sha256(f"{self._scenario.seed}/{round_}".encode()).digest()

    # what is sent

    def _train(self, round_: int) -> tuple[Floats, Ints]:
        crew, training = self._lot.crew, self._training
        steps = [self._lot.shards.draw(self._lot.slow, self._rng) for _ in range(training.steps)]
        honest = train(self._params, steps, training)
        updates = crew.train(self._params, honest, steps, training)
        beta = np.float32(self._scenario.momentum)
        if beta:
            before = self._averages if self._averages is not None else updates
            updates = self._averages = beta * before + (1 - beta) * updates
        active = self._active()
        if crew.attack and active.any() and self._tally.began is None:
            self._tally.began = round_
        wire = over_the_wire(crew.lie(updates, round_, active))
        names = [peer(number) for number in range(PEERS)]
        should = over_the_wire(honest)
        self._work = Work(
            round_, dict(zip(names, wire, strict=True)), dict(zip(names, should, strict=True))
        )
        return wire, crew.samples(self._lot.slow * training.steps)

    def _active(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Return who lies by now, (n,): turncoats once they are established."""
        active = np.zeros(PEERS, np.bool_)
        liars = list(self._lot.crew.members)
        counted = established(self._ledger, self._spec, self._stewards)
        waits = self._scenario.adds_newcomers and self._tally.began is None
        active[liars] = not waits or {peer(liar) for liar in liars} <= counted
        return active

    # the roll call

    def _call(self, here: Sequence[int], root: bytes, sent: Floats, samples: Ints) -> Roll:
        round_ = self._work.round
        convener = self._convener(round_, root, here)
        omitted = self._omitted(convener, here)
        listed = [number for number in here if number not in omitted]
        members = tuple(
            Signed(
                peer(number), self._commit(number, round_, root, sent, int(samples[number])), b""
            )
            for number in listed
        )
        self._court.close()
        self._court.object([peer(number) for number in omitted], convener)
        self._betray(round_, convener)
        return Roll(convener, round_, root, members, root)

    def _present(self) -> list[int]:
        """Return who commits: whoever is there, isn't banned, and has not diverged."""
        absent = {each for each in self._lot.unreliable if self._rng.random() < ABSENT_PART}
        banned = self._ledger.banned
        return [
            number for number in range(PEERS) if peer(number) not in banned and number not in absent
        ]

    def _commit(
        self, number: int, round_: int, root: bytes, sent: Floats, samples: int
    ) -> Commitment:
        name = peer(number)
        return Commitment(
            round=round_,
            prev_root=root,
            at=0.0,
            samples=samples,
            steps=self._training.steps,
            loss=None,
            capacity=self._lot.capacities[number],
            update_root=sha256(sent[number, ::_HASHED].tobytes()).digest(),
            verdict=self._court.verdicts.get(name),
            accusations=self._court.accusations(name, self._ledger.banned),
            objections=self._court.objections_of(name),
        )

    def _convener(self, round_: int, root: bytes, here: Sequence[int]) -> PeerId:
        names = [peer(number) for number in here]
        voters = electorate(names, self._ledger, self._spec, self._stewards)
        known = self._ledger.by_peer()
        punctual = [name for name in sorted(voters) if is_punctual(known.get(name))]
        return min(punctual or voters, key=lambda name: convener_rank(root, round_, name))

    def _omitted(self, convener: PeerId, here: Sequence[int]) -> set[int]:
        crew = self._lot.crew
        if convener not in self._court.liars or not crew.does(Behaviour.OMITTING_CONVENER):
            return set()
        honest = [number for number in here if number not in crew.members]
        return {int(each) for each in self._rng.permutation(honest)[:OMITTED]}

    def _betray(self, round_: int, convener: PeerId) -> None:
        """Note what everybody sees of liars that sign what disproves itself."""
        crew, court = self._lot.crew, self._court
        if self._scenario.trust == "none":
            return
        if convener in court.liars and crew.does(Behaviour.EQUIVOCATING_CONVENER):
            court.prove(convener, round_)
        if crew.does(Behaviour.FALSE_ACCUSER, Behaviour.EQUIVOCATING_SENDER):
            for liar in sorted(court.liars - self._ledger.banned):
                court.prove(liar, round_)

    # the exchange

    def _exchange(self, roll: Roll, sent: Floats) -> tuple[dict[int, Reduced], list[PeerId]]:
        """Return each chunk as it was signed for, and whose duty it was."""
        capacities = offers(roll, self._ledger, self._spec, self._stewards)
        reduction = Reduction(self._scenario, self._lot.crew, self._court, roll, self._weigh)
        numbers = [int(name) for name in roll.peers]
        reduced, duties = {}, []
        for chunk, reducer in enumerate(assign_reducers(capacities, SIZES)):
            duties.append(roll.peers[reducer])
            backup = backup_of(reducer, capacities)
            rows = sent[numbers, CHUNK_EDGES[chunk] : CHUNK_EDGES[chunk + 1]]
            reduced[chunk] = reduction.reduce(chunk, rows, reducer, backup)
        return reduced, duties

    def _weigh(self, roll: Roll, present: Sequence[int]) -> Weights:
        if self._scenario.trust == "none":
            return cap_weights([roll.members[index].message.samples for index in present])
        return weigh(roll, present, self._ledger, self._spec, self._stewards)

    def _audit_chunks(self, root: bytes, roll: Roll, reduced: Mapping[int, Reduced]) -> None:
        """Let those whom the root draws check an aggregate of this round."""
        voters = electorate(roll.peers, self._ledger, self._spec, self._stewards)
        probability = chunk_probability(len(roll.members), SIZES)
        finders: dict[int, PeerId] = {}
        for name in sorted(voters - self._court.liars):
            chunk = draw_chunk(root, name, CHUNKS, probability)
            if chunk is not None:
                finders.setdefault(chunk, name)
        for chunk, finder in finders.items():
            found = reduced[chunk]
            wrong = check_aggregate(
                self._scenario.rule,
                found.rows,
                self._weigh(roll, found.present),
                found.data,
                found.claim,
            )
            if wrong is not None and found.honest:
                self._tally.wrong_verdicts += 1
            if wrong is not None:
                self._court.find(finder, found.receipt.signer, roll.round, chunk)

    # what follows from it

    def _step(self, reduced: Mapping[int, Reduced]) -> None:
        mu, eta = np.float32(self._training.outer_momentum), np.float32(self._training.outer_rate)
        for chunk, found in reduced.items():
            here = slice(CHUNK_EDGES[chunk], CHUNK_EDGES[chunk + 1])
            self._momentum[here] = mu * self._momentum[here] + found.data
            self._params[here] -= eta * (found.data + mu * self._momentum[here])

    def _judge(self, roll: Roll, reduced: Mapping[int, Reduced], duties: Sequence[PeerId]) -> None:
        bans = bans_of(roll, self._ledger, self._spec, self._stewards)
        receipts = {chunk: found.receipt for chunk, found in reduced.items()}
        exchanged = Exchanged(roll, receipts, duties, SIZES)
        before = self._ledger
        self._ledger = advance(before, exchanged, self._spec, self._stewards)
        for accusation in bans.values():
            self._repair(accusation)
        self._tally.note(roll.round, before, self._ledger, self._lot.crew)

    def _repair(self, accusation: Accusation) -> None:
        """Put the chunk of a lie back to what it was before."""
        if accusation.chunk is None or accusation.round not in self._past:
            return
        here = slice(CHUNK_EDGES[accusation.chunk], CHUNK_EDGES[accusation.chunk + 1])
        params, momentum = self._past[accusation.round]
        self._params[here], self._momentum[here] = params[here], momentum[here]
        self._tally.repaired += 1

    def _result(self) -> Result:
        tally, began = self._tally, self._tally.began
        standings = self._ledger.by_peer()
        honest = [each for name, each in standings.items() if name not in self._court.liars]
        fell = [tally.fell.get(liar) for liar in self._lot.crew.members]
        liars = [each for name, each in standings.items() if name in self._court.liars]
        return Result(
            accuracy=accuracy(self._params),
            rounds_to_ban=tuple(
                None if each is None or began is None else each - began for each in fell
            ),
            proved=sum(bool(each.banned) for each in liars),
            without_role=sum(bool(each.banned) or not is_punctual(each) for each in liars),
            honest_bans=sum(bool(each.banned) for each in honest),
            honest_suspensions=sum(each.suspensions for each in honest),
            lowest_score=tally.lowest,
            repaired=tally.repaired,
            wrong_verdicts=tally.wrong_verdicts,
        )


def _deal(scenario: Scenario, rng: np.random.Generator) -> _Lot:
    """Draw who lies, who is slow and who is unreliable, and each one's data."""
    others = rng.permutation(np.arange(STEWARDS, PEERS))
    liars = tuple(sorted(int(each) for each in others[: scenario.liars]))
    unreliable = tuple(int(each) for each in others[scenario.liars :][:ABSENT_PEERS])
    attack = ATTACKS[scenario.attack] if scenario.attack else None
    offers_ = rng.integers(1_000_000, 2_000_000, PEERS)
    if attack and attack.behaviour:
        offers_[list(liars)] = LIAR_CAPACITY * 2_000_000
    return _Lot(
        crew=Crew(attack, liars, scenario.seed),
        slow=rng.permutation(SAMPLES),
        unreliable=unreliable,
        capacities=tuple(offers_.tolist()),
        shards=Shards.deal(scenario.data, PEERS, rng),
    )


def _first_ledger(scenario: Scenario, crew: Crew) -> Ledger:
    """Return a ledger in which all are established, but for liars that come as strangers."""
    standings = []
    for number in range(PEERS):
        if scenario.adds_newcomers and number in crew.members:
            continue
        standings.append(
            Standing(
                peer=peer(number),
                joined=0,
                seen=0,
                rounds=VETERAN_ROUNDS,
                passes=VETERAN_PASSES,
                score=VETERAN_SCORE,
                distance=1.0,
                worst=1.0,
                noise=1.0,
                cosine=VETERAN_COSINE,
            )
        )
    return Ledger(tuple(standings))
