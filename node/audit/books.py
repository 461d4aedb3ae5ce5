"""What is done once a round is agreed: its inputs kept, its audits drawn, its history written."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from node.audit.auditor import Auditor
from node.audit.round_credit import credit_of_round
from node.exchange.outcome import MemberReport, Outcome
from node.exchange.setting import Update
from node.run.setting import RunSetting
from node.store.ledger import RoundNote
from node.store.state import State
from protocol.errors import TalkootError
from protocol.identity import PeerId
from protocol.rollcall import Roll

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """A round that we took part in and that was agreed as we had it."""

    before: State
    after: State
    roll: Roll
    update: Update
    outcome: Outcome
    loss: float | None
    seconds: float


class Books:
    """Keeps the books of one run; each round is dealt with after the one before.

    Args:
        setting: the run.
        auditor: is told of every round.
    """

    def __init__(self, setting: RunSetting, auditor: Auditor) -> None:
        self._set = setting
        self._auditor = auditor
        self._closed: asyncio.Queue[ClosedRound] = asyncio.Queue()

    def add(self, closed: ClosedRound) -> None:
        """Deal with this round when the ones before are done."""
        self._closed.put_nowait(closed)

    async def up_to_date(self) -> None:
        """Wait until all rounds are dealt with."""
        await self._closed.join()

    async def keep(self) -> None:
        """Keep the books for ever."""
        while True:
            closed = await self._closed.get()
            try:
                await self._deal_with(closed)
            finally:
                self._closed.task_done()

    async def _deal_with(self, closed: ClosedRound) -> None:
        """Do all that is to be done of a round; where one thing fails the others go on."""
        auditor = self._auditor
        with telling("what it was made of"):
            await auditor.note_round(closed.before, closed.roll, closed.update, closed.outcome)
        with telling("its audits"):
            auditor.draw(closed.after)
        with telling("its history"):
            await write_history(
                self._set,
                RoundFacts(
                    closed.before,
                    closed.after,
                    closed.roll,
                    closed.outcome.reports,
                    closed.loss,
                    closed.seconds,
                ),
            )
        auditor.evidence.note_bans(closed.after.ledger, closed.roll.peers)


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What the history tells of a round."""

    before: State
    after: State
    roll: Roll
    reports: Mapping[PeerId, MemberReport]
    loss: float | None
    seconds: float


async def write_history(setting: RunSetting, facts: RoundFacts) -> None:
    """Write a round into the run's history, if there is one.

    Raises:
        DiskFullError, WriteError: it can't be kept.
    """
    if setting.ledger is None:
        return
    note = RoundNote(
        round=facts.roll.round,
        root=facts.after.root,
        loss=facts.loss,
        seconds=facts.seconds,
        members=len(facts.roll.members),
        at=setting.swarm.time(),
    )
    spec, stewards = setting.manifest.trust, setting.stewards
    credits_ = credit_of_round(facts.roll, facts.reports, facts.before.ledger, spec, stewards)
    await asyncio.to_thread(setting.ledger.note_round, note, credits_)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Let what comes next go on where this fails, and say what is lost."""
    try:
        yield
    except TalkootError as error:
        log.error("of this round %s is lost: %s", what, error)  # noqa: TRY400
