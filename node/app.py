"""The node: wires network, runs and control API together and owns every task.

    run ── LastingSwarm ── API ── one Session a run ── Worker, TrainerProcess

A network process that dies or hangs is replaced under all of them. The end comes in this order: the
API stops answering, the sessions say goodbye and end their trainers, the network goes last.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from dht.door import Door
from dht.fence.refusals import Refusals
from dht.hivemind_swarm import HivemindSwarm
from dht.lasting_swarm import LastingSwarm
from dht.swarm import Swarm
from node.api.exports import write_model
from node.api.machine import MachineControls
from node.api.series import series_of
from node.api.server import serve_api
from node.home.config import Config
from node.home.config_source import ConfigSource
from node.home.listen import lasting_addresses
from node.home.names import friendly_name
from node.home.paths import Paths
from node.home.version import VERSION
from node.machine import Machine, machine_of
from node.members.admission import Reception
from node.members.affairs import Doors
from node.members.controls import HostingControls
from node.members.redeem import OpenedLink, keep, known_manifest, may_take_part, open_link
from node.run.finish import watch_finish
from node.run.host import found_run, remove_drafts
from node.run.node_setting import NodeSetting
from node.run.preview import Seen, preview_of, seen_of
from node.run.recorder import Recorder
from node.run.room import room_beside
from node.run.session import Session
from node.run.shown import network_now
from node.run.workers import WorkerOf, worker_of
from node.store.run_folder import LEFT, RunFolder
from node.store.storage import StateError, telling
from protocol.accounts import EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.control import (
    Exported,
    ExportRequest,
    HostSpec,
    MemoryUse,
    Peer,
    Preview,
    RunStatus,
    Status,
)
from protocol.errors import TalkootError
from protocol.identity import Identity
from protocol.link import parse_link
from protocol.machine import Metric, Series
from protocol.manifest import open_manifest

log = logging.getLogger(__name__)

SESSION_END_SECONDS = 10.0
MOST_DISCOURAGED = 16
"""To be shown at once."""


async def run(
    config: Config,
    paths: Paths,
    identity: Identity,
    stop: asyncio.Event,
    workers: WorkerOf = worker_of,
    swarm_kind: type[HivemindSwarm] = HivemindSwarm,
) -> None:
    """Run the node until `stop` is set.

    Args:
        config: the configuration.
        paths: the home, made and locked by the caller.
        identity: this peer.
        stop: ends the node, in order.
        workers: what takes part in runs: a liar, in a demonstration.
        swarm_kind: the network: one that loses messages, in a test.

    Raises:
        TalkootError: the network or the API can't be started.
    """
    listen = lasting_addresses(config.node.listen, paths.ports)
    async with machine_of(ConfigSource(paths.config_file, config), paths) as machine:
        refusals = Refusals()

        def network() -> HivemindSwarm:
            return swarm_kind(
                identity,
                paths.identity,
                listen=listen,
                announce=config.node.announce,
                client_mode=config.network.client_mode,
                serve_relay=config.network.relay,
                budget=machine.budget,
                refusals=refusals,
            )

        async with LastingSwarm(network) as swarm:
            node = Node(machine, paths, identity, swarm, stop, workers)
            node.addresses = tuple(await swarm.addresses())
            await _run(node, paths, config.node.api, stop)


async def _run(node: "Node", paths: Paths, api: str | None, stop: asyncio.Event) -> None:
    async with node.receiving(), asyncio.TaskGroup() as tasks:
        node.start_sessions(tasks)
        await node.look_back()
        works = [
            tasks.create_task(node.recorder.run(), name="recorder"),
            tasks.create_task(node.finish_rounds(), name="finish rounds"),
        ]
        async with serve_api(node, paths, api) as url:
            node.api_url = url
            await stop.wait()
        await node.end_sessions()
        for work in works:
            work.cancel()


class Node(MachineControls, HostingControls):
    """The running node, as the control API sees it (node.api.controls.Controls)."""

    def __init__(
        self,
        machine: Machine,
        paths: Paths,
        identity: Identity,
        swarm: Swarm,
        stop: asyncio.Event,
        workers: WorkerOf = worker_of,
    ) -> None:
        super().__init__(paths, machine)
        self.api_url = ""
        self.addresses: tuple[str, ...] = ()
        config = machine.source.config
        self.doors = Doors(Door(swarm))
        self._identity = identity
        self._swarm = swarm
        self._stop = stop
        self._started_at = time.monotonic()
        self._setting = NodeSetting(
            swarm=swarm,
            doors=self.doors,
            identity=identity,
            name=config.node.name or friendly_name(identity.peer_id),
            disk=machine.disk,
            permit=machine.permit,
            attendance=machine.attendance,
            device=machine.device,
            reduces=not config.network.client_mode,
            max_state_bytes=config.storage.max_bytes,
            worker_of=workers,
            on_joined=lambda run, peer: self.note_joined(self.session(run.hex()), peer),
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._sessions: dict[str, Session] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.recorder = Recorder(
            lambda: [(each.since_start(), each.ledger) for each in self._sessions.values()],
            lambda: swarm.traffic,
        )

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Let in, while the context lasts, members of private runs and who shows an invite."""
        async with self.doors.door, Reception(self._swarm, self.doors.admitters):
            yield

    async def finish_rounds(self) -> None:
        """Tell the governor when the rounds that are to be finished are over, for ever."""
        await watch_finish(self._machine.governor, self._rounds_in_progress)

    def _rounds_in_progress(self) -> set[tuple[str, int]]:
        found = ((name, session.training_round) for name, session in self._sessions.items())
        return {(name, round_) for name, round_ in found if round_ is not None}

    # sessions

    def start_sessions(self, tasks: asyncio.TaskGroup) -> None:
        """Take up the runs on disk that this node has not left."""
        self._tasks = tasks
        remove_drafts(self._paths.runs)
        for path in sorted(self._paths.runs.iterdir()):
            if path.name.startswith(".") or (path / LEFT).exists():
                continue
            try:
                with self.activity.telling_of_updates():
                    self._start(self._folder(path))
            except (TalkootError, OSError, ValueError) as error:
                log.error("the run in %s is left out: %s", path, error)  # noqa: TRY400

    async def look_back(self) -> None:
        """Wait until all runs know what this node gave to them before."""
        for session in self._sessions.values():
            await session.looked_back.wait()

    async def end_sessions(self) -> None:
        """Cancel all sessions and wait for them, for a limited time."""
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=SESSION_END_SECONDS)

    def _folder(self, path: Path) -> RunFolder:
        return RunFolder(
            path,
            bytes.fromhex(path.name),
            self._machine.disk,
            keep_last=self._machine.source.config.storage.keep_checkpoints,
        )

    def _start(
        self, folder: RunFolder, peers: Sequence[str] = (), *, fresh: bool = False
    ) -> Session:
        session = Session(self._setting, folder, peers, fresh=fresh)
        self._begin(session)
        return session

    def _begin(self, session: Session) -> None:
        if self._tasks is None:
            raise RuntimeError("the node does not run")
        name = session.run_id.hex()
        self._sessions[name] = session
        self._running[name] = self._tasks.create_task(session.run(), name=f"run {name[:8]}")

    # what the control API asks

    def session(self, run: str) -> Session:
        """Return the session of a run."""
        return self._sessions[run]

    def status(self) -> Status:
        """Return the node as a whole."""
        runs = self.runs()
        network, reason = network_now(self._swarm, runs)
        return Status(
            version=VERSION,
            peer_id=self._identity.peer_id,
            name=self._setting.name,
            pid=os.getpid(),
            uptime_seconds=time.monotonic() - self._started_at,
            api=self.api_url,
            addresses=self.addresses,
            network=network,
            network_reason=reason,
            runs=tuple(runs),
            refused=dict(self._swarm.refused),
            discouraged=self._swarm.discouraged[-MOST_DISCOURAGED:],
            clock_offset_seconds=self._swarm.clock_offset,
            contribution=self.contribution(),
            traffic=self._machine.traffic,
            memory=self._memory(),
        )

    def _memory(self) -> MemoryUse | None:
        uses = [use for session in self._sessions.values() if (use := session.memory)]
        return replace(uses[0], used=sum(use.used for use in uses)) if uses else None

    def runs(self) -> list[RunStatus]:
        """Return the runs of this node."""
        return [session.status() for session in self._sessions.values()]

    def peers(self, run: str | None) -> list[Peer]:
        """Return the peers of one run, or of all."""
        return [
            peer
            for name, session in self._sessions.items()
            if run in (None, name)
            for peer in session.peers()
        ]

    async def history(self, run: str, peer: str | None, since: int, limit: int) -> History:
        """Return the newest rounds, with the credit of a peer."""
        return await self._sessions[run].accounts().history(peer, since, limit)

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        """Return a figure over time, of one run or summed over all."""
        chosen = self._sessions.values() if run is None else [self._sessions[run]]
        ledgers = [session.ledger for session in chosen]
        return await series_of(ledgers, metric, since, points, time.time())

    async def peer(self, run: str, peer: str) -> PeerDetail:
        """Return why a peer stands as it does."""
        return await self._sessions[run].accounts().peer(peer)

    async def evidence(self, run: str) -> list[EvidenceItem]:
        """Return the evidence that this node keeps."""
        return await self._sessions[run].accounts().evidence()

    async def evidence_detail(self, run: str, root: str) -> EvidenceDetail:
        """Return what one piece of evidence says."""
        return await self._sessions[run].accounts().evidence_detail(root)

    async def preview(self, link: str) -> Preview:
        """Fetch and check the manifest behind a link; nothing starts."""
        with self.activity.telling_of_updates():
            found = await self._open(link, enter=False)
        _, manifest = open_manifest(found.manifest, found.link.run)
        if manifest.admission == "open":
            seen = await seen_of(self._swarm, found.link.run)
        else:
            seen = Seen(*found.seen)
        config, runs = self._machine.source.config, self._paths.runs
        room = await asyncio.to_thread(room_beside, runs, found.link.run, config.storage)
        return await preview_of(manifest, seen, config, room)

    async def join(self, link: str) -> RunStatus:
        """Start to take part in the run behind a link."""
        with self.activity.telling_of_updates():
            found = await self._open(link, enter=True)
        run = found.link.run
        folder = self._folder(self._paths.runs / run.hex())
        await asyncio.to_thread(folder.create)
        await asyncio.to_thread(folder.save_manifest, found.manifest)
        with telling(folder.path, 0):
            (folder.path / LEFT).unlink(missing_ok=True)
        await self._end_of_leaving(run.hex())
        if session := self._running_session(run.hex()):
            session.note_peers(found.link.peers)
        else:
            session = Session(self._setting, folder, found.link.peers)
        if found.admission:
            await keep(session.affairs.members, found.admission)
        if self._sessions.get(run.hex()) is not session:
            self._begin(session)
            await session.looked_back.wait()
        return session.status()

    def _running_session(self, run: str) -> Session | None:
        task = self._running.get(run)
        return None if task is None or task.done() else self._sessions.get(run)

    async def _end_of_leaving(self, run: str) -> None:
        """Wait until a run that is being left has ended, for a limited time."""
        if run in self._running and run not in self._sessions:
            await asyncio.wait([self._running[run]], timeout=SESSION_END_SECONDS)

    async def _open(self, text: str, *, enter: bool) -> OpenedLink:
        link = parse_link(text, self._swarm.time())
        folder = self._folder(self._paths.runs / link.run.hex())
        known = await asyncio.to_thread(known_manifest, folder, link.run)
        belongs = known is not None and await self._belongs(folder)
        return await open_link(self._swarm, link, known, belongs=belongs, enter=enter)

    async def _belongs(self, folder: RunFolder) -> bool:
        """Return whether this node needs no invite any more."""
        running = self._running_session(folder.path.name)
        members = (running or Session(self._setting, folder)).affairs.members
        return await may_take_part(members, load=running is None)

    async def host(self, spec: HostSpec) -> RunStatus:
        """Sign a manifest and start its run."""
        path = await found_run(
            spec,
            self._identity,
            self._swarm.time(),
            self._paths.runs,
            self._machine.disk,
            self._setting.permit.resources,
        )
        session = self._start(self._folder(path), fresh=True)
        await session.serving.wait()
        if session.failure:
            raise session.failure
        return session.status()

    async def leave(self, run: str) -> None:
        """Stop taking part; what is on disk stays."""
        folder = self._sessions[run].folder.path
        with telling(folder, 0):
            (folder / LEFT).touch()
        del self._sessions[run]
        self._running[run].cancel()
        await self._end_of_leaving(run)

    async def export(self, run: str, wanted: ExportRequest) -> Exported:
        """Write the run's agreed model as safetensors."""
        session = self._sessions[run]
        state = session.state or await asyncio.to_thread(session.folder.checkpoints.load_newest)
        if state is None:
            raise StateError(
                "there is no agreed state of this run here yet", hint="Wait until it has trained."
            )
        return await asyncio.to_thread(
            write_model, state, wanted.path, self._machine.disk, replace=wanted.replace
        )

    def request_shutdown(self) -> None:
        """Begin the node's ordered end."""
        self._stop.set()
