"""Who takes part in a run, who let them in, and shutting them out."""

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QPoint, Signal
from PySide6.QtWidgets import QWidget

from gui.conduct import BAN, UNBAN, Conduct
from gui.desk import Desk
from gui.listing import Line, Listing
from gui.view import NOTHING, clean, moment
from gui.widgets import button, column, label, row, say
from protocol.control import Peer, RunStatus
from protocol.hosting import Member

_COLUMNS = {"Name": 0, "Role": 84, "State": 84, "Let in": 146, "By": 0, "Until": 146}
_TONES = {"online": "good", "banned": "bad", "away": "muted"}


class MemberList(QWidget):
    """The members of a run; its host can ban them."""

    changed = Signal()
    """The node has banned one, or taken a ban back."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._run: RunStatus | None = None
        self._members: dict[str, Member] = {}
        self.conduct = Conduct(desk, self, done=self.changed.emit)
        self.title = label("Members", "heading")
        self.table = Listing("Members", _COLUMNS, desk.theme)
        self.ban = button(BAN.text, about=BAN.about)
        self.ban.clicked.connect(self._ban_chosen)
        self.table.chosen.connect(self._enable)
        self.table.menu_asked.connect(self._open_menu)
        head = row(self.title, None, self.ban)
        whole = column(head, self.table)
        whole.setStretch(1, 1)
        self.setLayout(whole)
        self._enable()

    @property
    def chosen(self) -> Member | None:
        """The chosen member."""
        return self._members.get(self.table.key or "")

    def follow(self, run: RunStatus) -> None:
        """Be about a run as it stands now."""
        self._run = run
        self.ban.setVisible(run.role == "host")
        self._enable()

    def show_members(self, run: RunStatus, members: Sequence[Member]) -> None:
        """Show the members of a run."""
        self._members = {member.peer: member for member in members}
        names = {member.peer: _name(member) for member in members}
        self.table.show_lines([_line(member, names) for member in members])
        kind = "Members" if run.admission == "invite" else "Peers, and who is banned"
        say(self.title, f"{kind}: {len(members):,}")
        self._enable()

    def _enable(self) -> None:
        chosen = self.chosen
        act = UNBAN if chosen is not None and chosen.banned else BAN
        self.ban.setText(act.text)
        self.ban.setAccessibleName(act.text)
        can = chosen is not None and chosen.station != "host"
        self.ban.setEnabled(self._desk.store.live and can)

    def _ban_chosen(self) -> None:
        if (peer := self._peer()) is not None:
            self.conduct.do(UNBAN if peer.host_banned else BAN, peer)

    def _open_menu(self, where: QPoint) -> None:
        if (peer := self._peer()) is not None:
            self.conduct.show_menu(peer, where)

    def _peer(self) -> Peer | None:
        """Return the chosen member as a peer; it may be away."""
        run, member = self._run, self.chosen
        if run is None or member is None:
            return None
        there = self._desk.store.peers.get((run.run, member.peer))
        return Peer(
            id=member.peer,
            name=member.name,
            run=run.run,
            me=member.me,
            blocked=there is not None and there.blocked,
            host_banned=member.banned,
        )


def _name(member: Member) -> str:
    return clean(member.name) or f"…{clean(member.peer)[-8:]}"


def _line(member: Member, names: Mapping[str, str]) -> Line:
    state = "banned" if member.banned else "online" if member.online else "away"
    by = member.admitted_by
    cells = (
        f"{_name(member)} (you)" if member.me else _name(member),
        member.station,
        state,
        NOTHING if member.admitted is None else moment(member.admitted),
        (names.get(by) or f"…{clean(by)[-8:]}") if by else NOTHING,
        NOTHING if member.expires is None else moment(member.expires),
    )
    return Line(member.peer, cells, {2: _TONES[state]})
