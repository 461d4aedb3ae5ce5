"""How many may be missing from an aggregate before it counts for nothing, whoever signed it.

A reducer that leaves honest rows out makes a minority of liars the majority of what is left, and no
arithmetic shows it: a row that it left out may as well never have come. So what leaves out more
than a third of those who count (or more than one, of fewer than six) is not accepted from anybody,
and the chunk has no update in that round. Roll call, ledger and receipt decide alike everywhere.

Let f of n that count be liars, all present, and x honest ones left out: the honest are the majority
where n - f - x > f. So this bound keeps it for every reducer while f < n/3; beyond it, that those
who were left out object, and a reducer loses its role, bounds how often it happens.
"""

from collections.abc import Sequence, Set

from protocol.identity import PeerId
from protocol.transfers import Receipt


def leaves_out_too_many(receipt: Receipt, members: Sequence[PeerId], judges: Set[PeerId]) -> bool:
    """Return whether nobody may accept the aggregate that a receipt is for.

    Args:
        receipt: it reports on every member.
        members: of its roll call, in order.
        judges: those among them who count (`trust.admission.judges_of`).
    """
    left_out = [
        peer
        for peer, share in zip(members, receipt.shares, strict=True)
        if share is None and peer in judges
    ]
    return len(left_out) > max(1, len(judges) // 3)
