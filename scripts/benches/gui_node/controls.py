"""Answers for a node that isn't there; contribution and configuration behave as in a real one."""

import asyncio
import os
import time
from pathlib import Path

from msgspec.structs import replace

from benches.gui_node.hosting import FriendsRun, block
from benches.gui_node.swarm import HOST, RUN, Crowd, run_status, series
from node.api.activity import ActivityLog
from node.home.config_source import ConfigSource
from protocol.accounts import (
    CreditCount,
    EvidenceDetail,
    EvidenceItem,
    History,
    PeerDetail,
    RoundCredit,
    StandingPart,
)
from protocol.control import (
    Contribution,
    ContributionRequest,
    Exported,
    ExportRequest,
    HostSpec,
    MemoryUse,
    Peer,
    Preview,
    RunStatus,
    Status,
    Traffic,
)
from protocol.errors import NotHostError
from protocol.hosting import Invite, InviteRequest, Member, RunChange
from protocol.machine import (
    Activity,
    Checkpoint,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Metric,
    Series,
    Written,
)
from protocol.references import NoSuchEvidenceError, NoSuchPeerError

_PARTS = (
    StandingPart(name="distance", value="1.04", sentence="its updates lie as usual"),
    StandingPart(name="noise", value="0.97", sentence="as little as its samples promise"),
    StandingPart(name="audits", value="14 of 14", sentence="passed"),
    StandingPart(name="punctuality", value="0.88", sentence="now and then it comes late"),
)
_CREDIT = (
    CreditCount(reason="accepted", rounds=1721, samples=38_912),
    CreditCount(reason="nothing usable arrived", rounds=9, samples=480),
    CreditCount(reason="too far from the others", rounds=2, samples=160),
    CreditCount(reason="on probation", rounds=50, samples=1_698),
)
_GB = 1 << 30


