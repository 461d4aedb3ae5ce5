"""A node without network and training, behind the real control API and the real daemon's start.

As a program (`python -m tests.fake_node`) it is `python -m node` with another `node.app`; the
variable FAKE_NODE makes it fail at its start ("crash"), never serve ("hang"), or catch up for a
moment after joining ("slow").
"""

import asyncio
import os
import sys
from types import ModuleType
from typing import Literal

import msgspec

from node.__main__ import main
from node.api.activity import ActivityLog
from node.api.server import serve_api
from node.home.config import Config
from node.home.paths import Paths
from protocol.accounts import (
    CreditCount,
    EvidenceDetail,
    EvidenceItem,
    Fact,
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
    Peer,
    PeerShare,
    Preview,
    RoundReport,
    RunStatus,
    Status,
)
from protocol.errors import TalkootError
from protocol.identity import Identity, peer_id_of
from protocol.link import JoinLink
from protocol.machine import (
    Checkpoint,
    ConfigItem,
    ConfigPatch,
    ConfigView,
    Device,
    DiagnosticsRequest,
    Metric,
    Point,
    Series,
    Written,
)
from tests.fake_hosting import FakeHosting

RUN = "ab" * 32
OTHER_RUN = "cd" * 32
LINK = str(
    JoinLink(bytes.fromhex(RUN), "python", (f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id_of(bytes(32))}",))
)
HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]evil[/bold]\u202egpj\r\nerror: fake"

RUN_STATUS = RunStatus(
    run=RUN,
    name="python",
    role="member",
    state="training",
    reason="training until 50 steps are done",
    round=4,
    rounds_total=100,
    progress=0.5,
    root="12" * 32,
    loss=2.345,
    samples_mine=800,
    samples_accepted=640,
    samples_per_second=81.25,
    peers=3,
    last_round=RoundReport(round=3, peers=(PeerShare(id="12D3KooWPeer", share=0.5),)),
    warnings=("fewer than 4 live peers: no guarantee against liars",),
)
PREVIEW = Preview(
    run=RUN,
    name="python",
    description="A small model",
    licence="PSF-2.0",
    host="12D3KooWHost",
    task="text",
    method="local",
    parameters=840_000,
    download_bytes=11_000_000,
    data_bytes=4_000_000,
    peers=3,
    rule="clip",
    admission="open",
    what_others_see=("your PeerID", "your IP address"),
    trust=("each peer repeats another's work in 1 of 16 rounds",),
    fits=True,
)
PEER = Peer(
    id="12D3KooWPeer",
    name="amber-otter",
    run=RUN,
    round=4,
    state="training",
    share=0.25,
    reputation=0.914,
    standing="established",
    accepted_samples=640,
)
HISTORY = History(
    run=RUN,
    peer="12D3KooWMe",
    me=True,
    rounds=(
        RoundCredit(
            round=3,
            root="12" * 32,
            loss=2.5,
            seconds=8.25,
            members=3,
            at=1.7e9,
            samples=800,
            reason="accepted",
        ),
        RoundCredit(
            round=4,
            root="34" * 32,
            loss=None,
            seconds=9.0,
            members=2,
            at=1.7e9 + 60,
            samples=160,
            reason="too far from the others",
        ),
    ),
    credit=(
        CreditCount(reason="accepted", rounds=5, samples=4000),
        CreditCount(reason="too far from the others", rounds=1, samples=160),
    ),
)
EVIDENCE = EvidenceItem(
    root="5e" * 32,
    accused="12D3KooWLiar",
    accused_name="grey-fox",
    kind="FalseAggregate",
    lie="it returned an aggregate other than the one its inputs make",
    round=7,
    chunk=2,
    verdict="holds",
    verified_at=1.7e9,
)
DETAIL = EvidenceDetail(
    item=EVIDENCE, facts=(Fact(name="accuser", value="12D3KooWMe"),), sealed=b"\x00sealed\xff"
)
WHY = PeerDetail(
    run=RUN,
    peer=PEER,
    joined=1,
    parts=(StandingPart(name="reputation", value="0.91", sentence="good"),),
    credit=HISTORY.credit,
    evidence=(),
)
CONTRIBUTING = Contribution(mode="auto", state="contributing")
PAUSED = Contribution(
    mode="auto",
    state="paused",
    cause="battery",
    reason="on battery",
    ends="resumes on mains power",
)
CHECKPOINT = Checkpoint(
    id=f"{RUN}-4", run=RUN, name="python", round=4, size_bytes=6_800_000, saved_at=1.7e9
)
DEVICE = Device(id="cpu", name="A processor", chosen=True, memory=16 << 30, load=0.25)
SERIES = Series(
    metric="loss", unit="", points=(Point(at=1.7e9, value=2.5), Point(at=1.7e9 + 60, value=2.4))
)
CONFIG = ConfigView(
    path="/home/me/.config/talkoot/config.toml",
    items=(
        ConfigItem(
            key="contribute.cpu_threads", value=2, default=4, kind="int", about="Threads to use."
        ),
    ),
)


