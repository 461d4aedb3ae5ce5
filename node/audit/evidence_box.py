"""Evidence at this peer: what it made itself, and what it heard and has verified.

    Accusation ──fetch──> Evidence ──check──> HOLDS    kept, and from now on our accusation too
                                         ├──> FALSE    who signed it is accused
                                         └──> UNKNOWN  looked at again, a few times, when heard

Nothing counts because somebody says so. What is kept is served to others by its root.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from node.audit.docket import FALSE, UNDECIDED, Case, Docket
from node.audit.evidence_check import EvidenceChecker, open_evidence
from node.audit.inspection import Inspector
from node.run.channel import RunChannel
from node.run.setting import RunSetting
from node.store.ledger import EvidenceNote
from node.store.state import State
from node.store.storage import StateError
from node.transfer.tree_server import HeldTree, TreeShelf
from protocol.errors import ProtocolError, RecordError, TalkootError
from protocol.evidence import (
    EVIDENCE_CHUNK_BYTES,
    MAX_EVIDENCE_BYTES,
    Evidence,
    FalseAccusation,
    Proof,
)
from protocol.identity import PeerId
from protocol.ledger import Ledger
from protocol.rollcall import Accusation
from protocol.signing import Signed, seal
from trust.admission import established
from trust.audit import AuditVerdict
from trust.evidence import evidence_chunks, lie_of

log = logging.getLogger(__name__)

MAX_ACCUSATIONS = 8
"""In one commitment."""
MAX_WORK = 4
"""Accusations that wait for the trainer: each takes as long as a round."""
VERIFIERS = 4
"""Cases in hand at once; each may wait for slow peers."""
CASE_SECONDS = 180.0
"""For a case that doesn't take the trainer."""
FETCH_SECONDS = 30.0
"""For evidence to come."""
MAX_SERVED_BYTES = 64 << 20
"""Of evidence that is held to be fetched; the oldest makes room."""
MAX_REMEMBERED = 4096
FIRST_WAIT, LONGEST_WAIT = 10.0, 3600.0
"""Seconds until evidence behind a ban is asked for again, when nobody had it."""
MAX_LEAVES = -(-MAX_EVIDENCE_BYTES // EVIDENCE_CHUNK_BYTES)
MADE, VERIFIED, AGREED = "made here", "verified here", "agreed before it could be verified here"


class UnprovedBanError(ProtocolError):
    """A ban in the agreed ledger whose evidence can't be had yet."""

    code = "unproved_ban"


@dataclass(slots=True)
class _Wanted:
    """Evidence behind a ban that is not here."""

    accused: PeerId
    again_at: float = 0.0
    wait: float = FIRST_WAIT


class EvidenceBox:
    """All evidence of one run at one peer.

    Args:
        setting: the run.
        channel: where accusations are said.
        shelf: where others find evidence.
        inspector: fetches.
        checker: verifies.
    """

    def __init__(
        self,
        setting: RunSetting,
        channel: RunChannel,
        shelf: TreeShelf,
        inspector: Inspector,
        checker: EvidenceChecker,
    ) -> None:
        self._set = setting
        self._channel = channel
        self._shelf = shelf
        self._inspector = inspector
        self._checker = checker
        self._verified: OrderedDict[PeerId, Accusation] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._served: OrderedDict[bytes, int] = OrderedDict()
        self._docket = Docket()
        self._work: dict[Case, Signed[Evidence]] = {}
        self.work_came = asyncio.Event()
        """Set when there is an accusation that takes the trainer; the caller clears it."""
        self._wanted: dict[bytes, _Wanted] = {}
        self._helpers: Sequence[PeerId] = ()
        self._bans_came = asyncio.Event()

    def load(self) -> None:
        """Take up what an earlier life kept. Blocks on the disk."""
        try:
            notes = self._set.ledger.evidence() if self._set.ledger else []
        except StateError as error:
            log.error("evidence of before can't be read: %s", error)  # noqa: TRY400
            return
        for note in notes:
            try:
                self._take_up(open_evidence(note.sealed, self._set.run), note.verdict)
            except ProtocolError as error:
                log.warning("evidence of before is damaged: %s", error)

    def accusations(self, state: State) -> tuple[Accusation, ...]:
        """Return what we hold against peers that are not banned yet, for our commitment.

        Those whose word counts come first: no crowd of others can hide one of them.
        """
        spec, stewards = self._set.manifest.trust, self._set.stewards
        counted, banned = established(state.ledger, spec, stewards), state.ledger.banned
        found = [each for peer, each in self._verified.items() if peer not in banned]
        return tuple(sorted(found, key=lambda each: each.accused not in counted)[:MAX_ACCUSATIONS])

    async def accuse(self, accused: PeerId, proof: Proof) -> None:
        """Seal evidence, keep it, and say so; once against each peer."""
        if accused in self._verified or accused == self._set.identity.peer_id:
            return
        signed = seal(self._set.identity, self._set.run, Evidence(accused, proof))
        log.warning("%s is accused: %s", accused, type(proof).__name__)
        try:
            await self._keep(signed, MADE)
        except RecordError as error:
            log.info("it can't be accused: %s", error)

    # what is heard

    def hear(self, accuser: PeerId, accusations: Sequence[Accusation], ledger: Ledger) -> None:
        """Look at these when there is time; what is known is left out, too much is refused.

        Only who has a standing can be accused: names cost nothing.
        """
        known = ledger.by_peer()
        for accusation in accusations:
            accused = PeerId(accusation.accused)
            if accused == accuser or accused not in known:
                error = RecordError("it accuses itself, or somebody that nobody knows")
                self._refuse(accuser, error)
            elif known[accused].banned is None and not self._is_settled(accusation, accuser):
                self._put_on_docket(Case(accusation, accuser))

    def _put_on_docket(self, case: Case) -> None:
        if any(each.accusation == case.accusation for each in self._work):
            return
        try:
            self._docket.add(case, _now())
        except RecordError as error:
            self._refuse(case.accuser, error)

    def _is_settled(self, accusation: Accusation, accuser: PeerId) -> bool:
        accused, me = PeerId(accusation.accused), self._set.identity.peer_id
        decided = accused in self._verified or accusation.evidence in self._known
        return decided or accused == me or accuser in self._verified

    async def verify_heard(self) -> None:
        """Verify what is heard, and fetch what was agreed on without us, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(VERIFIERS):
                tasks.create_task(self._verify(), name=f"verify evidence {number}")
            tasks.create_task(self._complete(), name="fetch evidence")

    async def _verify(self) -> None:
        while True:
            case = await self._docket.take()
            try:
                if not self._is_settled(case.accusation, case.accuser):
                    async with asyncio.timeout(CASE_SECONDS):
                        await self._look_at(case)
            except ProtocolError as error:
                self._refuse(case.accuser, error)
                self._docket.fail(case, _now())
                self._docket.blame(case.accuser, FALSE, _now())
            except (TalkootError, TimeoutError) as error:
                log.info("evidence against %s can't be had: %s", case.accusation.accused, error)
                self._docket.fail(case, _now())
            finally:
                self._docket.done(case)

    async def _look_at(self, case: Case) -> None:
        root, accused = case.accusation.evidence, PeerId(case.accusation.accused)
        signed = await self._fetch(root, accused, [case.accuser])
        if not self._checker.takes_trainer(signed):
            verdict = await self._checker.check(signed, [case.accuser])
            await self._judge(signed, case, verdict)
        elif not self._checker.was_drawn(signed):
            await self._judge(signed, case, AuditVerdict.UNKNOWN)
        elif len(self._work) < MAX_WORK and not any(
            each.accuser == case.accuser or each.accusation == case.accusation
            for each in self._work
        ):
            self._work[case] = signed
            self.work_came.set()
        else:
            self._docket.leave_open(root, _now())

    async def _fetch(
        self, root: bytes, accused: PeerId, peers: Sequence[PeerId]
    ) -> Signed[Evidence]:
        async with asyncio.timeout(FETCH_SECONDS):
            leaves, parts = await self._inspector.fetch(root, peers, MAX_LEAVES)
        sealed = b"".join(parts[index] for index in range(len(leaves)))
        signed = open_evidence(sealed, self._set.run)
        if signed.message.accused != accused:
            raise RecordError("the evidence is against somebody else")
        if HeldTree.of(evidence_chunks(sealed)).root != root:
            raise RecordError("the evidence is cut into other pieces than it should be")
        return signed

    async def _judge(self, signed: Signed[Evidence], case: Case, verdict: AuditVerdict) -> None:
        match verdict:
            case AuditVerdict.HOLDS:
                await self._keep(signed, VERIFIED)
            case AuditVerdict.FALSE:
                self._refuse(case.accuser, RecordError("its evidence doesn't hold"))
                self._docket.blame(case.accuser, FALSE, _now())
                _remember(self._known, case.accusation.evidence)
                if not isinstance(signed.message.proof, FalseAccusation):
                    await self.accuse(signed.signer, FalseAccusation(signed.envelope))
            case AuditVerdict.UNKNOWN:
                log.info("evidence against %s can't be verified here", case.accusation.accused)
                self._docket.leave_open(case.accusation.evidence, _now())
                self._docket.blame(case.accuser, UNDECIDED, _now())

    @property
    def has_work(self) -> bool:
        """Whether there are accusations that take the trainer."""
        return bool(self._work)

    async def judge_work(self) -> None:
        """Verify one of the accusations that take the trainer; for its owner to call.

        Raises:
            TrainerError: it fails; the accusation is looked at again when it is heard again.
        """
        case, signed = next(iter(self._work.items()))
        try:
            if not self._is_settled(case.accusation, case.accuser):
                await self._judge(signed, case, await self._checker.check(signed, [case.accuser]))
        except (TalkootError, TimeoutError):
            self._docket.leave_open(case.accusation.evidence, _now())
            raise
        finally:
            del self._work[case]

    # what was agreed on without us

    def note_bans(self, ledger: Ledger, peers: Sequence[PeerId]) -> None:
        """Fetch, when there is time, the evidence behind bans that we could not verify before."""
        banned = {each.banned: PeerId(each.peer) for each in ledger.standings if each.banned}
        self._wanted = {
            root: self._wanted.get(root, _Wanted(accused))
            for root, accused in banned.items()
            if root not in self._known
        }
        self._helpers = peers
        self._bans_came.set()

    async def _complete(self) -> None:
        while True:
            await self._bans_came.wait()
            self._bans_came.clear()
            for root, wanted in list(self._wanted.items()):
                if _now() >= wanted.again_at:
                    await self._complete_one(root, wanted)

    async def _complete_one(self, root: bytes, wanted: _Wanted) -> None:
        try:
            async with asyncio.timeout(CASE_SECONDS):
                signed = await self._fetch(root, wanted.accused, self._helpers)
                await self._keep(signed, await self._verdict_on_ban(signed))
        except (TalkootError, TimeoutError) as error:
            wanted.again_at = _now() + wanted.wait
            wanted.wait = min(2 * wanted.wait, LONGEST_WAIT)
            log.warning("the ban of %s is not proved here: %s", wanted.accused, error)
            self._set.swarm.report(None, UnprovedBanError(str(error)))
        else:
            self._wanted.pop(root, None)

    async def _verdict_on_ban(self, signed: Signed[Evidence]) -> str:
        if self._checker.takes_trainer(signed):
            return AGREED
        found = await self._checker.check(signed, self._helpers)
        if found is AuditVerdict.FALSE:
            log.warning("%s is banned by evidence that doesn't hold", signed.message.accused)
        return VERIFIED if found is AuditVerdict.HOLDS else AGREED

    # what is kept

    async def _keep(self, signed: Signed[Evidence], verdict: str) -> None:
        accusation = self._take_up(signed, verdict)
        if verdict != AGREED:
            self._channel.say(self._channel.sign(accusation))
        if self._set.ledger is None:
            return
        note = EvidenceNote(
            root=accusation.evidence,
            accused=accusation.accused,
            kind=type(signed.message.proof).__name__,
            round=accusation.round,
            chunk=accusation.chunk,
            sealed=signed.envelope,
            verdict=verdict,
            heard_at=self._set.swarm.time(),
        )
        try:
            await asyncio.to_thread(self._set.ledger.note_evidence, note)
        except StateError as error:
            log.error("evidence is only held until the end: %s", error)  # noqa: TRY400

    def _take_up(self, signed: Signed[Evidence], verdict: str) -> Accusation:
        accused = PeerId(signed.message.accused)
        tree = HeldTree.of(evidence_chunks(signed.envelope))
        lie = lie_of(self._set.run, signed.message.proof)
        if lie is None:
            raise RecordError("the evidence doesn't say what it is about")
        accusation = Accusation(accused, tree.root, *lie)
        _remember(self._known, tree.root)
        if verdict != AGREED:
            self._verified[accused] = accusation
            if len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
        self._serve(tree, len(signed.envelope))
        return accusation

    def _serve(self, tree: HeldTree, size: int) -> None:
        self._shelf.put(tree)
        self._served[tree.root] = size
        while len(self._served) > 1 and sum(self._served.values()) > MAX_SERVED_BYTES:
            self._shelf.drop(self._served.popitem(last=False)[0])

    def _refuse(self, peer: PeerId, error: ProtocolError) -> None:
        """Hold an accusation against `peer`; what it proves badly may be others' words."""
        self._set.swarm.report(peer, RecordError(f"an accusation: {error.message}"))


def _remember(known: OrderedDict[bytes, None], root: bytes) -> None:
    known[root] = None
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)


def _now() -> float:
    return asyncio.get_running_loop().time()
