"""The books of the rounds, and the audits that take the trainer: nothing holds training up."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from dht.virtual_time import run
from node.audit.accuser import Jury
from node.audit.auditor import Auditor
from node.audit.books import Books, ClosedRound
from node.store.state import State
from node.store.storage import Disk, DiskFullError
from node.training.permit import Permit
from node.training.trainer import TrainerError
from protocol.errors import CodecError, TalkootError
from protocol.layout import Layout, TensorSpec
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from tests.messages import RUN, among_friends, committed, identity, manifest, peer, roll

LAYOUT = Layout((TensorSpec(name="a", shape=(4,)),))
STATE = State.genesis(RUN, LAYOUT, np.zeros(4, np.float32))


class FakeAuditor:
    """Notes what is done of a round; one of it fails."""

    def __init__(self, failing: str, error: TalkootError) -> None:
        self.done: list[str] = []
        self._failing = failing
        self._error = error

    def _do(self, what: str) -> None:
        if what == self._failing:
            raise self._error
        self.done.append(what)

    async def note_round(self, *_: object) -> None:
        self._do("note")

    def draw(self, state: State) -> None:
        self._do("draw")

    @property
    def evidence(self) -> SimpleNamespace:
        return SimpleNamespace(note_bans=lambda *_: self._do("bans"))


class FullLedger:
    def note_round(self, *_: object) -> None:
        raise DiskFullError("full")


@pytest.mark.parametrize("failing", ["note", "draw", "nothing"])
@pytest.mark.parametrize("error", [DiskFullError("full"), CodecError("odd")])
def test_where_one_thing_fails_the_rest_of_the_books_is_kept(
    failing: str, error: TalkootError
) -> None:
    auditor = FakeAuditor(failing, error)
    setting = SimpleNamespace(
        ledger=FullLedger(),
        swarm=SimpleNamespace(time=lambda: 0.0),
        manifest=manifest(),
        stewards=frozenset({peer(1)}),
    )
    outcome = cast("Any", SimpleNamespace(reports={}))
    members = roll(1, [committed(1)])
    closed = ClosedRound(STATE, STATE, members, cast("Any", None), outcome, None, 1.0)

    async def scenario() -> None:
        books = Books(cast("Any", setting), cast("Any", auditor))
        books.add(closed)
        books.add(closed)
        keeping = asyncio.create_task(books.keep())
        async with asyncio.timeout(5):
            await books.up_to_date()
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait([keeping])

    run(scenario())
    assert auditor.done == [each for each in ("note", "draw", "bans") if each != failing] * 2


# --- the trainer


class Work:
    """Accusations that take the trainer: each takes a minute, and fails as told."""

    def __init__(self, cases: int, error: Exception | None = None) -> None:
        self.work_came = asyncio.Event()
        self.cases = cases
        self.judged = 0
        self._error = error

    @property
    def has_work(self) -> bool:
        return self.cases > 0

    async def judge_work(self) -> None:
        await asyncio.sleep(60)
        self.cases -= 1
        self.judged += 1
        if self._error:
            raise self._error


def auditor_with(folder: Path, work: Work) -> Auditor:
    setting = SimpleNamespace(
        folder=SimpleNamespace(path=folder, disk=Disk()),
        manifest=manifest(),
        identity=identity(1),
        run=RUN,
        ledger=None,
        stewards=frozenset({peer(1)}),
        permit=Permit(),
    )
    any_ = cast("Any", None)
    auditor = Auditor(cast("Any", setting), any_, any_, any_, any_)
    auditor.evidence = cast("Any", work)
    return auditor


@pytest.mark.parametrize("error", [None, TrainerError("trainer_died", "killed"), TimeoutError()])
def test_accusations_that_fail_keep_neither_the_others_nor_training_waiting(
    tmp_path: Path, error: Exception | None
) -> None:
    async def scenario() -> None:
        work = Work(3, error)
        auditor = auditor_with(tmp_path, work)
        repeating = asyncio.create_task(auditor.repeat_work())
        work.work_came.set()
        await asyncio.sleep(1)
        async with asyncio.timeout(1):
            await auditor.wait_for_trainer()
        await asyncio.sleep(200)
        assert (work.judged, repeating.done()) == (3, False)
        repeating.cancel()
        await asyncio.wait([repeating])

    run(scenario())


def test_accusations_that_keep_coming_do_not_keep_training_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        work = Work(10**6)
        auditor = auditor_with(tmp_path, work)
        repeating = asyncio.create_task(auditor.repeat_work())
        work.work_came.set()
        for _ in range(5):
            await asyncio.sleep(100)
            async with asyncio.timeout(1):
                await auditor.wait_for_trainer()
        repeating.cancel()
        await asyncio.wait([repeating])

    run(scenario())


# --- who is heard

STRICT = TrustSpec("clip", probation_rounds=10, probation_passes=1)


def jury(ledger: Ledger, spec: TrustSpec = STRICT) -> Jury:
    after = STATE.next(STATE.params, STATE.momentum, ledger)
    return Jury.of(after, spec, frozenset({peer(1)}))


def standings(**changes: dict[str, Any]) -> Ledger:
    found = [
        Standing(peer=peer(int(number[1:])), **({"joined": 0, "seen": 9} | each))
        for number, each in changes.items()
    ]
    return Ledger(tuple(sorted(found, key=lambda each: each.peer)))


PAST = {"rounds": 20, "passes": 2, "score": 0.9}


def test_strangers_and_who_is_on_probation_are_not_heard() -> None:
    found = jury(standings(p1={}, p2=PAST, p3={"rounds": 3}))
    assert [found.hears(peer(number)) for number in range(1, 5)] == [True, True, False, False]


def test_the_banned_are_not_heard() -> None:
    found = jury(standings(p1={"banned": b"e" * 32}, p2=PAST, p3=PAST | {"banned": b"e" * 32}))
    assert [found.hears(peer(number)) for number in range(1, 4)] == [False, True, False]


def test_where_nobody_established_is_left_all_of_the_last_round_are_heard() -> None:
    found = jury(standings(p1={"seen": 3}, p2={}, p3={}, p4={"seen": 3}))
    assert [found.hears(peer(number)) for number in range(2, 6)] == [True, True, False, False]


def test_among_friends_everybody_is_heard_but_the_banned() -> None:
    found = jury(standings(p1={}, p3={"banned": b"e" * 32}), among_friends())
    assert [found.hears(peer(number)) for number in range(1, 5)] == [True, True, False, True]