class FakeControls(FakeHosting):
    """Answers what it was given, and notes what it was asked."""

    def __init__(self, stop: asyncio.Event | None = None) -> None:
        super().__init__()
        self.asked: list[tuple[object, ...]] = []
        self.stop = stop or asyncio.Event()
        self.preview_answer = PREVIEW
        self.listed = PEER
        self.others: list[Peer] = []
        """Peers beside `listed`."""
        self.uptime = 61.0
        self.looked = asyncio.Event()
        """Set whenever the status is asked for."""
        self.activity = ActivityLog()
        self.contributing = CONTRIBUTING
        self.contribution_changed = asyncio.Event()
        self.checkpoint = CHECKPOINT
        self.may_replace = False
        """Whether the last export was allowed to replace a file."""
        self.config_view = CONFIG
        self.device = DEVICE
        self.series_answer = SERIES
        self.history_answer = HISTORY
        self.why = WHY
        self.evidence_answer = [EVIDENCE]
        self.detail = DETAIL
        self.known = [RUN_STATUS, msgspec.structs.replace(RUN_STATUS, run=OTHER_RUN, name="second")]
        self.joined = RUN_STATUS
        self.failure: Exception | None = None
        self.hold: asyncio.Event | None = None
        """While it isn't set, a preview takes; `reached` tells that one began."""
        self.reached = asyncio.Event()

    def status(self) -> Status:
        self.looked.set()
        self._ask("status")
        return Status(
            version="0.1.0",
            peer_id="12D3KooWMe",
            name="solar-eagle",
            pid=os.getpid(),
            uptime_seconds=self.uptime,
            api="http://127.0.0.1:7717",
            addresses=("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWMe",),
            network="online",
            runs=tuple(self.known),
            refused={"bad_signature": 2},
            contribution=self.contributing,
        )

    def runs(self) -> list[RunStatus]:
        return list(self.known)

    def peers(self, run: str | None) -> list[Peer]:
        self._ask("peers", run)
        return [self.listed, *self.others]

    def contribution(self) -> Contribution:
        return self.contributing

    async def contribute(self, wanted: ContributionRequest) -> Contribution:
        self._ask("contribute", wanted)
        paused = wanted.mode in {"never", "finish"}
        state: Literal["paused", "contributing"] = "paused" if paused else "contributing"
        self.set_contribution(Contribution(mode=wanted.mode, state=state))
        return self.contributing

    def set_contribution(self, contribution: Contribution) -> None:
        """Contribute or pause, as the governor would."""
        self.contributing = contribution
        self.contribution_changed.set()
        self.contribution_changed = asyncio.Event()

    async def contribution_after(self, known: Contribution) -> Contribution:
        while self.contributing == known:
            await self.contribution_changed.wait()
        return self.contributing

    async def series(self, metric: Metric, run: str | None, since: float, points: int) -> Series:
        self._ask("series", metric, run, since, points)
        return self.series_answer

    async def checkpoints(self) -> list[Checkpoint]:
        self._ask("checkpoints")
        return [self.checkpoint]

    async def export_checkpoint(self, checkpoint: str, wanted: ExportRequest) -> Exported:
        self._ask("export_checkpoint", checkpoint, wanted.path)
        return Exported(run=RUN, path=wanted.path, round=4, root="12" * 32, size_bytes=3_400_000)

    async def config(self) -> ConfigView:
        self._ask("config")
        return self.config_view

    async def set_config(self, patch: ConfigPatch) -> ConfigView:
        self._ask("set_config", patch.set)
        items = tuple(
            msgspec.structs.replace(item, value=patch.set.get(item.key, item.value))
            for item in self.config_view.items
        )
        self.config_view = msgspec.structs.replace(self.config_view, items=items)
        return self.config_view

    async def devices(self) -> list[Device]:
        self._ask("devices")
        return [self.device]

    async def diagnostics(self, wanted: DiagnosticsRequest) -> Written:
        self._ask("diagnostics", wanted.path)
        return Written(path=wanted.path, size_bytes=12_345)

    async def history(self, run: str, peer: str | None, since: int, limit: int) -> History:
        self._ask("history", run, peer, since, limit)
        return self.history_answer

    async def peer(self, run: str, peer: str) -> PeerDetail:
        self._ask("peer", run, peer)
        return self.why

    async def evidence(self, run: str) -> list[EvidenceItem]:
        self._ask("evidence", run)
        return self.evidence_answer

    async def evidence_detail(self, run: str, root: str) -> EvidenceDetail:
        self._ask("evidence", run, root)
        return self.detail

    async def preview(self, link: str) -> Preview:
        self._ask("preview", link)
        self.reached.set()
        if self.hold is not None:
            await self.hold.wait()
        return self.preview_answer

    async def join(self, link: str) -> RunStatus:
        self._ask("join", link)
        return self.joined

    async def host(self, spec: HostSpec) -> RunStatus:
        self._ask("host", spec)
        link = LINK if spec.admission == "open" else None
        return msgspec.structs.replace(
            RUN_STATUS, role="host", name=spec.name, link=link, admission=spec.admission
        )

    async def leave(self, run: str) -> None:
        self._ask("leave", run)

    async def export(self, run: str, wanted: ExportRequest) -> Exported:
        self._ask("export", run, wanted.path)
        self.may_replace = wanted.replace
        return Exported(run=run, path=wanted.path, round=4, root="12" * 32, size_bytes=3_400_000)

    def logs(self, lines: int) -> list[str]:
        self._ask("logs", lines)
        return ["one", "two"][-lines:]

    def request_shutdown(self) -> None:
        self._ask("shutdown")
        self.stop.set()

    def _ask(self, *call: object) -> None:
        self.asked.append(call)
        if self.failure is not None:
            raise self.failure


class FakeStartError(TalkootError):
    code = "fake"


async def run(
    config: Config, paths: Paths, identity: Identity, stop: asyncio.Event, worker: object = None
) -> None:
    """Stand in for `node.app.run`."""
    if os.environ.get("FAKE_NODE") == "crash":
        raise ExceptionGroup("tasks", [FakeStartError("the fake has no network", hint="No hint.")])
    if os.environ.get("FAKE_NODE") == "hang":
        await stop.wait()
        return
    controls = FakeControls(stop)
    if os.environ.get("FAKE_NODE") == "slow":
        controls.joined = msgspec.structs.replace(
            RUN_STATUS, state="catching_up", reason="downloading the data", progress=0.25
        )
    async with serve_api(controls, paths, config.node.api):
        await stop.wait()


if __name__ == "__main__":
    app = ModuleType("node.app")
    app.run = run  # type: ignore[attr-defined]
    sys.modules["node.app"] = app
    sys.exit(main())
