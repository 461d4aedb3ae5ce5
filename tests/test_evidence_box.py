"""Evidence at a peer: what counts, what is refused and attributed, and what bounds it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import node.audit.evidence_box as box_module
from dht.fence.refusals import Refusals
from dht.virtual_time import run
from node.audit.docket import MAX_WAITING_PER_PEER
from node.audit.evidence_box import MADE, VERIFIED, EvidenceBox
from node.audit.evidence_check import EvidenceChecker, open_evidence
from node.audit.inspection import Inspector
from node.run.channel import RunChannel
from node.run.setting import RunSetting
from node.store.ledger import EvidenceNote, RunLedger
from node.store.state import State
from node.store.storage import Disk, DiskFullError
from node.training.trainer import TrainerError
from node.transfer.sources import FetchError
from node.transfer.tree_server import HeldTree, TreeShelf
from protocol.evidence import Equivocation, Evidence, FalseAccusation, FalseWork, Proof
from protocol.identity import PeerId
from protocol.layout import Layout, TensorSpec
from protocol.ledger import Ledger, Standing
from protocol.rollcall import Accusation
from protocol.signing import Signed, seal
from tests.messages import OTHER_RUN, RUN, committed, identity, manifest, peer, result, roll
from trust.audit import AuditVerdict
from trust.evidence import evidence_chunks, lie_of

ME, ACCUSER, FALSE_ACCUSER, LIAR = 0, 1, 2, 3
ROLL = roll(1, [committed(1), committed(3)])


def ledger_of(numbers: Sequence[int], banned: dict[int, bytes] | None = None) -> Ledger:
    """Return standings of these peers."""
    banned = banned or {}
    peers = sorted((peer(number), banned.get(number)) for number in numbers)
    return Ledger(tuple(Standing(peer=name, joined=0, seen=0, banned=root) for name, root in peers))


LEDGER = ledger_of(range(6))


def equivocation(liar: int = LIAR) -> Equivocation:
    first, second = (result(liar, ROLL, root * 32).envelope for root in (b"a", b"b"))
    return Equivocation(first, second)


def sealed_by(
    accuser: int, proof: Proof, accused: int = LIAR, run: bytes = RUN
) -> Signed[Evidence]:
    return seal(identity(accuser), run, Evidence(peer(accused), proof))


TRUE = sealed_by(ACCUSER, equivocation())
SAME_TWICE = Equivocation(result(LIAR, ROLL).envelope, result(LIAR, ROLL).envelope)
UNTRUE = sealed_by(FALSE_ACCUSER, SAME_TWICE)


def naming(signed: Signed[Evidence], accused: int | None = None) -> Accusation:
    named = signed.message.accused if accused is None else peer(accused)
    return Accusation(named, HeldTree.of(evidence_chunks(signed.envelope)).root, 0)


class World:
    """What others serve: evidence by root and peer. Who is `silent` never answers."""

    def __init__(self) -> None:
        self.served: dict[tuple[bytes, PeerId], tuple[bytes, ...]] = {}
        self.silent: set[PeerId] = set()
        self.asked: list[tuple[bytes, PeerId]] = []

    def serve(self, number: int, signed: Signed[Evidence]) -> Accusation:
        tree = HeldTree.of(evidence_chunks(signed.envelope))
        self.served[tree.root, peer(number)] = tree.chunks
        return naming(signed)

    async def fetch(
        self, root: bytes, peers: Sequence[PeerId], max_leaves: int, chunk: int | None = None
    ) -> tuple[Sequence[bytes], dict[int, bytes]]:
        for each in peers:
            self.asked.append((root, each))
            if each in self.silent:
                await asyncio.Event().wait()
            if chunks := self.served.get((root, each)):
                return [b""] * len(chunks), dict(enumerate(chunks))
        raise FetchError("nobody has it")


@dataclass
class FakeChecker(EvidenceChecker):
    """Decides what arithmetic alone decides, and gives a fixed verdict on work."""

    work: AuditVerdict | Exception = AuditVerdict.UNKNOWN
    drawn: bool = True
    checks: int = 0
    pure: EvidenceChecker = field(init=False)

    def __post_init__(self) -> None:
        setting = cast("RunSetting", SimpleNamespace(run=RUN))
        super().__init__(setting, cast("Inspector", None), cast("Any", None))

    async def check(self, signed: Signed[Evidence], helpers: Sequence[PeerId]) -> AuditVerdict:
        self.checks += 1
        if not self.takes_trainer(signed):
            return await super().check(signed, helpers)
        if isinstance(self.work, Exception):
            raise self.work
        return self.work

    def was_drawn(self, signed: Signed[Evidence]) -> bool:
        return self.drawn


class Said:
    """Notes what the channel is to say."""

    def __init__(self) -> None:
        self.accusations: list[Accusation] = []

    def sign(self, message: Accusation) -> Signed[Accusation]:
        return seal(identity(ME), RUN, message)

    def say(self, signed: Signed[Accusation]) -> None:
        self.accusations.append(signed.message)


class Scene:
    """One peer's box, and all that is around it."""

    def __init__(self, ledger: RunLedger | None = None) -> None:
        self.world, self.said, self.shelf = World(), Said(), TreeShelf()
        self.refusals = Refusals(lambda: 0.0)
        self.refused = self.refusals.refused
        self.checker = FakeChecker()
        self.notes = ledger
        setting = SimpleNamespace(
            identity=identity(ME),
            run=RUN,
            ledger=ledger,
            swarm=SimpleNamespace(
                time=lambda: 0.0, report=lambda peer, error: self.refusals.count(error, peer)
            ),
            manifest=manifest(ACCUSER),
            stewards=frozenset({peer(ACCUSER)}),
        )
        self.box = EvidenceBox(
            cast("RunSetting", setting),
            cast("RunChannel", self.said),
            self.shelf,
            cast("Inspector", self.world),
            self.checker,
        )

    def hear(self, accuser: int, *accusations: Accusation, ledger: Ledger = LEDGER) -> None:
        self.box.hear(peer(accuser), accusations, ledger)

    def says(self, signed: Signed[Evidence], by: int = ACCUSER) -> None:
        self.hear(by, self.world.serve(by, signed))

    def accused(self, ledger: Ledger = LEDGER) -> list[PeerId]:
        layout = Layout((TensorSpec(name="a", shape=(4,)),))
        state = State.genesis(RUN, layout, np.zeros(4, np.float32))
        after = state.next(state.params, state.momentum, ledger)
        return [PeerId(each.accused) for each in self.box.accusations(after)]


