"""The control API's vocabulary: what the node tells the command line and the window, as JSON.

Requests come from programs of this user and refuse unknown fields; replies may grow fields, so that
an older window still reads a newer node. Text in replies may be a stranger's choice (names,
descriptions, reasons): `printable` makes it safe to show.
"""

import unicodedata
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.manifest import Admission, MethodSpec, RoundSpec, Settings, Text, TrustSpec
from protocol.signing import PeerIdField

API_PREFIX = "/v1"
API_HOST, API_PORT = "127.0.0.1", 7717
"""Where the node serves the API unless the configuration says otherwise."""

Role = Literal["host", "member"]
RunState = Literal[
    "starting",
    "catching_up",
    "training",
    "exchanging",
    "waiting",
    "paused",
    "finished",
    "stopped",
]
NetworkState = Literal["starting", "online", "alone", "offline"]
AddressKind = Literal["direct", "relayed", "local", "unknown"]
PeerStanding = Literal["established", "probation", "suspended", "banned", "new"]
Mode = Literal["always", "auto", "never", "finish"]
"""always: whatever the limits say but heat and a full disk; auto: within the limits; never: paused;
finish: as before until the round in progress is over, then never."""

PauseCause = Literal[
    "asked",
    "finished",
    "battery",
    "in_use",
    "schedule",
    "temperature",
    "disk",
    "volume",
    "metered",
]

MOST_SHARES = 64
"""In the report of a round within a status; `Peer` tells of everybody."""
LONGEST_FOR_S = 31 * 86_400.0


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what clients send."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the node answers."""


class NodeFile(Reply, frozen=True, kw_only=True):
    """`node.json` in the state folder: where clients find a running node."""

    url: str
    pid: int
    token_path: str
    """Of the token that permits everything."""
    read_token_path: str = ""
    """Of the token that permits to read."""


class Failure(Reply, frozen=True, kw_only=True):
    """Every answer that is not a success."""

    code: str
    message: str
    hint: str = ""


class Health(Reply, frozen=True, kw_only=True):
    """The answer of /healthz, the only one that needs no token."""

    version: str
    pid: int


class LinkRequest(Request, frozen=True, kw_only=True):
    """A join link to preview or to join."""

    link: Annotated[str, Meta(min_length=1, max_length=16_384)]


class ExportRequest(Request, frozen=True, kw_only=True):
    """Where to write a run's model: an absolute path on this machine."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    replace: bool = False
    """Whether to replace a file that is there already, instead of refusing."""


class TaskSource(Request, frozen=True, kw_only=True):
    """What a host wants trained: an installed task kind, its settings, and its data."""

    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
    data: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    """A file or folder (absolute once it reaches the node); none = the task's own default."""
    config: Settings = {}


class HostSpec(Request, frozen=True, kw_only=True):
    """A run to start, as `spec.toml` states it; the node makes the signed manifest of it."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]
    description: Text = ""
    licence: Annotated[str, Meta(max_length=200)] = ""
    task: TaskSource
    method: MethodSpec
    round: RoundSpec
    trust: TrustSpec
    stewards: Annotated[tuple[PeerIdField, ...], Meta(max_length=63)] = ()
    """PeerIDs that are trusted from the start like the host, which always is."""
    admission: Admission = "open"
    """open: whoever has the link; invite: who has an invite of the host, and nobody else."""


class PeerShare(Reply, frozen=True, kw_only=True):
    """What became of one peer's update in a round."""

    id: str
    name: str = ""
    share: float
    """Its part of the aggregate, 0 to 1."""
    clipped: bool = False
    dropped: bool = False


class RoundReport(Reply, frozen=True, kw_only=True):
    """How the last finished round was aggregated."""

    round: int
    peers: tuple[PeerShare, ...]


class RunStatus(Reply, frozen=True, kw_only=True):
    """One run of this node."""

    run: str
    """The run id in hex (64 characters)."""
    name: str
    role: Role
    state: RunState
    reason: str = ""
    """Why it is in this state, and until when, in a plain sentence."""
    round: int = 0
    rounds_total: int | None = None
    progress: float = 0.0
    """Within the round (or the catching up), 0 to 1."""
    root: str | None = None
    """The agreed state's Merkle root in hex."""
    loss: float | None = None
    samples_mine: int = 0
    """Trained here, in all the time since this node first joined."""
    samples_accepted: int = 0
    """Of those, the samples whose update went into an agreed state."""
    samples_rejected: int = 0
    """Of those, the samples whose update was in the roll call and did not."""
    samples_per_second: float = 0.0
    peers: int = 0
    """Live peers, this one among them."""
    link: str | None = None
    """Of an open run; to a run by invite only an invite leads."""
    admission: Admission = "open"
    host_paused: bool = False
    """Whether the host has paused the run for everybody."""
    last_round: RoundReport | None = None
    """Left out where it would list more than `MOST_SHARES` peers."""
    round_peers: int = 0
    """Whose updates counted in the last finished round that this node took part in."""
    round_seconds: float | None = None
    """How long that round took here."""
    failure: str = ""
    """Where it has stopped by an error: the error's code."""
    warnings: tuple[str, ...] = ()
    standing: PeerStanding | None = None
    """This node's own in the agreed ledger; None before a state is held."""
    probes: int = 0
    """With method spsa: made here, since the run was taken up; so are the bytes."""
    bytes_said: int = 0
    """With method spsa: in this node's tickets and blocks."""
    bytes_heard: int = 0
    """With method spsa: in the tickets and blocks of all."""


