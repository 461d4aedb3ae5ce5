"""Audits of receipts and of work that are odd: a verdict every time, in bounded time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from msgspec.structs import replace

from dht.virtual_time import run
from node.audit.inspection import AGGREGATE_SECONDS, AggregateCase, Inspector
from node.exchange.setting import Update
from node.exchange.wire import Floats, pack_update
from node.run.setting import RunSetting
from node.store.state import State
from node.training.trainer import TrainResult
from node.training.training import Training
from node.transfer.tree_server import TreeShelf
from protocol.layout import Layout, TensorSpec
from protocol.ledger import NO_LEDGER
from protocol.manifest import Rule
from protocol.merkle import leaf_hash
from protocol.rollcall import Commitment
from protocol.signing import Signed, seal
from protocol.transfers import Receipt
from tests.messages import RUN, among_friends, committed, identity, manifest, peer, roll
from trust.audit import AuditVerdict
from trust.rules import RULES

LAYOUT = Layout((TensorSpec(name="a", shape=(64,)),))
STATE = State.genesis(RUN, LAYOUT, np.zeros(64, np.float32))
VALUES = [np.full(64, value, np.float32) for value in (1.0, 2.0, 3.0)]
UPDATES = [Update.pack(values, LAYOUT) for values in VALUES]
MEMBERS = sorted(
    (committed(number, update_root=each.root) for number, each in enumerate(UPDATES)),
    key=lambda signed: signed.signer,
)
ROLL = roll(0, MEMBERS)


@dataclass
class FakeTraining:
    """Gets this update from whatever it repeats."""

    update: Floats
    most_steps: int = 50

    @property
    def settings(self) -> SimpleNamespace:
        return SimpleNamespace(worker_momentum=0.0)

    async def repeat(self, state: State, signed: Signed[Commitment]) -> TrainResult:
        claimed = signed.message
        return TrainResult(self.update, claimed.steps, claimed.samples, 1.0, 1.0)


class Stalling(Inspector):
    """Waits for peers that never send."""

    async def fetch(
        self, root: bytes, peers: Sequence[object], max_leaves: int, chunk: int | None = None
    ) -> tuple[Sequence[bytes], dict[int, bytes]]:
        await asyncio.Event().wait()
        raise NotImplementedError


class Recording(Inspector):
    """Notes how large a tree it would take."""

    most = 0

    async def fetch(
        self, root: bytes, peers: Sequence[object], max_leaves: int, chunk: int | None = None
    ) -> tuple[Sequence[bytes], dict[int, bytes]]:
        self.most = max(self.most, max_leaves)
        return await super().fetch(root, [], max_leaves, chunk)


def inspector(
    kind: type[Inspector] = Inspector, rule: Rule = "clip", update: Floats = VALUES[0]
) -> Inspector:
    shelf = TreeShelf()
    for each in UPDATES:
        shelf.put(each)
    run_manifest = manifest(trust=among_friends(rule))
    setting = SimpleNamespace(
        run=RUN,
        identity=identity(9),
        manifest=run_manifest,
        stewards=frozenset({peer(0)}),
        swarm=None,
    )
    training = cast("Training", FakeTraining(update))
    return kind(cast("RunSetting", setting), training, shelf)


def a_receipt(**changes: object) -> AggregateCase:
    data = pack_update(VALUES[1])
    honest = Receipt(
        round=ROLL.round,
        roll=ROLL.digest,
        chunk=0,
        leaf=leaf_hash(data),
        shares=(0.3, 0.4, 0.3),
        distances=(8.0, 0.0, 8.0),
        norms=(8.0, 16.0, 24.0),
        norm=16.0,
    )
    receipt = seal(identity(0), RUN, replace(honest, **changes))
    return AggregateCase(ROLL, NO_LEDGER, receipt, data)


ODD = [
    {},
    {"shares": (None, None, None), "distances": (None, None, None), "norms": (None, None, None)},
    {"shares": (0.0, 0.0, 0.0)},
    {"shares": (1.0, None, None)},
    {"distances": (None, None, None)},
    {"norms": (1e308, 1e308, 1e308), "distances": (1e308, 1e308, 1e308)},
    {"norm": 1e308},
    {"shares": (), "distances": (), "norms": ()},
    {"shares": (0.1,) * 200, "distances": (0.0,) * 200, "norms": (1.0,) * 200},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("changes", ODD)
def test_whatever_a_receipt_claims_there_is_a_verdict(
    rule: Rule, changes: dict[str, object]
) -> None:
    found = run(inspector(rule=rule).inspect_aggregate(LAYOUT, a_receipt(**changes)))
    assert found in AuditVerdict


@pytest.mark.parametrize("changes", ODD[-2:])
def test_a_receipt_for_another_number_of_members_is_a_lie(changes: dict[str, object]) -> None:
    found = run(inspector().inspect_aggregate(LAYOUT, a_receipt(**changes)))
    assert found is AuditVerdict.HOLDS


@pytest.mark.parametrize(
    "changes",
    [{"round": 99}, {"roll": b"o" * 32}, {"chunk": 1}, {"leaf": b"l" * 32}],
    ids=["another round", "another roll call", "no such chunk", "other bytes"],
)
def test_a_receipt_for_something_else_proves_nothing(changes: dict[str, object]) -> None:
    found = run(inspector().inspect_aggregate(LAYOUT, a_receipt(**changes)))
    assert found is AuditVerdict.FALSE


def test_inputs_that_never_come_end_an_audit_in_time_and_accuse_nobody() -> None:
    async def scenario() -> tuple[AuditVerdict, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await inspector(Stalling).inspect_aggregate(LAYOUT, a_receipt())
        return found, loop.time() - began

    verdict, seconds = run(scenario())
    assert verdict is AuditVerdict.UNKNOWN
    assert seconds == pytest.approx(AGGREGATE_SECONDS)


def work(number: int = 0) -> Signed[Commitment]:
    return committed(number, update_root=UPDATES[number].root)


def test_an_update_that_never_comes_keeps_the_trainer_idle_for_a_part_of_a_round_only() -> None:
    async def scenario() -> tuple[AuditVerdict, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await inspector(Stalling).inspect_work(STATE, work())
        return found, loop.time() - began

    verdict, seconds = run(scenario())
    assert verdict is AuditVerdict.UNKNOWN
    assert seconds <= manifest().round.max_seconds / 2


def test_no_larger_tree_is_fetched_than_an_update_has() -> None:
    for recording in (inspector(Recording), inspector(Recording)):
        run(recording.inspect_work(STATE, work()))
        run(recording.inspect_aggregate(LAYOUT, a_receipt()))
        assert cast("Recording", recording).most == len(LAYOUT.chunks)


@pytest.mark.parametrize(
    ("update", "verdict"),
    [
        (VALUES[0], AuditVerdict.FALSE),
        (VALUES[1], AuditVerdict.HOLDS),
        (np.full(64, np.nan, np.float32), AuditVerdict.UNKNOWN),
        (np.full(64, 1e30, np.float32), AuditVerdict.UNKNOWN),
    ],
)
def test_work_is_judged_by_what_is_repeated_where_that_is_a_number(
    update: Floats, verdict: AuditVerdict
) -> None:
    assert run(inspector(update=update).inspect_work(STATE, work())) is verdict