def play(scenario: Callable[[Scene], Awaitable[None]], scene: Scene | None = None) -> Scene:
    """Run a scenario while the box verifies what it hears, in virtual time."""
    scene = scene or Scene()

    async def both() -> None:
        verifying = asyncio.create_task(scene.box.verify_heard())
        await scenario(scene)
        assert not verifying.done()
        verifying.cancel()
        await asyncio.wait([verifying])

    run(both())
    return scene


def after_a_while(*steps: Callable[[Scene], None]) -> Callable[[Scene], Awaitable[None]]:
    async def scenario(scene: Scene) -> None:
        for step in steps:
            step(scene)
            await asyncio.sleep(1)

    return scenario


def test_evidence_that_holds_is_our_accusation_too_and_served() -> None:
    scene = play(after_a_while(lambda scene: scene.says(TRUE)))
    assert scene.accused() == [peer(LIAR)]
    assert [each.evidence for each in scene.said.accusations] == [naming(TRUE).evidence]
    assert scene.shelf.leaves(naming(TRUE).evidence) is not None


def test_false_evidence_costs_its_sender() -> None:
    scene = play(after_a_while(lambda scene: scene.says(UNTRUE, by=FALSE_ACCUSER)))
    assert scene.accused() == [peer(FALSE_ACCUSER)]
    assert scene.refused == {"bad_record": 1}


def test_who_relays_false_evidence_costs_its_sender_not_its_relay() -> None:
    scene = play(after_a_while(lambda scene: scene.says(UNTRUE, by=ACCUSER)))
    assert scene.accused() == [peer(FALSE_ACCUSER)]


def replaced(accusation: Accusation, signed: Signed[Evidence]) -> Callable[[Scene], None]:
    """Return a step that serves other evidence than an accusation names."""

    def step(scene: Scene) -> None:
        scene.world.served[accusation.evidence, peer(ACCUSER)] = (signed.envelope,)
        scene.hear(ACCUSER, accusation)

    return step


FORGED = Signed(TRUE.signer, TRUE.message, TRUE.envelope[:-1] + bytes([TRUE.envelope[-1] ^ 1]))
OF_ANOTHER_RUN = sealed_by(ACCUSER, equivocation(), run=OTHER_RUN)
MALFORMED = Signed(TRUE.signer, TRUE.message, b"\xc1" * 100)
AGAINST_ANOTHER = sealed_by(ACCUSER, equivocation(), accused=4)