class Peer(Reply, frozen=True, kw_only=True):
    """Another peer, or this one, in a run."""

    id: str
    name: str
    run: str
    """The run id in hex."""
    me: bool = False
    round: int | None = None
    root: str | None = None
    state: str = ""
    """What the peer says that it does."""
    samples_per_second: float = 0.0
    address: AddressKind = "unknown"
    device: str = ""
    """What it says it trains on."""
    latency_seconds: float | None = None
    """Until it answers, as last measured here."""
    share: float | None = None
    """Its part of the last aggregate, 0 to 1."""
    dropped: bool = False
    last_seen_seconds: float | None = None
    """How long ago anything was heard of it."""
    reputation: float | None = None
    """Its agreed score, 0 to 1; None = it has none yet."""
    standing: PeerStanding = "new"
    accepted_samples: int = 0
    """Its credit in the agreed ledger."""
    blocked: bool = False
    """Whether this node has no dealings with it, by its person's wish."""
    host_banned: bool = False
    """Whether the host has banned it from the run."""


class Preview(Reply, frozen=True, kw_only=True):
    """What a person sees before anything of a run starts."""

    run: str
    name: str
    description: str
    licence: str
    host: str
    """The host's PeerID."""
    task: str
    method: str
    parameters: int
    download_bytes: int
    """State and data together: all that joining fetches."""
    data_bytes: int
    peers: int
    round: int | None = None
    """Where most of its peers say that they stand; None = nobody says."""
    rounds_total: int | None = None
    rule: str
    admission: str
    what_others_see: tuple[str, ...]
    trust: tuple[str, ...] = ()
    """The rules about whom the run believes, in plain sentences."""
    fits: bool
    reason: str = ""
    """Why it doesn't fit this machine, or what is tight."""


class Exported(Reply, frozen=True, kw_only=True):
    """A model that was written as safetensors."""

    run: str
    path: str
    round: int
    root: str
    size_bytes: int


class Traffic(Reply, frozen=True, kw_only=True):
    """What this node sent and received over streams, broadcasts and DHT requests; bytes."""

    up: int = 0
    """Since the start."""
    down: int = 0
    up_per_second: float = 0.0
    down_per_second: float = 0.0
    month: int = 0
    """Both directions in this calendar month, over all starts."""
    month_limit: int | None = None


class MemoryUse(Reply, frozen=True, kw_only=True):
    """What training takes of the device's memory, in bytes."""

    device: str
    """Such as "cuda:0" or "cpu"."""
    used: int
    limit: int | None = None


class ContributionRequest(Request, frozen=True, kw_only=True):
    """Contribute or don't: until told otherwise, or for some time, then as configured."""

    mode: Mode
    for_s: Annotated[float, Meta(gt=0, le=LONGEST_FOR_S)] | None = None


class Contribution(Reply, frozen=True, kw_only=True):
    """Whether this node contributes, why not, and until when."""

    mode: Mode
    mode_until: float | None = None
    """When the mode falls back to the configured one; None = not by itself."""
    state: Literal["contributing", "finishing", "paused"]
    cause: PauseCause | None = None
    """Of a pause."""
    reason: str = ""
    """The cause in words, such as "on battery"."""
    ends: str = ""
    """What ends the pause, such as "resumes on mains power"."""
    until: float | None = None
    """When the pause ends, where that is known."""
    seeding: bool = True
    """Whether states and data are still served to others and rounds followed."""
    unknown: tuple[str, ...] = ()
    """What this machine can't tell though a limit asks for it, in plain sentences."""


class Status(Reply, frozen=True, kw_only=True):
    """The node as a whole."""

    version: str
    peer_id: str
    name: str
    pid: int
    uptime_seconds: float
    api: str
    """The API's URL."""
    addresses: tuple[str, ...] = ()
    """Multiaddrs under which others may reach this node."""
    network: NetworkState
    network_reason: str = ""
    runs: tuple[RunStatus, ...] = ()
    refused: dict[str, int] = {}
    """Messages refused since the start, by error code."""
    discouraged: tuple[str, ...] = ()
    """Peers that broke the protocol and are not listened to for a while; the latest 16."""
    contribution: Contribution | None = None
    traffic: Traffic | None = None
    clock_offset_seconds: float | None = None
    """How far the other peers' clocks are ahead, by their median; more than 3 s isn't accepted."""
    memory: MemoryUse | None = None


def printable(text: str, limit: int = 200) -> str:
    """Return `text` on one line, without control or direction characters, at most `limit` long."""
    kept = "".join(
        " " if character in "\t\n\r\u2028\u2029" else character
        for character in text[: 8 * limit]
        if character in "\t\n\r" or unicodedata.category(character)[0] != "C"
    )
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
