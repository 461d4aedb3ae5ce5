"""The control API's vocabulary about this machine: when it contributes, with what, how it went.

Times are seconds since 1970 by this machine's clock; sizes are bytes. As everywhere in the API,
requests refuse unknown fields and replies may grow.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.control import Contribution, Peer, Reply, Request, Status

Metric = Literal["loss", "contribution", "throughput", "trained", "rejected", "up", "down"]
"""contribution: samples accepted; trained: samples trained, of which some are rejected, or neither
yet; throughput: samples trained per second, the mean over the time the node ran; up, down: bytes
that the run's peers were sent and sent."""
ActivityKind = Literal["round", "contribution", "run", "peer", "trouble"]
Notify = Literal["", "stopped", "finished", "update", "disk", "host"]
"""Which of `ui.notify` asks for a notification; "" = none does."""
JsonValue = bool | int | float | str | list[str] | None

MOST_POINTS = 2000
"""In one series."""


class ConfigItem(Reply, frozen=True, kw_only=True):
    """One key of the configuration."""

    key: str
    """Dotted, such as "contribute.cpu_threads"."""
    value: JsonValue
    default: JsonValue
    kind: Literal["bool", "int", "text", "choice", "list"]
    choices: tuple[str, ...] = ()
    """Of a choice, or of each item of a list; empty: whatever `about` says."""
    least: int | None = None
    """Of an int."""
    most: int | None = None
    about: str
    """What it does, in a plain sentence."""
    restart: bool = False
    """Whether a change counts only from the node's next start."""


class ConfigView(Reply, frozen=True, kw_only=True):
    """The one configuration file."""

    path: str
    items: tuple[ConfigItem, ...]
    trouble: str = ""
    """Why the file as it stands now is not in force: a mistake in an edit by hand."""


class ConfigPatch(Request, frozen=True, kw_only=True):
    """Keys to set, all of them or none; None takes a key out of the file."""

    set: Annotated[dict[str, JsonValue], Meta(min_length=1, max_length=100)]


class Device(Reply, frozen=True, kw_only=True):
    """Something to train on."""

    id: str
    """In torch's words: "cpu", "cuda:0", "mps"."""
    name: str
    chosen: bool = False
    """Whether the configuration picks it."""
    memory: int | None = None
    memory_used: int | None = None
    """By all programs."""
    temperature: float | None = None
    """In °C."""
    load: float | None = None
    """0 to 1."""
    driver: str = ""
    note: str = ""


class Checkpoint(Reply, frozen=True, kw_only=True):
    """An agreed state on this machine's disk."""

    id: str
    """Names it in the API: the run's id, "-", the round."""
    run: str
    name: str
    """The run's."""
    round: int
    size_bytes: int
    saved_at: float


class Point(Reply, frozen=True, kw_only=True, array_like=True):
    """One figure of a series."""

    at: float
    """The middle of the time it stands for."""
    value: float


class Series(Reply, frozen=True, kw_only=True):
    """A figure over time, oldest first; times of which nothing is known are left out."""

    metric: Metric
    unit: str
    points: tuple[Point, ...]
    bucket_seconds: float = 60.0
    """What one point stands for: the sum over it, or the mean of loss and throughput."""


class DiagnosticsRequest(Request, frozen=True, kw_only=True):
    """Where to write a file for whoever helps: an absolute path on this machine."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    replace: bool = False
    """Whether to replace a file that is there already, instead of refusing."""


class Written(Reply, frozen=True, kw_only=True):
    """A file that the node wrote."""

    path: str
    size_bytes: int


class Activity(Reply, frozen=True, kw_only=True):
    """Something that happened, in a sentence."""

    at: float
    kind: ActivityKind
    text: str
    run: str = ""
    notify: Notify = ""
    """Whether it is worth a notification."""


class Snapshot(Reply, frozen=True, kw_only=True):
    """All that events change; it begins the stream, and again wherever some were lost."""

    status: Status
    contribution: Contribution
    peers: tuple[Peer, ...]
    activity: tuple[Activity, ...]
    """The newest, oldest first."""


class PeersChanged(Reply, frozen=True, kw_only=True):
    """Peers that are new or differ, and those that are gone."""

    changed: tuple[Peer, ...] = ()
    gone: tuple[tuple[str, str], ...] = ()
    """As (run, PeerID)."""


class StreamEvent(Reply, frozen=True, kw_only=True):
    """One message of the event stream; seq counts up by one, a gap means that some were lost."""

    seq: int
    type: Literal["snapshot", "status", "contribution", "peers", "activity"]
    data: msgspec.Raw
    """A Snapshot, Status, Contribution, PeersChanged or Activity."""


EVENT_KINDS: dict[str, type[Reply]] = {
    "snapshot": Snapshot,
    "status": Status,
    "contribution": Contribution,
    "peers": PeersChanged,
    "activity": Activity,
}
"""What `StreamEvent.data` is, by `StreamEvent.type`."""
