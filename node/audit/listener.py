"""What each word of another peer says about its honesty, before the round machine acts on it."""

from node.audit.accuser import Accuser
from node.audit.witness import Witness
from node.exchange.receipt_compare import ReceiptComparer
from protocol.events import AccusationHeard, CommitmentHeard, Event, ResultHeard, RollHeard
from protocol.identity import PeerId
from protocol.rollcall import Commitment, Roll
from protocol.signing import Signed


class Listener:
    """Tells those of one run's audits whom it concerns.

    Args:
        me: this peer.
        auditor: has accusations verified, and is told of who leaves us out.
        witness: remembers what was said.
        receipts: compares the receipts of those who came to another result, where there are any.
    """

    def __init__(
        self,
        me: PeerId,
        auditor: Accuser,
        witness: Witness,
        receipts: ReceiptComparer | None = None,
    ) -> None:
        self._me = me
        self._auditor = auditor
        self._witness = witness
        self._receipts = receipts

    async def hear(self, event: Event, own: Signed[Commitment] | None) -> None:
        """Hear an event; `own` is our commitment to the round, if we have made one."""
        match event:
            case AccusationHeard(accusation):
                self._auditor.hear(accusation.signer, (accusation.message,))
            case CommitmentHeard(commitment):
                self._auditor.hear(commitment.signer, commitment.message.accusations)
            case RollHeard(roll):
                for member in roll.members:
                    self._auditor.hear(member.signer, member.message.accusations)
                if own is not None and self._omits(roll, own):
                    self._auditor.object_to(roll.convener)
            case ResultHeard(result) if self._receipts:
                self._receipts.hear(result)
            case _:
                pass
        if proof := self._witness.hear(event):
            await self._auditor.evidence.accuse(*proof)

    def _omits(self, roll: Roll, own: Signed[Commitment]) -> bool:
        """Return whether a roll of our round leaves out what we had committed to before it came."""
        ours = roll.prev_root == own.message.prev_root and roll.convener != self._me
        return ours and own not in roll.members