@pytest.mark.parametrize(
    "bad",
    [FORGED, OF_ANOTHER_RUN, MALFORMED, AGAINST_ANOTHER],
    ids=["forged", "of another run", "malformed", "against another"],
)
def test_evidence_that_is_none_is_refused_counted_and_accuses_nobody(bad: Signed[Evidence]) -> None:
    scene = play(after_a_while(replaced(naming(bad, accused=LIAR), bad)))
    assert scene.accused() == []
    assert sum(scene.refused.values()) == 1
    assert scene.shelf.leaves(naming(bad).evidence) is None


@pytest.mark.parametrize("about_what_is_no_evidence", [b"", b"\xc1" * 1000, TRUE.envelope])
def test_a_false_accusation_of_false_accusation_holds_against_nobody(
    about_what_is_no_evidence: bytes,
) -> None:
    proof = FalseAccusation(about_what_is_no_evidence)
    signed = sealed_by(FALSE_ACCUSER, proof, accused=ACCUSER)
    scene = play(after_a_while(lambda scene: scene.says(signed, by=FALSE_ACCUSER)))
    assert scene.accused() == []
    assert sum(scene.refused.values()) == 1


def test_replayed_accusations_are_fetched_once() -> None:
    scene = play(after_a_while(*[lambda scene: scene.says(TRUE)] * 20))
    assert len(scene.world.asked) == 1
    assert len(scene.said.accusations) == 1


@pytest.mark.parametrize(
    ("accusation", "ledger"),
    [
        (naming(TRUE, accused=ACCUSER), LEDGER),
        (naming(TRUE, accused=99), LEDGER),
        (naming(TRUE), ledger_of(range(6), {LIAR: b"e" * 32})),
        (naming(TRUE, accused=ME), LEDGER),
    ],
    ids=["of oneself", "of the unknown", "of the banned", "of us"],
)
def test_accusations_that_are_none_cost_nothing(accusation: Accusation, ledger: Ledger) -> None:
    scene = play(after_a_while(lambda scene: scene.hear(ACCUSER, accusation, ledger=ledger)))
    assert scene.world.asked == []
    assert scene.accused() == []


def test_10_000_accusations_of_one_peer_are_refused_but_for_a_few() -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(10_000):
            scene.hear(FALSE_ACCUSER, Accusation(peer(LIAR), number.to_bytes(32, "big"), 0))
        await asyncio.sleep(60)

    scene = play(scenario)
    assert scene.refused["bad_record"] == 10_000 - MAX_WAITING_PER_PEER
    assert len(scene.world.asked) == MAX_WAITING_PER_PEER


def test_who_never_serves_what_it_names_keeps_no_other_accusation_waiting() -> None:
    async def scenario(scene: Scene) -> None:
        scene.world.silent = {peer(number) for number in (2, 4, 5)}
        for accuser in (2, 4, 5):
            junk = [Accusation(peer(LIAR), bytes([accuser, n] * 16), 0) for n in range(8)]
            scene.hear(accuser, *junk)
        scene.says(TRUE)
        await asyncio.sleep(1)

    assert play(scenario).accused() == [peer(LIAR)]


def test_a_liar_that_names_true_evidence_first_and_hides_it_keeps_nobody_from_it() -> None:
    async def scenario(scene: Scene) -> None:
        for _ in range(8):
            scene.hear(FALSE_ACCUSER, naming(TRUE))
            await asyncio.sleep(40)
        scene.says(TRUE)
        await asyncio.sleep(1)

    assert play(scenario).accused() == [peer(LIAR)]


def test_a_proved_liar_is_not_heard_any_more() -> None:
    def later(scene: Scene) -> None:
        scene.says(sealed_by(LIAR, equivocation(4), accused=4), by=LIAR)

    scene = play(after_a_while(lambda scene: scene.says(TRUE), later))
    assert len(scene.world.asked) == 1


def test_accusations_of_many_nobodies_do_not_hide_one_of_who_counts() -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(10, 30):
            await scene.box.accuse(peer(number), equivocation(number))
        await scene.box.accuse(peer(ACCUSER), equivocation(ACCUSER))

    accused = play(scenario).accused()
    assert accused[0] == peer(ACCUSER)
    assert len(accused) == 8


# --- evidence that takes the trainer

WORK = sealed_by(ACCUSER, FalseWork(committed(LIAR).envelope))
ABOUT_WORK = sealed_by(FALSE_ACCUSER, FalseAccusation(WORK.envelope), accused=ACCUSER)


@pytest.mark.parametrize("evidence", [WORK, ABOUT_WORK])
def test_work_is_repeated_by_who_owns_the_trainer_only(evidence: Signed[Evidence]) -> None:
    by = ACCUSER if evidence is WORK else FALSE_ACCUSER
    scene = play(after_a_while(lambda scene: scene.says(evidence, by=by)))
    assert scene.box.has_work
    assert scene.checker.checks == 0


