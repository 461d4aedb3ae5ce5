"""The node: wires network, runs and control API together and owns every task.

    run ── LastingSwarm ── API ── one Session a run ── Worker, TrainerProcess

A network process that dies or hangs is replaced under all of them. The end comes in this order: the
API stops answering, the sessions say goodbye and end their trainers, the network goes last.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from dht.clocks import skew_trouble
from dht.hivemind_swarm import HivemindSwarm
from dht.lasting_swarm import LastingSwarm
from dht.swarm import NetworkError, Swarm
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
from node.run.host import found_run, remove_drafts
from node.run.preview import preview_of
from node.run.recorder import Recorder
from node.run.room import room_beside
from node.run.session import NodeSetting, Session
from node.run.workers import WorkerOf, worker_of
from node.store.run_folder import LEFT, RunFolder
from node.store.storage import StateError, telling
from node.transfer.sources import Sources
from node.transfer.transfer import fetch_manifest
from protocol.accounts import EvidenceDetail, EvidenceItem, History, PeerDetail
from protocol.control import (
    Exported,
    ExportRequest,
    HostSpec,
    MemoryUse,
    NetworkState,
    Peer,
    Preview,
    RunStatus,
    Status,
)
from protocol.errors import ManifestError, TalkootError
from protocol.identity import Identity
from protocol.link import JoinLink, parse_link
from protocol.machine import Metric, Series
from protocol.manifest import open_manifest

log = logging.getLogger(__name__)

SESSION_END_SECONDS = 10.0
_FINISH_POLL_SECONDS = 0.2


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

        def network() -> HivemindSwarm:
            return swarm_kind(
                identity,
                paths.identity,
                listen=listen,
                announce=config.node.announce,
                client_mode=config.network.client_mode,
                budget=machine.budget,
            )

        async with LastingSwarm(network) as swarm:
            node = Node(machine, paths, identity, swarm, stop, workers)
            node.addresses = tuple(await swarm.addresses())
            await _run(node, paths, config.node.api, stop)


async def _run(node: "Node", paths: Paths, api: str | None, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        node.start_sessions(tasks)
        await node.look_back()
        works = [
            tasks.create_task(node.record(), name="recorder"),
            tasks.create_task(node.finish_rounds(), name="finish rounds"),
        ]
        async with serve_api(node, paths, api) as url:
            node.api_url = url
            await stop.wait()
        await node.end_sessions()
        for work in works:
            work.cancel()


class Node(MachineControls):
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
        self._identity = identity
        self._swarm = swarm
        self._stop = stop
        self._started_at = time.monotonic()
        self._setting = NodeSetting(
            swarm=swarm,
            identity=identity,
            name=config.node.name or friendly_name(identity.peer_id),
            disk=machine.disk,
            permit=machine.permit,
            attendance=machine.attendance,
            device=machine.device,
            reduces=not config.network.client_mode,
            max_state_bytes=config.storage.max_bytes,
            worker_of=workers,
            refused=Counter(),
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._sessions: dict[str, Session] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._recorder = Recorder(
            lambda: [(each.since_start(), each.ledger) for each in self._sessions.values()],
            lambda: swarm.traffic,
        )

    async def record(self) -> None:
        """Keep figures over time, for ever."""
        await self._recorder.run()

    async def finish_rounds(self) -> None:
        """Tell the governor when the rounds that are to be finished are over, for ever."""
        governor = self._machine.governor
        while True:
            while governor.contribution.state != "finishing":
                await governor.changed(governor.contribution)
            begun = self._rounds_in_progress()
            while begun & self._rounds_in_progress() and governor.contribution.state == "finishing":  # noqa: ASYNC110
                await asyncio.sleep(_FINISH_POLL_SECONDS)
            governor.note_round_over()

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
        if self._tasks is None:
            raise RuntimeError("the node does not run")
        session = Session(self._setting, folder, peers, fresh=fresh)
        name = session.run_id.hex()
        self._sessions[name] = session
        self._running[name] = self._tasks.create_task(session.run(), name=f"run {name[:8]}")
        return session

    # what the control API asks

    def status(self) -> Status:
        """Return the node as a whole."""
        runs = self.runs()
        network, reason = self._network_now(runs)
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
            refused=dict(self._setting.refused + self._swarm.refused),
            clock_offset_seconds=self._swarm.clock_offset,
            contribution=self.contribution(),
            traffic=self._machine.traffic,
            memory=self._memory(),
        )

    def _network_now(self, runs: Sequence[RunStatus]) -> tuple[NetworkState, str]:
        if trouble := self._swarm.trouble:
            return "offline", trouble
        skew = skew_trouble(self._swarm.clock_offset)
        if any(run.peers > 1 for run in runs):
            return "online", skew
        return "alone", skew or "no other peer of a run has been heard of"

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
            parsed, envelope = await self._manifest_behind(link)
        _, manifest = open_manifest(envelope, parsed.run)
        config, runs = self._machine.source.config, self._paths.runs
        room = await asyncio.to_thread(room_beside, runs, parsed.run, config.storage)
        return await preview_of(self._swarm, parsed, manifest, config, room)

    async def join(self, link: str) -> RunStatus:
        """Start to take part in the run behind a link."""
        with self.activity.telling_of_updates():
            parsed, envelope = await self._manifest_behind(link)
        folder = self._folder(self._paths.runs / parsed.run.hex())
        await asyncio.to_thread(folder.create)
        await asyncio.to_thread(folder.save_manifest, envelope)
        with telling(folder.path, 0):
            (folder.path / LEFT).unlink(missing_ok=True)
        await self._end_of_leaving(parsed.run.hex())
        if session := self._running_session(parsed.run.hex()):
            session.note_peers(parsed.peers)
        else:
            session = self._start(folder, peers=parsed.peers)
            await session.looked_back.wait()
        return session.status()

    def _running_session(self, run: str) -> Session | None:
        task = self._running.get(run)
        return None if task is None or task.done() else self._sessions.get(run)

    async def _end_of_leaving(self, run: str) -> None:
        """Wait until a run that is being left has ended, for a limited time."""
        if run in self._running and run not in self._sessions:
            await asyncio.wait([self._running[run]], timeout=SESSION_END_SECONDS)

    async def _manifest_behind(self, text: str) -> tuple[JoinLink, bytes]:
        link = parse_link(text, self._swarm.time())
        peers = await self._swarm.connect(link.peers)
        if known := await asyncio.to_thread(self._known_manifest, link.run):
            return link, known
        if not peers:
            raise NetworkError(
                f"none of the link's {len(link.peers)} peers answers",
                hint="They may be offline, or behind a firewall. Ask for a fresh link.",
            )
        return link, await fetch_manifest(Sources(self._swarm, link.run, peers))

    def _known_manifest(self, run: bytes) -> bytes | None:
        """Return the manifest on disk, of a run that this node founded, joined or left."""
        try:
            envelope = self._folder(self._paths.runs / run.hex()).manifest()
            if envelope is not None:
                open_manifest(envelope, run)
        except (StateError, ManifestError) as error:
            log.info("the manifest of %s is fetched anew: %s", run.hex()[:12], error)
            return None
        return envelope

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