class CrowdControls:
    """Implements `node.api.controls.Controls`."""

    def __init__(
        self, config_file: Path, peers: int, *, runs: bool = True, private: bool = False
    ) -> None:
        self.activity = ActivityLog()
        self.stop = asyncio.Event()
        self._crowd = Crowd(peers)
        self._count = peers
        self._config = ConfigSource(config_file)
        self._began = time.time()
        self._has_run = runs
        self._friends = FriendsRun() if private else None
        self._held = False
        self._contribution = Contribution(mode="auto", state="contributing")
        self._contribution_changed = asyncio.Event()

    def status(self) -> Status:
        seconds = time.time() - self._began
        paused = self._contribution.state == "paused"
        return Status(
            version="0.1.0",
            peer_id="12D3KooWMe",
            name="amber-otter",
            pid=os.getpid(),
            uptime_seconds=seconds,
            api="http://127.0.0.1:7717",
            network="online",
            runs=tuple(self.runs()),
            contribution=self._contribution,
            traffic=Traffic(
                up=9 * _GB,
                down=12 * _GB,
                up_per_second=1.38e6 + 1e4 * (seconds % 7),
                down_per_second=1.9e6 + 1e4 * (seconds % 5),
                month=21 * _GB,
                month_limit=100 * 10**9,
            ),
            memory=MemoryUse(device="cuda:0", used=0 if paused else 5_100_000_000, limit=8 * 10**9),
        )

    def runs(self) -> list[RunStatus]:
        seconds = time.time() - self._began
        if not self._has_run:
            return []
        run = run_status(self._count, seconds)
        return [run if self._friends is None else self._private(run)]

    def _private(self, run: RunStatus) -> RunStatus:
        return replace(
            run,
            name="letters-to-grandma",
            role="host",
            admission="invite",
            link=None,
            host_paused=self._held,
        )

    def peers(self, run: str | None) -> list[Peer]:
        return self._crowd.now() if self._has_run else []

    def contribution(self) -> Contribution:
        return self._contribution

    async def contribute(self, wanted: ContributionRequest) -> Contribution:
        until = None if wanted.for_s is None else time.time() + wanted.for_s
        if wanted.mode in {"never", "finish"}:
            self.set_contribution(
                Contribution(
                    mode=wanted.mode,
                    mode_until=until,
                    state="paused",
                    cause="asked",
                    reason="by you",
                    ends="resumes when you say so" if until is None else "resumes by itself",
                    until=until,
                )
            )
            self._say("contribution", "Paused by you")
        else:
            self.set_contribution(
                Contribution(mode=wanted.mode, mode_until=until, state="contributing")
            )
            self._say("contribution", "Contributing again")
        return self._contribution

    def set_contribution(self, contribution: Contribution) -> None:
        self._contribution = contribution
        self._contribution_changed.set()
        self._contribution_changed = asyncio.Event()

    async def contribution_after(self, known: Contribution) -> Contribution:
        while self._contribution == known:
            await self._contribution_changed.wait()
        return self._contribution

    async def live(self) -> None:
        """Finish a round now and then."""
        self._say("run", "Joined tiny-stories-110m through 3 peers")
        self._say("run", "GPU: RTX 4070 Laptop, 8.0 GB; using at most 6.4 GB")
        self._say("trouble", "Not reachable from the internet: others reach this node by a relay")
        number = run_status(1, 0).round
        while True:
            self._say("round", f"Round {number} averaged with 38 peers in 1.7 s")
            number += 1
            await asyncio.sleep(10)

    def _say(self, kind: str, text: str) -> None:
        self.activity.add(Activity(at=time.time(), kind=kind, text=text, run=RUN))  # type: ignore[arg-type]

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        return series(metric, since, time.time())

    async def history(self, run: str, peer: str | None, since: int, limit: int) -> History:
        first = run_status(1, 0).round - 20
        rounds = tuple(
            RoundCredit(
                round=first + number,
                root="12" * 32,
                loss=2.1,
                seconds=19.5,
                members=38,
                at=self._began - 20 * (20 - number),
                samples=23,
                reason="accepted",
            )
            for number in range(20)
        )
        return History(run=run, peer="12D3KooWMe", me=True, rounds=rounds, credit=_CREDIT)

    async def peer(self, run: str, peer: str) -> PeerDetail:
        found = next((each for each in self._crowd.now() if each.id == peer), None)
        if found is None:
            raise NoSuchPeerError("no peer of this run is called that")
        score = StandingPart(
            name="reputation",
            value=f"{found.reputation:.2f}",
            sentence="its work counts in full from 0.33 on",
        )
        return PeerDetail(
            run=run, peer=found, joined=12, parts=(score, *_PARTS), credit=_CREDIT[:2], evidence=()
        )

    async def evidence(self, run: str) -> list[EvidenceItem]:
        return []

    async def evidence_detail(self, run: str, root: str) -> EvidenceDetail:
        raise NoSuchEvidenceError("there is no evidence here")

    async def preview(self, link: str) -> Preview:
        return Preview(
            run=RUN,
            name="tiny-stories-110m",
            description="A model that tells short stories in simple words, for teaching material.",
            licence="CC-BY-4.0 for the data and the model",
            host=HOST,
            task="text",
            method="local",
            parameters=109_529_856,
            download_bytes=1_270_000_000,
            data_bytes=393_000_000,
            peers=self._count,
            rule="clip",
            admission="open",
            what_others_see=(
                "your network address",
                "your node's name and PeerID, and what it trains on",
                "how much you train, your updates to the model, and the reputation they earn you",
            ),
            trust=(
                "work is audited: in about 1 of 16 rounds an established peer repeats another's "
                "and compares",
                "newcomers are on probation: their work counts only after 50 rounds of work and "
                "3 passed audits",
                "who is proved a liar is banned for good",
            ),
            fits=True,
        )

    async def join(self, link: str) -> RunStatus:
        self._has_run = True
        return self.runs()[0]

    async def host(self, spec: HostSpec) -> RunStatus:
        return await self.join("")

    async def change_run(self, run: str, change: RunChange) -> RunStatus:
        self._held = change.paused
        return self.runs()[0]

    def _hosted(self, what: str) -> FriendsRun:
        if self._friends is None:
            raise NotHostError(what)
        return self._friends

    async def create_invite(self, run: str, wanted: InviteRequest) -> Invite:
        return self._hosted("make invites").create(wanted)

    async def invites(self, run: str) -> list[Invite]:
        return self._hosted("see its invites").invites

    async def revoke_invite(self, run: str, invite: str) -> Invite:
        return self._hosted("revoke invites").revoke(invite)

    async def members(self, run: str) -> list[Member]:
        return self._friends.members if self._friends else []

    async def ban(self, run: str, peer: str) -> Member:
        return self._hosted("ban a peer").ban(peer, banned=True)

    async def unban(self, run: str, peer: str) -> Member:
        return self._hosted("unban a peer").ban(peer, banned=False)

    async def block(self, run: str, peer: str) -> Peer:
        return block(self._crowd.now(), peer, blocked=True)

    async def unblock(self, run: str, peer: str) -> Peer:
        return block(self._crowd.now(), peer, blocked=False)

    async def leave(self, run: str) -> None:
        self._has_run = False

    async def export(self, run: str, wanted: ExportRequest) -> Exported:
        return Exported(run=run, path=wanted.path, round=1845, root="12" * 32, size_bytes=0)

    async def checkpoints(self) -> list[Checkpoint]:
        return []

    async def export_checkpoint(self, checkpoint: str, wanted: ExportRequest) -> Exported:
        return await self.export(RUN, wanted)

    async def config(self) -> ConfigView:
        self._config.refresh()
        return replace(self._config.view, path="/home/you/.config/talkoot/config.toml")

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        await self._config.change(patch.set)
        return self._config.view

    async def devices(self) -> list[Device]:
        return [Device(id="cuda:0", name="RTX 4070 Laptop", chosen=True, memory=8 * 10**9)]

    async def diagnostics(self, wanted: DiagnosticsRequest) -> Written:
        return Written(path=wanted.path, size_bytes=0)

    def logs(self, lines: int) -> list[str]:
        return [
            f"2026-11-23 17:12:{n % 60:02d} INFO node.run round {1800 + n} agreed"
            for n in range(40)
        ]

    def request_shutdown(self) -> None:
        self.stop.set()
