"""All that is about membership of one run at this node, beside its session.

RunAffairs ── RunMembers     who belongs to it                     (node.members.members)
├──────── Authority      what only the host can do             (node.members.authority)
├──────── Admitter       lets in who shows an invite           (node.members.admission)
├──────── AffairsSync    tells other members, hears from them  (node.members.sync)
└──────── RunSwarm       the network without who is refused    (dht.run_swarm)
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

from dht.door import Door
from dht.private_swarm import PrivateSwarm
from dht.run_swarm import RunSwarm
from dht.swarm import Swarm
from node.members.admission import Admitter
from node.members.authority import Authority
from node.members.members import RunMembers
from node.members.sync import AffairsSync
from node.training.permit import Gate
from protocol.identity import Identity, PeerId

log = logging.getLogger(__name__)

PAUSED = "paused by the host for everybody, until the host resumes it"
BANNED = "the host has banned this node from the run"


@dataclass(slots=True)
class Doors:
    """Through which others reach the runs of this node; what all its sessions share."""

    door: Door
    """To private runs, for members."""
    admitters: dict[bytes, Admitter] = field(default_factory=dict)
    """By run: to whom an invite may be shown."""


class RunAffairs:
    """Membership of one run.

    `host_gate` is closed while the host has paused the run, `company_gate` while it has banned
    this node.

    Args:
        members: who belongs to it.
        identity: this peer.
        manifest: the manifest's envelope.
        on_joined: told of every new member.
    """

    def __init__(
        self,
        members: RunMembers,
        identity: Identity,
        manifest: bytes,
        on_joined: Callable[[PeerId], None],
    ) -> None:
        self.members = members
        self.authority = Authority(members, identity)
        self.host_gate = Gate()
        self.company_gate = Gate()
        self.present: Callable[[], Collection[PeerId]] = frozenset
        """Who else is heard in the run now."""
        self.round: Callable[[], int] = int
        """Which round this node stands in."""
        self.forget: Callable[[Collection[PeerId]], None] = _ignore
        """Told with whom this node has no dealings any more."""
        self._admitter = Admitter(members, identity, manifest, self._seen)
        self._on_joined = on_joined
        self._known: set[PeerId] = set()

    @contextlib.asynccontextmanager
    async def opened(self, swarm: Swarm, doors: Doors) -> AsyncIterator[RunSwarm]:
        """Give the network as the run sees it, and keep up with who belongs to it.

        Raises:
            ExceptionGroup: of a NotMemberError, or of a StateError: what is known of it can't
                be read or written.
        """
        members = self.members
        async with contextlib.AsyncExitStack() as resources:
            await members.load()
            self._known = set(members.register.certificates)
            if members.me == members.register.host:
                await self.authority.found()
            own: RunSwarm
            if members.register.is_private:
                own = await resources.enter_async_context(
                    PrivateSwarm(swarm, doors.door, members.run, members)
                )
                doors.admitters[members.run] = self._admitter
                resources.callback(doors.admitters.pop, members.run, None)
                sync = AffairsSync(members, own, own.connected)
            else:
                own = RunSwarm(swarm, members)
                sync = AffairsSync(members, swarm, self._heard)
            tasks = await resources.enter_async_context(asyncio.TaskGroup())
            works = [
                tasks.create_task(sync.run(), name="affairs"),
                tasks.create_task(self._follow(own, sync), name="follow affairs"),
            ]
            try:
                yield own
            finally:
                for work in works:
                    work.cancel()

    def _seen(self) -> tuple[int, int]:
        return len(self.present()) + 1, self.round()

    async def _heard(self) -> Collection[PeerId]:
        return self.present()

    async def _follow(self, own: RunSwarm, sync: AffairsSync) -> None:
        changed = self.members.changed
        while True:
            changed.clear()
            self.obey()
            self._greet()
            self.forget([peer for peer in self.present() if self.members.refuses(peer)])
            await own.part()
            sync.tell()
            await changed.wait()
            await self.members.save()

    def obey(self) -> None:
        """Open and close the gates as the host has decided."""
        self.host_gate.set(opened=not self.members.register.paused, reason=PAUSED)
        self.company_gate.set(opened=not self.members.is_banned, reason=BANNED)

    def _greet(self) -> None:
        for peer in self.members.register.certificates.keys() - self._known:
            self._known.add(peer)
            self._on_joined(peer)


def _ignore(_: Collection[PeerId]) -> None:
    pass
