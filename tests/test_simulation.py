"""Simulated runs: the first seeds, that a seed is one run, and that each promise can be broken."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.run.local import LocalWorker
from node.store.state import State
from node.store.storage import WriteError
from protocol.ledger import Ledger
from protocol.rollcall import call_roll
from tests.messages import among_friends
from tests.simulation.economy import economy
from tests.simulation.plan import Fault, PeerPlan, Plan, RoundPlan, draw_plan
from tests.simulation.play import Scene, play, simulate
from tests.simulation.promises import PROMISES

SOAK = Path(__file__).parents[1] / "scripts" / "soak"
FIRST, SEEDS = 2000, 8
"""As many as fit into a minute of one core, others of which are busy."""
REAL_SIGNATURES = 1


def small(**changes: object) -> Plan:
    """Return a run of eight honest peers without a fault."""
    peers = tuple(PeerPlan(number, 0.0, 0.3, 0.0, None, False, "") for number in range(8))
    quiet = draw_plan(0).conditions
    plan = Plan(
        seed=0,
        method="local",
        peers=peers,
        stewards=1,
        rounds=RoundPlan(6, None, 15.0, 1, 1.0),
        trust=among_friends("clip"),
        conditions=replace(quiet, loss=0.0, duplicate=0.0),
        calm_at=8.0,
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def broken(plan: Plan, prepare: Callable[[Scene], None] = lambda _: None) -> set[str]:
    """Return the promises that a run breaks."""
    with economy():
        outcome = play(plan, prepare=prepare)
    names = {promise for promise, _ in outcome.broken}
    assert names <= PROMISES.keys()
    return names


def soak(*options: str) -> dict[str, Any]:
    """Return what the command prints last: in a process of its own, where sets have one order."""
    environment = {**os.environ, "PYTHONPATH": str(SOAK.parents[1])}
    command = [sys.executable, str(SOAK), "simulate", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(600)  # a minute, but on a busy machine
def test_drawn_runs_keep_all_promises() -> None:
    figures = soak("--first", str(FIRST), "--seeds", str(SEEDS))
    assert (figures["seeds"], figures["broken"]) == (SEEDS, {})


@pytest.mark.timeout(120)
def test_a_run_in_which_every_peer_checks_every_signature_is_the_same_run() -> None:
    with economy(remember=False):
        plain = simulate(REAL_SIGNATURES)
    with economy():
        assert simulate(REAL_SIGNATURES).digest == plain.digest
    assert plain.broken == ()


@pytest.mark.timeout(120)
def test_a_seed_gives_one_run_and_another_seed_another() -> None:
    def log(seed: int) -> list[str]:
        return list(soak("--seed", str(seed))["digests"])

    assert log(1) == log(1) != log(2)


def test_plans_differ_in_method_peers_liars_and_faults() -> None:
    plans = [draw_plan(seed) for seed in range(300)]
    assert {plan.method for plan in plans} == {"local", "spsa"}
    assert {len(plan.peers) for plan in plans} >= set(range(8, 33))
    assert {fault.kind for plan in plans for fault in plan.faults} == {
        *("kill", "stall", "lid", "cut", "leave", "full", "line", "donor", "trainer")
    }
    assert all(2 * len(plan.liars) < len(plan.peers) for plan in plans)
    assert max(fault.seconds for plan in plans for fault in plan.faults if fault.groups) <= 150


# --- each promise can be broken


def test_a_quiet_run_breaks_nothing() -> None:
    assert broken(small()) == set()


class SplitState(LocalWorker):
    """Comes to a state of its own, and believes that all others came to it too."""

    def _adopt(self) -> None:
        if self._candidate is not None and self.state is not None:
            other = self._candidate.params + np.float32(1)
            self._candidate = self.state.next(
                other, self._candidate.momentum, self._candidate.ledger
            )
        super()._adopt()


def instead(kind: type[LocalWorker], which: int = 3) -> Callable[[Scene], None]:
    """Return what puts another kind of worker in the place of an honest one."""

    def prepare(scene: Scene) -> None:
        start = scene.peers.start

        async def start_broken(number: int) -> None:
            scene.peers.kinds[""] = kind if number == which else LocalWorker
            await start(number)

        scene.peers.start = start_broken  # type: ignore[method-assign]

    return prepare


def test_two_roots_of_one_roll_call_are_noticed() -> None:
    found = broken(small(), instead(SplitState))
    assert {"one_root_a_round", "nothing_unagreed"} <= found


class NotANumber(LocalWorker):
    """Comes to a state without numbers."""

    def _adopt(self) -> None:
        if self._candidate is not None and self.state is not None:
            nothing = np.full_like(self._candidate.params, np.nan)
            self._candidate = self.state.next(
                nothing, self._candidate.momentum, self._candidate.ledger
            )
        super()._adopt()


def test_states_that_are_no_numbers_are_noticed() -> None:
    assert "states_are_numbers" in broken(small(), instead(NotANumber))


class Ledgers(LocalWorker):
    """Comes to a ledger of its own making."""

    def _made_up(self, ledger: Ledger) -> Ledger:
        raise NotImplementedError

    def _adopt(self) -> None:
        found = self._candidate
        if found is not None and self.state is not None:
            ledger = self._made_up(found.ledger)
            self._candidate = self.state.next(found.params, found.momentum, ledger)
        super()._adopt()


class Generous(Ledgers):
    """Gives everybody more credit than work."""

    def _made_up(self, ledger: Ledger) -> Ledger:
        from msgspec.structs import replace as changed

        return Ledger(tuple(changed(each, samples=1 << 30) for each in ledger.standings))


class Banning(Ledgers):
    """Bans everybody."""

    def _made_up(self, ledger: Ledger) -> Ledger:
        from msgspec.structs import replace as changed

        return Ledger(tuple(changed(each, banned=bytes(32)) for each in ledger.standings))


def test_credit_without_work_is_noticed() -> None:
    assert "credit_is_committed" in broken(small(), instead(Generous))


def test_a_ban_of_an_honest_peer_is_noticed() -> None:
    assert "no_honest_peer_banned" in broken(small(), instead(Banning))


class SignsTwice(LocalWorker):
    """Signs two roll calls for each attempt."""

    async def _exchange(self, roll: object) -> None:
        members = list(self.machine.commitments.values())
        for at in (1.0, 2.0):
            first = members[0].message
            self._channel.sign(call_roll(first.round, first.prev_root, at, members))
        await super()._exchange(roll)  # type: ignore[arg-type]


def test_two_signed_roll_calls_are_noticed() -> None:
    assert "no_honest_peer_convicts_itself" in broken(small(), instead(SignsTwice))


class Stuck(LocalWorker):
    """Never ends its training."""

    async def _train(self, round_: int) -> None:
        return


def test_a_peer_that_finishes_no_round_is_noticed() -> None:
    assert "progress_resumes" in broken(small(), instead(Stuck))


class Dying(LocalWorker):
    """Ends in its third round."""

    def _hold(self, state: State) -> None:
        if state.round > 2:
            raise WriteError("the disk is broken")
        super()._hold(state)


def test_a_worker_that_ends_is_noticed() -> None:
    assert "nobody_stops" in broken(small(), instead(Dying))


class Crashing(LocalWorker):
    """Has a bug."""

    def _hold(self, state: State) -> None:
        raise ZeroDivisionError


def test_a_bug_is_noticed() -> None:
    assert "no_crash" in broken(small(), instead(Crashing))


def test_a_restart_that_forgets_is_noticed() -> None:
    killed = small(faults=(Fault(8.0, 2.0, "kill", (3,)),), calm_at=12.0)
    assert broken(killed) == set()

    def forget(scene: Scene) -> None:
        kill = scene.peers.kill

        async def wipe(number: int) -> None:
            await kill(number)
            for path in scene.peers.folder(number).glob("state-*"):
                path.unlink()

        scene.peers.kill = wipe  # type: ignore[method-assign]

    assert "nothing_acknowledged_is_lost" in broken(killed, forget)


def test_what_is_left_open_is_noticed() -> None:
    opened: list[int] = []

    def leave_open(scene: Scene) -> None:
        opened.append(os.open("/dev/null", os.O_RDONLY))

    assert broken(small(), leave_open) == {"nothing_left_behind"}
    os.close(opened[0])


def test_going_back_in_calm_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def go_back(scene: Scene) -> None:
        check = scene._check_calm

        def later(since: float) -> None:
            scene.record.held.append(scene.record.held[0])
            check(0.0)

        monkeypatch.setattr(scene, "_check_calm", later)

    assert "rounds_never_go_back" in broken(small(), go_back)


def test_every_promise_has_a_test_that_breaks_it() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{name}"' in source for name in PROMISES)
