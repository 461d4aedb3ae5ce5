"""Evidence at this peer: what it made itself, and what it heard and has verified.

    Accusation ──fetch──> Evidence ──check──> HOLDS    kept, and from now on our accusation too
                                         ├──> FALSE    its accuser is accused
                                         └──> UNKNOWN  looked at again when heard again

Nothing counts because somebody says so. What is kept is served to others by its root.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from node.audit.evidence_check import EvidenceChecker, open_evidence
from node.audit.inspection import Inspector
from node.run.channel import RunChannel
from node.run.setting import RunSetting
from node.store.ledger import EvidenceNote
from node.store.storage import StateError
from node.transfer.tree_server import TreeShelf
from protocol.errors import ProtocolError, RecordError, TalkootError
from protocol.evidence import (
    EVIDENCE_CHUNK_BYTES,
    MAX_EVIDENCE_BYTES,
    Evidence,
    FalseAccusation,
    FalseWork,
    Proof,
)
from protocol.identity import PeerId
from protocol.merkle import leaf_hash
from protocol.rollcall import Accusation
from protocol.signing import Signed, seal
from trust.audit import AuditVerdict
from trust.evidence import evidence_root, lie_of

log = logging.getLogger(__name__)

MAX_ACCUSATIONS = 8
"""In one commitment."""
MAX_WAITING = 64
MAX_WAITING_PER_PEER = 4
MAX_WORK = 4
"""Accusations that wait for the trainer: each takes as long as a round."""
MAX_TRIES = 3
"""Of evidence that can't be verified here; each accusation that is heard is another one."""
MAX_TRIED = 1024
MAX_LEAVES = -(-MAX_EVIDENCE_BYTES // EVIDENCE_CHUNK_BYTES)
MADE, VERIFIED, AGREED = "made here", "verified here", "agreed before it could be verified here"


@dataclass(frozen=True, slots=True)
class EvidenceTree:
    """Sealed evidence as others fetch it."""

    root: bytes
    leaves: tuple[bytes, ...]
    chunks: tuple[bytes, ...]

    @classmethod
    def of(cls, sealed: bytes) -> "EvidenceTree":
        """Return the tree over these bytes."""
        root, chunks = evidence_root(sealed)
        return cls(root, tuple(leaf_hash(chunk) for chunk in chunks), tuple(chunks))

    def chunk(self, index: int) -> bytes:
        """Return one piece."""
        return self.chunks[index]


@dataclass(frozen=True, slots=True)
class _Case:
    """Evidence to be verified, and who named it."""

    accusation: Accusation
    accuser: PeerId
    opened: Signed[Evidence] | None = None


class EvidenceBox:
    """All evidence of one run at one peer.

    Args:
        setting: the run.
        channel: where accusations are said.
        shelf: where others find evidence.
        inspector: fetches.
        checker: verifies.
        refused: counts what was refused, by error code.
    """

    def __init__(
        self,
        setting: RunSetting,
        channel: RunChannel,
        shelf: TreeShelf,
        inspector: Inspector,
        checker: EvidenceChecker,
        refused: Counter[str],
    ) -> None:
        self._set = setting
        self._channel = channel
        self._shelf = shelf
        self._inspector = inspector
        self._checker = checker
        self._refused = refused
        self._verified: dict[PeerId, Accusation] = {}
        self._known: set[bytes] = set()
        self.work_came = asyncio.Event()
        """Set when there is an accusation that takes the trainer; the caller clears it."""
        self._waiting: asyncio.Queue[_Case] = asyncio.Queue(MAX_WAITING)
        self._waiting_of: Counter[PeerId] = Counter()
        self._tries: Counter[bytes] = Counter()
        self._work: dict[bytes, _Case] = {}

    def load(self) -> None:
        """Take up what an earlier life kept. Blocks on the disk."""
        for note in self._set.ledger.evidence() if self._set.ledger else ():
            self._known.add(note.root)
            self._shelf.put(EvidenceTree.of(note.sealed))
            if note.verdict in {MADE, VERIFIED}:
                accused = PeerId(note.accused)
                self._verified[accused] = Accusation(accused, note.root, note.round, note.chunk)

    def accusations(self, banned: Collection[PeerId]) -> tuple[Accusation, ...]:
        """Return what we hold against peers that are not banned yet, for our commitment."""
        open_cases = [each for peer, each in self._verified.items() if peer not in banned]
        return tuple(open_cases[:MAX_ACCUSATIONS])

    async def accuse(self, accused: PeerId, proof: Proof) -> None:
        """Seal evidence, keep it, and say so; once against each peer."""
        if accused in self._verified or accused == self._set.identity.peer_id:
            return
        signed = seal(self._set.identity, self._set.run, Evidence(accused, proof))
        await self._keep(signed, MADE)
        log.warning("%s is accused: %s", accused, type(proof).__name__)

    # what is heard

    def hear(self, accuser: PeerId, accusations: Sequence[Accusation]) -> None:
        """Look at these when there is time; what is known, or too much at once, is left out."""
        for accusation in accusations:
            if not self._is_news(accusation):
                continue
            if self._waiting_of[accuser] >= MAX_WAITING_PER_PEER or self._waiting.full():
                self._refuse(accuser, RecordError("it accuses too much at once"))
                return
            self._waiting_of[accuser] += 1
            self._waiting.put_nowait(_Case(accusation, accuser))

    def _is_news(self, accusation: Accusation) -> bool:
        if self._is_settled(accusation) or accusation.evidence in self._work:
            return False
        if len(self._tries) > MAX_TRIED:
            self._tries.clear()
        return self._tries[accusation.evidence] < MAX_TRIES

    def _is_settled(self, accusation: Accusation) -> bool:
        return PeerId(accusation.accused) in self._verified or accusation.evidence in self._known

    async def verify_heard(self) -> None:
        """Verify what is heard, one after the other, for ever."""
        while True:
            case = await self._waiting.get()
            try:
                if self._is_news(case.accusation):
                    self._tries[case.accusation.evidence] += 1
                    await self._look_at(case)
            except ProtocolError as error:
                self._refuse(case.accuser, error)
            except StateError as error:
                log.error("evidence is not kept: %s", error)  # noqa: TRY400
            except TalkootError as error:
                log.info("evidence against %s can't be had: %s", case.accusation.accused, error)
            finally:
                self._waiting_of[case.accuser] -= 1
                self._waiting_of += Counter()  # forgets who is at zero

    async def _look_at(self, case: _Case) -> None:
        signed = await self._fetch(case)
        if isinstance(signed.message.proof, FalseWork):
            if len(self._work) < MAX_WORK:
                self._work[case.accusation.evidence] = replace(case, opened=signed)
                self.work_came.set()
            return
        await self._judge(signed, case, await self._checker.check(signed, [case.accuser]))

    async def _fetch(self, case: _Case) -> Signed[Evidence]:
        root = case.accusation.evidence
        leaves, parts = await self._inspector.fetch(root, [case.accuser], MAX_LEAVES)
        sealed = b"".join(parts[index] for index in range(len(leaves)))
        signed = open_evidence(sealed, self._set.run)
        if signed.message.accused != case.accusation.accused:
            raise RecordError("the evidence is against somebody else")
        if EvidenceTree.of(sealed).root != root:
            raise RecordError("the evidence is cut into other pieces than it should be")
        return signed

    async def _judge(self, signed: Signed[Evidence], case: _Case, verdict: AuditVerdict) -> None:
        match verdict:
            case AuditVerdict.HOLDS:
                await self._keep(signed, VERIFIED)
            case AuditVerdict.FALSE:
                self._refuse(signed.signer, RecordError("its evidence doesn't hold"))
                if not isinstance(signed.message.proof, FalseAccusation):
                    await self.accuse(signed.signer, FalseAccusation(signed.envelope))
            case AuditVerdict.UNKNOWN:
                log.info("evidence against %s can't be verified here", case.accusation.accused)

    @property
    def has_work(self) -> bool:
        """Whether there are accusations that take the trainer."""
        return bool(self._work)

    async def judge_work(self) -> None:
        """Verify the accusations that take the trainer; for its owner to call.

        Raises:
            TrainerError: it fails; the accusation in hand is heard again.
        """
        while self._work:
            root, case = next(iter(self._work.items()))
            try:
                if case.opened is not None and not self._is_settled(case.accusation):
                    verdict = await self._checker.check(case.opened, [case.accuser])
                    await self._judge(case.opened, case, verdict)
            finally:
                del self._work[root]

    async def complete(self, banned: dict[PeerId, bytes], peers: Sequence[PeerId]) -> None:
        """Fetch the evidence behind bans that were agreed on before we could verify it."""
        for accused, root in banned.items():
            if root in self._known:
                continue
            case = _Case(Accusation(accused, root, 0), accused)
            try:
                leaves, parts = await self._inspector.fetch(root, peers, MAX_LEAVES)
                sealed = b"".join(parts[index] for index in range(len(leaves)))
                signed = open_evidence(sealed, self._set.run)
                verdict = AGREED
                if not isinstance(signed.message.proof, FalseWork):
                    found = await self._checker.check(signed, peers)
                    verdict = VERIFIED if found is AuditVerdict.HOLDS else AGREED
                await self._keep(signed, verdict)
            except TalkootError as error:
                log.info("evidence against %s can't be had: %s", case.accusation.accused, error)

    async def _keep(self, signed: Signed[Evidence], verdict: str) -> None:
        accused, proof = PeerId(signed.message.accused), signed.message.proof
        tree = EvidenceTree.of(signed.envelope)
        lie = lie_of(self._set.run, proof)
        if lie is None:
            raise RecordError("the evidence doesn't say what it is about")
        round_, chunk = lie
        self._known.add(tree.root)
        self._shelf.put(tree)
        if verdict != AGREED:
            accusation = Accusation(accused, tree.root, round_, chunk)
            self._verified[accused] = accusation
            self._channel.say(self._channel.sign(accusation))
        if self._set.ledger is not None:
            note = EvidenceNote(
                root=tree.root,
                accused=accused,
                kind=type(proof).__name__,
                round=round_,
                chunk=chunk,
                sealed=signed.envelope,
                verdict=verdict,
                heard_at=self._set.swarm.time(),
            )
            await asyncio.to_thread(self._set.ledger.note_evidence, note)

    def _refuse(self, peer: PeerId, error: ProtocolError) -> None:
        self._refused[error.code] += 1
        log.info("refused an accusation of %s: %s", peer, error)