def test_only_who_was_drawn_may_have_work_repeated() -> None:
    scene = Scene()
    scene.checker.drawn = False
    play(after_a_while(lambda scene: scene.says(WORK)), scene)
    assert not scene.box.has_work
    assert not scene.box.work_came.is_set()


@pytest.mark.parametrize(
    ("verdict", "accused"),
    [
        (AuditVerdict.HOLDS, [peer(LIAR)]),
        (AuditVerdict.FALSE, [peer(ACCUSER)]),
        (AuditVerdict.UNKNOWN, []),
        (TrainerError("trainer_died", "killed"), []),
    ],
)
def test_repeated_work_decides(verdict: AuditVerdict | Exception, accused: list[PeerId]) -> None:
    async def scenario(scene: Scene) -> None:
        scene.checker.work = verdict
        scene.says(WORK)
        await asyncio.sleep(1)
        if isinstance(verdict, Exception):
            with pytest.raises(TrainerError):
                await scene.box.judge_work()
        else:
            await scene.box.judge_work()
        assert not scene.box.has_work

    assert play(scenario).accused() == accused


# --- bans that others agreed on

BANNED = ledger_of(range(6), {LIAR: naming(TRUE).evidence})


def test_the_evidence_behind_a_ban_is_fetched_and_verified(tmp_path: Path) -> None:
    scene = Scene(RunLedger(tmp_path / "ledger", Disk()))

    def step(scene: Scene) -> None:
        scene.world.serve(ACCUSER, TRUE)
        scene.box.note_bans(BANNED, [peer(ACCUSER)])

    play(after_a_while(step), scene)
    assert scene.notes is not None
    assert [note.verdict for note in scene.notes.evidence()] == [VERIFIED]


def test_a_ban_without_evidence_is_counted_and_asked_about_more_and_more_rarely() -> None:
    async def scenario(scene: Scene) -> None:
        for _ in range(600):
            scene.box.note_bans(BANNED, [peer(ACCUSER)])
            await asyncio.sleep(1)

    scene = play(scenario)
    assert 3 <= scene.refused["unproved_ban"] <= 8
    assert scene.accused() == []


def test_evidence_that_nobody_sends_holds_up_no_other(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.world.silent = {peer(5)}
        scene.box.note_bans(BANNED, [peer(5)])
        scene.says(sealed_by(ACCUSER, equivocation(4), accused=4))
        await asyncio.sleep(1)

    assert play(scenario).accused() == [peer(4)]


# --- what is kept


class FullLedger:
    """Has no room."""

    def evidence(self) -> list[EvidenceNote]:
        raise DiskFullError("full")

    def note_evidence(self, note: EvidenceNote) -> bool:
        raise DiskFullError("full")


def test_a_full_disk_ends_nothing_and_the_evidence_counts_until_the_end() -> None:
    scene = Scene(cast("RunLedger", FullLedger()))
    scene.box.load()
    play(after_a_while(lambda scene: scene.says(TRUE)), scene)
    assert scene.accused() == [peer(LIAR)]


def test_after_a_restart_the_same_is_accused_and_damaged_evidence_left_out(tmp_path: Path) -> None:
    notes = RunLedger(tmp_path / "ledger", Disk())
    play(after_a_while(lambda scene: scene.says(TRUE)), Scene(notes))
    notes.note_evidence(EvidenceNote(b"r" * 32, peer(4), "FalseWork", 0, None, b"", MADE, 0.0))
    later = Scene(notes)
    later.box.load()
    assert later.accused() == [peer(LIAR)]
    assert later.shelf.leaves(naming(TRUE).evidence) is not None
    assert later.shelf.leaves(b"r" * 32) is None


def test_what_is_served_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(sealed_by(ME, equivocation(10), accused=10).envelope)
    monkeypatch.setattr(box_module, "MAX_SERVED_BYTES", 5 * size)

    async def scenario(scene: Scene) -> None:
        for number in range(10, 30):
            await scene.box.accuse(peer(number), equivocation(number))

    scene = play(scenario)
    assert (
        sum(scene.shelf.leaves(each.evidence) is not None for each in scene.said.accusations) <= 5
    )


def test_what_is_accused_is_a_function_of_the_evidence() -> None:
    scene = play(after_a_while(lambda scene: scene.says(TRUE)))
    lie = lie_of(RUN, open_evidence(TRUE.envelope, RUN).message.proof)
    assert lie is not None
    told = Accusation(peer(LIAR), naming(TRUE).evidence, *lie)
    assert scene.said.accusations == [told]
