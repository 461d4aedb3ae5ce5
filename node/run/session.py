"""One run at this node, from its manifest to a worker: the data, the trainer, the state."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from dht.swarm import Swarm
from node.api.accounts import RunAccounts, Standings
from node.audit.proof import earned_nonce, seconds_of
from node.exchange.outcome import MemberReport
from node.home.address_book import AddressBook
from node.home.reach import address_kind, farthest_first
from node.run.setting import RunSetting
from node.run.worker import Worker
from node.run.workers import WorkerOf
from node.store.ledger import RunLedger
from node.store.run_folder import DataFile, RunFolder
from node.store.state import State
from node.store.storage import Disk
from node.training.trainer import Resources, TrainerProcess, TrainerTask
from node.transfer.sources import FetchError, Sources
from node.transfer.transfer import fetch_blob
from node.transfer.tree_server import TreeServer, TreeShelf
from protocol.control import Peer, PeerShare, RoundReport, RunState, RunStatus
from protocol.errors import TalkootError
from protocol.identity import Identity, PeerId
from protocol.ledger import NO_LEDGER
from protocol.link import JoinLink
from protocol.manifest import Manifest, open_manifest
from protocol.rounds import Phase

log = logging.getLogger(__name__)

FEWEST_FOR_TRUST = 4
"""With fewer peers no rule can tell the liar from the honest (algorithms.md, §1)."""
LINK_ADDRESSES = 4
MAX_NAMES = 2048
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class NodeSetting:
    """What all runs of a node share."""

    swarm: Swarm
    identity: Identity
    name: str
    disk: Disk
    resources: Resources
    reduces: bool
    max_state_bytes: int
    worker_of: WorkerOf
    refused: Counter[str]


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
        self.worker: Worker | None = None
        self.serving = asyncio.Event()
        """Set when others can fetch the manifest here, so that the link works; or never will."""
        self.failure: TalkootError | None = None
        """What stopped the run here, if anything did."""
        self._node = node
        self._first_peers = peers
        self._fresh = fresh
        self._state: RunState = "starting"
        self._reason = "loading the trainer"
        self._fetched = 0.0
        self._addresses: list[str] = []
        self._stopped: RunStatus | None = None
        self._agreed = NO_LEDGER
        self._names: dict[PeerId, str] = {}

    @property
    def is_host(self) -> bool:
        """Whether this node founded the run."""
        return self.manifest.host == self._node.identity.peer_id

    async def run(self) -> None:
        """Take part until cancelled; a failure ends the run here and is shown, not raised."""
        log.info("taking part in %s (%s)", self.manifest.name, self.run_id.hex()[:12])
        try:
            await self._take_part()
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

    async def _take_part(self) -> None:
        node, shelf = self._node, TreeShelf(self.envelope)
        await asyncio.to_thread(self.book.load)
        self.note_peers(self._first_peers)
        async with (
            self.ledger,
            TreeServer(node.swarm, self.run_id, shelf),
            TrainerProcess(node.resources) as trainer,
        ):
            self._addresses = farthest_first(await node.swarm.addresses())
            self.serving.set()
            await node.swarm.connect(self.book.addresses())
            data = await self._data()
            shelf.put(data)
            task = self.manifest.task
            method = self.manifest.method
            await trainer.load(TrainerTask(task.kind, task.version, task.config, data.path, method))
            state = await asyncio.to_thread(self.folder.checkpoints.load_newest)
            nonce = await self._nonce()
            kind = node.worker_of(self.manifest.method.kind)
            self.worker = kind(
                self._setting(nonce), trainer, shelf, state, fresh=self._fresh, refused=node.refused
            )
            await self.worker.run()

    def _setting(self, nonce: int) -> RunSetting:
        return RunSetting(
            swarm=self._node.swarm,
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
        )

    async def _data(self) -> DataFile:
        task = self.manifest.task
        while True:
            peers = sorted(await self._node.swarm.connected())
            sources = Sources(self._node.swarm, self.run_id, peers)
            try:
                return await fetch_blob(
                    sources, self.folder, task.data_root, task.data_bytes, self._on_fetched
                )
            except FetchError as error:
                self._reason = f"downloading the data: {error.message}; trying again"
                await asyncio.sleep(_RETRY_SECONDS)
                await self._node.swarm.connect(self.book.addresses())

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

    def standings(self) -> Standings:
        """Return everybody's agreed standing, the last known one where the run has stopped."""
        if self.state:
            self._agreed = self.state.ledger
        return Standings(self._agreed, self.manifest)

    def accounts(self) -> RunAccounts:
        """Return what can be told of history, standings and evidence now."""
        me = self._node.identity.peer_id
        peers = tuple(self.peers())
        return RunAccounts(self.run_id, me, self.standings(), peers, self.ledger)

    def link(self) -> str:
        """Return a join link through this node."""
        peers = tuple(self._addresses[:LINK_ADDRESSES])
        return str(JoinLink(self.run_id, self.manifest.name, peers)) if peers else ""

    def status(self) -> RunStatus:
        """Return what to show of this run."""
        if self._stopped:
            return self._stopped
        common = RunStatus(
            run=self.run_id.hex(),
            name=self.manifest.name,
            role="host" if self.is_host else "member",
            state=self._state,
            reason=self._reason,
            rounds_total=self.manifest.round.total,
            progress=self._fetched,
            link=self.link() or None,
        )
        return self._worker_status(common, self.worker) if self.worker else common

    def _stopped_by(self, error: TalkootError) -> RunStatus:
        """Return where the run stood when `error` stopped it here."""
        self.standings()  # the state goes with the worker
        reason = " ".join(filter(None, (f"{error.message}.", error.hint)))
        changes = {"state": "stopped", "reason": reason, "peers": 0, "samples_per_second": 0.0}
        return replace(self.status(), **changes)

    def _worker_status(self, common: RunStatus, worker: Worker) -> RunStatus:
        tally, state, standings = worker.tally, worker.state, self.standings()
        live = len(worker.machine.live.peers()) + 1
        run_state, reason = _describe(worker)
        me = self._node.identity.peer_id
        if banned := standings.why_banned(me):
            reason = f"this node is banned from the run: {banned}; see: talkoot evidence"
        changes = {
            "state": run_state,
            "reason": reason,
            "round": state.round if state else 0,
            "progress": tally.progress,
            "root": state.root.hex() if state else None,
            "loss": tally.loss,
            "samples_mine": tally.samples_mine,
            "samples_accepted": tally.samples_accepted,
            "samples_rejected": tally.samples_rejected,
            "samples_per_second": tally.samples_per_second,
            "peers": live,
            "probes": tally.probes,
            "bytes_said": tally.bytes_said,
            "bytes_heard": tally.bytes_heard,
            "last_round": self._last_round(worker),
            "warnings": _warnings(self.manifest, worker, live),
            "standing": standings.word(me) if state else None,
        }
        return replace(common, **changes)

    def _known_names(self, worker: Worker) -> dict[PeerId, str]:
        """Return what peers called themselves, those too that are not heard any more."""
        self._names[self._node.identity.peer_id] = self._node.name
        for peer, live in worker.machine.live.peers().items():
            self._names.pop(peer, None)
            self._names[peer] = live.presence.name
        while len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]
        return self._names

    def _last_round(self, worker: Worker) -> RoundReport | None:
        if not worker.tally.reports:
            return None
        names = self._known_names(worker)
        shares = tuple(
            PeerShare(
                id=peer,
                name=names.get(peer, ""),
                share=report.share,
                clipped=0 < report.share < 0.9 * report.expected,
                dropped=_is_dropped(report),
            )
            for peer, report in worker.tally.reports.items()
        )
        return RoundReport(round=worker.tally.reported_round, peers=shares)

    def peers(self) -> list[Peer]:
        """Return the peers of this run, this one among them."""
        if self.worker is None:
            return []
        worker, now = self.worker, asyncio.get_running_loop().time()
        self._known_names(worker)
        head = worker.machine.head
        me = Peer(
            id=self._node.identity.peer_id,
            name=self._node.name,
            run=self.run_id.hex(),
            me=True,
            round=head.round if head else None,
            root=head.root.hex() if head else None,
            state=worker.machine.phase.value,
            samples_per_second=worker.tally.samples_per_second,
            address="local",
            share=_share(worker, self._node.identity.peer_id),
        )
        others = [
            Peer(
                id=peer,
                name=live.presence.name,
                run=self.run_id.hex(),
                round=live.presence.round,
                root=live.presence.root.hex(),
                state=live.presence.state,
                samples_per_second=live.presence.samples_per_second,
                address=address_kind(live.presence.addresses),
                share=_share(worker, peer),
                dropped=_is_dropped(worker.tally.reports.get(peer)),
                last_seen_seconds=now - live.heard_at,
            )
            for peer, live in worker.machine.live.peers().items()
        ]
        standings = self.standings()
        seen = {peer.id for peer in (me, *others)}
        banned = [
            Peer(id=peer, name=self._names.get(peer, ""), run=self.run_id.hex())
            for peer in sorted(standings.banned() - seen)  # whose word is not heard any more
        ]
        return [standings.filled(peer) for peer in (me, *others, *banned)]


