"""A run's accounts for its people: everybody's standing and credit, and the evidence."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from node.api.evidence_words import facts_of, lie_of
from node.store.ledger import CreditTotals, EvidenceNote, RunLedger
from protocol.accounts import (
    CreditCount,
    EvidenceDetail,
    EvidenceItem,
    History,
    PeerDetail,
    RoundCredit,
    StandingPart,
)
from protocol.control import Peer, PeerStanding, printable
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import Manifest
from protocol.references import NoSuchEvidenceError, find_peer
from trust.explanation import describe, standing_word


class Standings:
    """The agreed ledger, as people read it."""

    def __init__(self, ledger: Ledger, manifest: Manifest) -> None:
        self.ledger = ledger
        self._spec = manifest.trust
        self._known, self._banned = ledger.by_peer(), ledger.banned
        self._stewards = frozenset(PeerId(peer) for peer in manifest.stewards)

    def peers(self) -> frozenset[PeerId]:
        """Return everybody in the ledger."""
        return frozenset(self._known)

    def banned(self) -> frozenset[PeerId]:
        """Return who was proved a liar."""
        return self._banned

    def of(self, peer: PeerId) -> Standing | None:
        """Return the standing of a peer; None = no roll call has listed it yet."""
        return self._known.get(peer)

    def word(self, peer: PeerId) -> PeerStanding:
        """Return a peer's standing in one word."""
        return standing_word(peer, self._known.get(peer), self._spec, self._stewards)

    def filled(self, peer: Peer) -> Peer:
        """Return `peer` with its standing."""
        known = PeerId(peer.id)
        standing = self._known.get(known)
        if standing is None:
            return replace(peer, standing=self.word(known))
        return replace(
            peer,
            standing=self.word(known),
            reputation=standing.score,
            accepted_samples=standing.samples,
        )

    def parts(self, peer: PeerId) -> tuple[StandingPart, ...]:
        """Return what a peer's standing rests on, one sentence each."""
        standing = self._known.get(peer)
        if standing is None:
            return ()
        found = describe(standing, self._spec, self._stewards)
        return tuple(
            StandingPart(name=each.name, value=each.value, sentence=each.sentence) for each in found
        )

    def why_banned(self, peer: PeerId) -> str | None:
        """Return why a peer is banned, or None if it isn't."""
        standing = self._known.get(peer)
        if standing is None or standing.banned is None:
            return None
        return f"evidence {standing.banned.hex()[:12]} proves that it broke the rules"


@dataclass(frozen=True, slots=True)
class RunAccounts:
    """What one node can tell of a run at one moment."""

    run: bytes
    me: PeerId
    standings: Standings
    present: Sequence[Peer]
    """The peers that are there now, this node among them."""
    notes: RunLedger

    async def history(self, reference: str | None, since: int, limit: int) -> History:
        """Return the newest rounds, and what became of a peer's work in them; of ours if None.

        Raises:
            NoSuchPeerError, AmbiguousPeerError: see `find_peer`.
            StateError: the notes can't be read.
        """
        peer = self.me if reference is None else await self._find(reference)
        rounds = await asyncio.to_thread(self.notes.history, peer, since, limit)
        totals = await asyncio.to_thread(self.notes.credit_of, peer)
        return History(
            run=self.run.hex(),
            peer=peer,
            me=peer == self.me,
            rounds=tuple(
                RoundCredit(
                    round=note.round,
                    root=note.root.hex(),
                    loss=note.loss,
                    seconds=note.seconds,
                    members=note.members,
                    at=note.at,
                    samples=credit.samples if credit else 0,
                    reason=credit.reason if credit else "not in the roll call",
                )
                for note, credit in rounds
            ),
            credit=_counts(totals),
        )

    async def peer(self, reference: str) -> PeerDetail:
        """Return why a peer stands as it does.

        Raises:
            NoSuchPeerError, AmbiguousPeerError, StateError: as `history`.
        """
        peer = await self._find(reference)
        totals = await asyncio.to_thread(self.notes.credit_of, peer)
        absent = self.standings.filled(Peer(id=peer, name="", run=self.run.hex()))
        standing = self.standings.of(peer)
        return PeerDetail(
            run=self.run.hex(),
            peer=next((found for found in self.present if found.id == peer), absent),
            joined=standing.joined if standing else None,
            parts=self.standings.parts(peer),
            credit=_counts(totals),
            evidence=tuple(item for item in await self.evidence() if item.accused == peer),
        )

    async def evidence(self) -> list[EvidenceItem]:
        """Return all evidence that this node keeps.

        Raises:
            StateError: the notes can't be read.
        """
        names = self._names()
        return [_item(note, names) for note in await asyncio.to_thread(self.notes.evidence_list)]

    async def evidence_detail(self, reference: str) -> EvidenceDetail:
        """Return what evidence says, named by its root or the start of it.

        Raises:
            NoSuchEvidenceError: none, or several.
            StateError: the notes can't be read.
        """
        item = _find_evidence(await self.evidence(), reference)
        sealed = await asyncio.to_thread(self.notes.sealed_evidence, bytes.fromhex(item.root))
        data = sealed or b""
        facts = await asyncio.to_thread(facts_of, data, self.run)
        return EvidenceDetail(item=item, facts=tuple(facts), sealed=data)

    async def _find(self, reference: str) -> PeerId:
        known = dict.fromkeys(await asyncio.to_thread(self.notes.peers), "")
        known |= dict.fromkeys(self.standings.peers(), "")
        return PeerId(find_peer({**known, **self._names()}, reference))

    def _names(self) -> Mapping[str, str]:
        return {peer.id: peer.name for peer in self.present}


def _counts(totals: CreditTotals) -> tuple[CreditCount, ...]:
    return tuple(
        CreditCount(reason=reason, rounds=rounds, samples=totals.samples[reason])
        for reason, rounds in totals.rounds.items()
    )


def _item(note: EvidenceNote, names: Mapping[str, str]) -> EvidenceItem:
    return EvidenceItem(
        root=note.root.hex(),
        accused=note.accused,
        accused_name=names.get(note.accused, ""),
        kind=note.kind,
        lie=lie_of(note.kind),
        round=note.round,
        chunk=note.chunk,
        verdict=note.verdict,
        verified_at=note.heard_at,
    )


def _find_evidence(items: Iterable[EvidenceItem], reference: str) -> EvidenceItem:
    start = reference.strip().lower()
    found = [item for item in items if start and item.root.startswith(start)]
    if len(found) != 1:
        which = "no evidence here begins" if not found else f"{len(found)} pieces of evidence begin"
        raise NoSuchEvidenceError(
            f"{which} with {printable(reference, 64)!r}",
            hint="Show them with: talkoot evidence",
        )
    return found[0]
