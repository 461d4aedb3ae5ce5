"""Why a peer stands as it does: asked of the node when somebody wants to know, and kept a while."""

import time
from collections.abc import Callable
from html import escape

from gui.desk import Desk
from gui.peers import PeerTable
from gui.store import PeerKey
from gui.view import clean
from protocol.accounts import PeerDetail
from protocol.errors import TalkootError

KEPT_SECONDS = 20.0
MOST_KEPT = 200
MOST_PARTS = 30


class Why:
    """Answers a table's tooltips."""

    def __init__(self, desk: Desk, table: PeerTable) -> None:
        self._desk = desk
        self._table = table
        self._kept: dict[PeerKey, tuple[float, PeerDetail]] = {}
        table.why_asked.connect(self._explain)

    def _explain(self, run: str, peer: str) -> None:
        self.ask(
            (run, peer),
            found=lambda detail: self._table.explain((run, peer), rich_text(detail)),
            failed=lambda error: self._table.explain((run, peer), _plain(error.message)),
        )

    def ask(
        self,
        key: PeerKey,
        found: Callable[[PeerDetail], None],
        failed: Callable[[TalkootError], None],
    ) -> None:
        """Give the detail of a peer to `found`, at once if it is known."""
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() - kept[0] < KEPT_SECONDS:
            found(kept[1])
            return
        self._desk.start(self._fetch(key, found), failed=failed)

    async def _fetch(self, key: PeerKey, found: Callable[[PeerDetail], None]) -> None:
        detail = await self._desk.api.peer(*key)
        self._kept.pop(key, None)
        self._kept[key] = time.monotonic(), detail
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        found(detail)


def reasons(detail: PeerDetail) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of what a peer's standing rests on, and of its credit."""
    parts = [
        (clean(part.name, 40), clean(part.value, 40), clean(part.sentence, 200))
        for part in detail.parts[:MOST_PARTS]
    ]
    parts += [
        (clean(each.reason, 60), f"{each.rounds:,} rounds", f"{each.samples:,} samples")
        for each in detail.credit[:MOST_PARTS]
    ]
    return parts


def rich_text(detail: PeerDetail) -> str:
    """Return the reasons as markup in which nothing that a stranger chose is markup."""
    rows = "".join(
        f"<tr><td><b>{escape(name)}</b>&nbsp;&nbsp;</td><td>{escape(value)}&nbsp;&nbsp;</td>"
        f"<td>{escape(meaning)}</td></tr>"
        for name, value, meaning in reasons(detail)
    )
    name = escape(clean(detail.peer.name) or clean(detail.peer.id))
    return f"<p><b>{name}</b>: {escape(detail.peer.standing)}</p><table>{rows}</table>"


def _plain(text: str) -> str:
    return f"<p>{escape(clean(text, 300))}</p>"
