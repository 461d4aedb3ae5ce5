"""One run at this node, from its manifest to a worker: the data, the trainer, the state."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from dht.swarm import NetworkError, Swarm
from node.api.accounts import RunAccounts, Standings
from node.audit.proof import earned_nonce, seconds_of
from node.home.address_book import AddressBook
from node.home.reach import farthest_first
from node.members.affairs import RunAffairs
from node.members.members import KeptInvite, RunMembers
from node.run.node_setting import NodeSetting
from node.run.setting import RunSetting
from node.run.shown import given_by, with_earlier
from node.run.view import RunView
from node.run.worker import Worker
from node.store.ledger import Given, RunLedger
from node.store.run_folder import DataFile, RunFolder
from node.store.state import State
from node.training.permit import RunPermit
from node.training.process import TrainerProcess
from node.training.trainer import TrainerError, TrainerTask
from node.transfer.sources import FetchError, Sources
from node.transfer.transfer import fetch_blob
from node.transfer.tree_server import TreeServer, TreeShelf
from protocol.control import MemoryUse, Peer, RunState, RunStatus
from protocol.errors import TalkootError
from protocol.identity import PeerId
from protocol.link import JoinLink
from protocol.manifest import open_manifest

log = logging.getLogger(__name__)

LINK_ADDRESSES = 4
_RETRY_SECONDS = 5.0


class Session:
    """Takes part in one run; what it meets that a person should know is in its status.

    Args:
        node: what all runs share.
        folder: the run's folder, with its manifest.
        peers: addresses of peers to begin with, beside those in the address book.
        fresh: this node founded the run just now.
    """

    def __init__(
        self,
        node: NodeSetting,
        folder: RunFolder,
        peers: Sequence[str] = (),
        *,
        fresh: bool = False,
    ) -> None:
        envelope = folder.manifest()
        if envelope is None:
            raise FileNotFoundError(f"there is no manifest in {folder.path}")
        self.envelope = envelope
        self.run_id, self.manifest = open_manifest(envelope, bytes.fromhex(folder.path.name))
        self.folder = folder
        self.book = AddressBook(folder.path / "peers.json", node.disk)
        self.ledger = RunLedger(folder.path / "ledger.sqlite3", node.disk)
        members = RunMembers(
            self.run_id,
            self.manifest,
            node.identity.peer_id,
            folder.path,
            node.disk,
            node.swarm.time,
        )
        self.affairs = RunAffairs(
            members, node.identity, envelope, partial(node.on_joined, self.run_id)
        )
        self.affairs.present, self.affairs.forget = self._present, self._forget
        self.affairs.round = lambda: self.state.round if self.state else 0
        self.worker: Worker | None = None
        self.serving = asyncio.Event()
        """Set when others can fetch the manifest here, so that the link works; or can't for now."""
        self.looked_back = asyncio.Event()
        """Set when it is known what this node gave to the run at earlier starts."""
        self.failure: TalkootError | None = None
        """What stopped the run here, if anything did."""
        self._node = node
        self._permit = RunPermit(node.permit, self.affairs.host_gate)
        self._first_peers = peers
        self._fresh = fresh
        self._state: RunState = "starting"
        self._reason = "loading the trainer"
        self._fetched = 0.0
        self._set_back: tuple[str, ...] = ()
        """Checkpoints that could not be used, and what was used instead, in sentences."""
        self._addresses: list[str] = []
        self._trainer: TrainerProcess | None = None
        self._earlier = Given()
        self._stopped: RunStatus | None = None
        self._absent: RunStatus | None = None
        """Where the run stood when we had to leave it for a while."""
        self._view = RunView(self.run_id, self.manifest, node, members)

    @property
    def is_host(self) -> bool:
        """Whether this node founded the run."""
        return self.manifest.host == self._node.identity.peer_id

    async def run(self) -> None:
        """Take part until cancelled; a failure ends the run here and is shown, not raised."""
        log.info("taking part in %s (%s)", self.manifest.name, self.run_id.hex()[:12])
        try:
            await self._look_back()
            while True:
                if not self._node.attendance.is_open:
                    self.serving.set()
                await self._node.attendance.wait_open()
                self._come_back()
                await self._attend()
        except* TalkootError as group:
            error = _first(group)
            log.error("run %s stopped: %s", self.run_id.hex()[:12], error)  # noqa: TRY400
            self.failure, self._stopped = error, self._stopped_by(error)
            self.worker = None
        finally:
            self.serving.set()

    def note_peers(self, addresses: Sequence[str]) -> None:
        """Remember the peers of a join link."""
        for address in addresses:
            self.book.note_address(address)

    async def _look_back(self) -> None:
        try:
            me = self._node.identity.peer_id
            self._earlier = await asyncio.to_thread(self.ledger.given, me)
        finally:
            self.looked_back.set()

    async def _attend(self) -> None:
        """Take part until it isn't allowed any more."""
        async with asyncio.TaskGroup() as tasks:
            part = tasks.create_task(self._belong(), name=f"part in {self.run_id.hex()[:8]}")
            await self._node.attendance.wait_closed()
            self._leave_for_a_while()
            part.cancel()
        self.worker = None

    def _leave_for_a_while(self) -> None:
        self.standings()  # the state goes with the worker
        self._absent = replace(self.since_start(), peers=0, samples_per_second=0.0)

    def _come_back(self) -> None:
        if self._absent:
            self._earlier, self._absent = given_by(self.status()), None

    async def _belong(self) -> None:
        """Take part whenever the host lets this node."""
        await asyncio.to_thread(self.book.load)
        self.note_peers(self._first_peers)
        welcome = self.affairs.company_gate
        async with (
            self.affairs.opened(self._node.swarm, self._node.doors) as swarm,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                await welcome.wait_open()
                self._come_back()
                part = tasks.create_task(self._take_part(swarm), name="part")
                await welcome.wait_closed()
                self._leave_for_a_while()
                part.cancel()
                await asyncio.wait([part])
                self.worker = None

    async def _take_part(self, swarm: Swarm) -> None:
        shelf = TreeShelf(self.envelope)
        async with (
            self.ledger,
            TreeServer(swarm, self.run_id, shelf),
            TrainerProcess(self._permit) as trainer,
            asyncio.TaskGroup() as tasks,
        ):
            self._trainer = trainer
            tasks.create_task(trainer.keep(), name="keep the trainer")
            self._addresses = farthest_first(await swarm.addresses())
            self.serving.set()
            await swarm.connect(self.book.addresses())
            data = await self._data(swarm)
            self._state, self._reason = "starting", "loading the trainer"
            shelf.put(data)
            task = self.manifest.task
            method = self.manifest.method
            await self._load(
                trainer, TrainerTask(task.kind, task.version, task.config, data.path, method)
            )
            state = await self._newest_state()
            nonce = await self._nonce()
            kind = self._node.worker_of(self.manifest.method.kind)
            setting = self._setting(swarm, nonce)
            self.worker = kind(setting, trainer, shelf, state, fresh=self._fresh)
            await self.worker.run()

    async def _newest_state(self) -> State | None:
        """Return what this node goes on from; a newer one that it can't use is told."""
        unusable: list[str] = []
        state = await asyncio.to_thread(self.folder.checkpoints.load_newest, unusable.append)
        source = f"the one of round {state.round}" if state else "what others have"
        if unusable:
            self._set_back = tuple(f"{what}; this node went on from {source}" for what in unusable)
        return state

    async def _load(self, trainer: TrainerProcess, task: TrainerTask) -> None:
        while True:
            await self._permit.wait_open()
            try:
                await trainer.load(task)
            except TrainerError as error:
                if error.code != "interrupted":
                    raise
            else:
                return

    def _setting(self, swarm: Swarm, nonce: int) -> RunSetting:
        return RunSetting(
            swarm=swarm,
            identity=self._node.identity,
            run=self.run_id,
            manifest=self.manifest,
            folder=self.folder,
            book=self.book,
            name=self._node.name,
            reduces=self._node.reduces,
            max_state_bytes=self._node.max_state_bytes,
            nonce=nonce,
            ledger=self.ledger,
            permit=self._permit,
            device=self._node.device,
        )

    async def _data(self, swarm: Swarm) -> DataFile:
        task = self.manifest.task
        while True:
            peers = sorted(await swarm.connected())
            sources = Sources(swarm, self.run_id, peers)
            try:
                return await fetch_blob(
                    sources, self.folder, task.data_root, task.data_bytes, self._on_fetched
                )
            except FetchError as error:
                self._reason = f"downloading the data: {error.message}; trying again"
                await asyncio.sleep(_RETRY_SECONDS)
                await swarm.connect(self.book.addresses())

    async def _nonce(self) -> int:
        bits = self.manifest.trust.work_bits
        self._reason = f"computing the run's proof of work, about {seconds_of(bits):.0f} s"
        return await earned_nonce(
            self.folder.path / "nonce", self.folder.disk, self.run_id, self._node.identity, bits
        )

    def _on_fetched(self, done: int, total: int) -> None:
        self._state, self._reason = "catching_up", "downloading the data"
        self._fetched = done / max(total, 1)

    # what people see

    @property
    def state(self) -> State | None:
        """The agreed state that this node holds in memory."""
        return self.worker.state if self.worker else None

    @property
    def memory(self) -> MemoryUse | None:
        """What training takes of its device now."""
        return self._trainer.memory if self._trainer else None

    @property
    def training_round(self) -> int | None:
        """The round that this node has a part in; None = none, or it waits for others to come."""
        worker = self.worker
        if worker is None or worker.state is None or worker.finished or not worker.in_round:
            return None
        return worker.state.round

    def standings(self) -> Standings:
        """Return everybody's agreed standing, the last known one where the run has stopped."""
        return self._view.standings(self.worker)

    def accounts(self) -> RunAccounts:
        """Return what can be told of history, standings and evidence now."""
        me = self._node.identity.peer_id
        peers = tuple(self.peers())
        return RunAccounts(self.run_id, me, self.standings(), peers, self.ledger)

    def link(self) -> str:
        """Return a join link through this node; empty where there is none to give."""
        peers = tuple(self._addresses[:LINK_ADDRESSES])
        if not peers or self.affairs.members.register.is_private:
            return ""
        return str(JoinLink(self.run_id, self.manifest.name, peers))

    def invite_link(self, invite: KeptInvite) -> str:
        """Return the link of an invite, through this node and stewards that are known.

        Raises:
            NetworkError: there is nobody yet through whom it could lead.
        """
        live = self.worker.machine.live.peers().values() if self.worker else ()
        said = [each for peer in live for each in peer.presence.addresses]
        stewards = self.affairs.members.admitting([*said, *self.book.addresses()])
        peers = (*self._addresses[:LINK_ADDRESSES], *stewards[:LINK_ADDRESSES])
        if not peers:
            raise NetworkError(
                "this node doesn't serve the run now, so no link leads to it",
                hint="Ask again once it does: talkoot status tells why it doesn't.",
            )
        name = self.manifest.name
        return str(JoinLink(self.run_id, name, peers, invite.expires, invite.secret))

    def _present(self) -> Collection[PeerId]:
        return self.worker.machine.live.peers().keys() if self.worker else ()

    def _forget(self, peers: Collection[PeerId]) -> None:
        if self.worker:
            self.worker.machine.live.forget(peers)

    def status(self) -> RunStatus:
        """Return what to show of this run."""
        return with_earlier(self.since_start(), self._earlier)

    def since_start(self) -> RunStatus:
        """Return the status with the samples that were counted since the run was taken up."""
        if self._stopped:
            return self._stopped
        if self._absent:
            return self._absent_status(self._absent)
        register = self.affairs.members.register
        common = RunStatus(
            run=self.run_id.hex(),
            name=self.manifest.name,
            role="host" if self.is_host else "member",
            state=self._state,
            reason=self._reason,
            rounds_total=self.manifest.round.total,
            progress=self._fetched,
            link=self.link() or None,
            admission=self.manifest.admission,
            host_paused=register.paused,
        )
        status = self._view.status(common, self.worker) if self.worker else common
        status = replace(status, warnings=(*status.warnings, *self._set_back))
        permit = self._permit
        if permit.is_open or status.state == "finished" or status.standing == "banned":
            return status
        return replace(status, state="paused", reason=permit.reason)

    def _absent_status(self, before: RunStatus) -> RunStatus:
        attendance, welcome = self._node.attendance, self.affairs.company_gate
        if attendance.is_open and not welcome.is_open:
            reason = welcome.reason
            return replace(
                before, state="stopped", reason=reason, failure="not_a_member", warnings=()
            )
        return replace(before, state="paused", reason=attendance.reason)

    def _stopped_by(self, error: TalkootError) -> RunStatus:
        """Return where the run stood when `error` stopped it here."""
        self.standings()  # the state goes with the worker
        reason = " ".join(filter(None, (f"{error.message}.", error.hint)))
        changes = {"state": "stopped", "reason": reason, "peers": 0, "samples_per_second": 0.0}
        return replace(self.since_start(), failure=error.code, **changes)

    def peers(self) -> list[Peer]:
        """Return the peers of this run, this one among them."""
        return self._view.peers(self.worker)

    def names(self) -> Mapping[PeerId, str]:
        """Return what the peers of this run called themselves, this one among them."""
        return self._view.names(self.worker)


def _first(group: BaseExceptionGroup[TalkootError]) -> TalkootError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, TalkootError) else TalkootError(str(error))