def _share(worker: Worker, peer: PeerId) -> float | None:
    report = worker.tally.reports.get(peer)
    return None if report is None else report.share


def _is_dropped(report: MemberReport | None) -> bool:
    """Whether an update that should have counted did not."""
    return report is not None and report.share == 0 and report.expected > 0


def _describe(worker: Worker) -> tuple[RunState, str]:
    if worker.finished:
        return "finished", "all planned rounds are done; the state stays available to others"
    phase, machine = worker.machine.phase, worker.machine
    if trouble := worker.tally.reason:
        return "catching_up" if phase is Phase.CATCHING_UP else "waiting", trouble
    if phase is Phase.JOINING and worker.state is None:
        return "waiting", "looking for peers that hold the run's state"
    needed, ready = machine.rules.min_peers, len(machine.commitments)
    if phase is Phase.COMMITTED and ready < needed:
        return "waiting", f"a round needs {needed} peers, and {ready} are ready"
    return _PHASES[phase]


_PHASES: dict[Phase, tuple[RunState, str]] = {
    Phase.JOINING: ("waiting", "listening for where the other peers stand"),
    Phase.CATCHING_UP: ("catching_up", "fetching the state that most peers agree on"),
    Phase.TRAINING: ("training", ""),
    Phase.COMMITTED: ("waiting", "for the other peers to finish the round"),
    Phase.EXCHANGING: ("exchanging", ""),
    Phase.AGREEING: ("exchanging", "comparing the new state with the other peers"),
}


def _warnings(manifest: Manifest, worker: Worker, live: int) -> tuple[str, ...]:
    found = []
    if live < FEWEST_FOR_TRUST:
        found.append(f"fewer than 4 live peers ({live}): no guarantee against a liar")
    if manifest.trust.rule == "mean":
        found.append("the rule is a plain mean: one liar can destroy the model")
    if worker.tally.missing:
        found.append(f"{worker.tally.missing} parts of the last round had no reducer")
    return tuple(found)


def _first(group: BaseExceptionGroup[TalkootError]) -> TalkootError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, TalkootError) else TalkootError(str(error))
