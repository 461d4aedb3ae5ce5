"""The node's configuration: `config.toml` as one frozen `Config`.

A key that does nothing doesn't exist; unknown keys and wrong types are refused with their line.
Each key says what it does in its `Meta.description`, and in `Meta.extra` whether a change counts
only from the next start: `node.home.config_view` shows both to programs.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from node.home.config_values import (
    check_announce,
    check_device,
    check_listen,
    check_name,
    check_storage,
    parse_api,
    parse_days,
    parse_hours,
    parse_rate,
    parse_share,
    parse_size,
    parse_volume,
)
from node.home.strict_toml import Check, read_toml
from protocol.control import API_HOST, API_PORT

DEFAULT_API = f"{API_HOST}:{API_PORT}"

AtRestart = Meta(extra={"restart": True})
Notice = Literal["stopped", "finished", "update", "disk", "host"]
ListenAddress = Annotated[str, Check(check_listen)]
AnnouncedAddress = Annotated[str, Check(check_announce)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


SectionT = TypeVar("SectionT", bound=Section)


class NodeSection(Section, frozen=True, kw_only=True):
    """[node]: who this node is and where it listens."""

    name: Annotated[
        Annotated[str, Check(check_name)] | None,
        Meta(description="What other peers see this node called; unset: made from its PeerID."),
        AtRestart,
    ] = None
    listen: Annotated[
        tuple[ListenAddress, ...],
        Meta(min_length=1, max_length=8),
        Meta(description="TCP addresses to listen on, as multiaddrs; port 0 is any free one."),
        AtRestart,
    ] = ("/ip4/0.0.0.0/tcp/0",)
    announce: Annotated[
        tuple[AnnouncedAddress, ...],
        Meta(max_length=8),
        Meta(
            description="TCP addresses under which others reach this node, "
            "as its router forwards them."
        ),
        AtRestart,
    ] = ()
    api: Annotated[
        Annotated[str, Check(parse_api)] | None,
        Meta(
            description="Where this machine's programs reach the node; "
            f"unset: {DEFAULT_API}, or any free port where that one is taken."
        ),
        AtRestart,
    ] = None


class OnlySection(Section, frozen=True, kw_only=True):
    """[contribute.only]: when mode "auto" contributes."""

    when_idle_minutes: Annotated[
        int,
        Meta(ge=0, le=24 * 60),
        Meta(description="Contribute only once nobody used this machine for so long; 0: always."),
    ] = 0
    on_battery: Annotated[bool, Meta(description="Contribute on battery power too.")] = False
    on_metered: Annotated[
        bool, Meta(description="Contribute over a connection that is paid by volume too.")
    ] = False
    hours: Annotated[
        str,
        Meta(max_length=200),
        Check(parse_hours),
        Meta(
            description='Times of the day to contribute at, such as "22:00-07:00"; '
            "several with commas between them."
        ),
    ] = "00:00-24:00"
    days: Annotated[
        str,
        Check(parse_days),
        Meta(
            description='Days to contribute on, such as "mon-fri,sun"; '
            "hours over midnight belong to the day they begin on."
        ),
    ] = "mon-sun"
    gpu_temp_max: Annotated[
        int, Meta(ge=40, le=120), Meta(description="Pause when the GPU is this hot, in °C.")
    ] = 85
    cpu_temp_max: Annotated[
        int, Meta(ge=40, le=120), Meta(description="Pause when the CPU is this hot, in °C.")
    ] = 95


class ContributeSection(Section, frozen=True, kw_only=True):
    """[contribute]: what training may use."""

    mode: Annotated[
        Literal["always", "auto", "never"],
        Meta(
            description="When to contribute: always, within the limits of contribute.only (auto), "
            "or never."
        ),
    ] = "auto"
    device: Annotated[
        str,
        Check(check_device),
        Meta(description='What to train on: "auto", "cpu", "cuda", "cuda:NUMBER" or "mps".'),
    ] = "auto"
    gpu_memory: Annotated[
        str,
        Check(parse_share),
        Meta(description='How much of the GPU\'s memory to use, such as "80%" or "6GB".'),
    ] = "80%"
    cpu_threads: Annotated[
        int, Meta(ge=1, le=256), Meta(description="How many CPU threads to train with.")
    ] = max(1, (os.cpu_count() or 2) // 2)
    duty_cycle: Annotated[
        int,
        Meta(ge=5, le=100),
        Meta(description="Per cent of the time to compute for; the rest lets the machine cool."),
    ] = 100
    seed_while_paused: Annotated[
        bool,
        Meta(description="Follow rounds and serve states and data to others while paused."),
    ] = True
    only: OnlySection = OnlySection()

    @property
    def gpu_memory_share(self) -> float:
        """`gpu_memory` as a share up to 1, or as bytes."""
        return parse_share(self.gpu_memory)


class NetworkSection(Section, frozen=True, kw_only=True):
    """[network]: how this node takes part."""

    client_mode: Annotated[
        bool, Meta(description="Send updates but never reduce for others."), AtRestart
    ] = False
    relay: Annotated[
        bool,
        Meta(description="Carry the traffic of peers that can't reach each other."),
        AtRestart,
    ] = False
    up: Annotated[
        str,
        Check(parse_rate),
        Meta(description='Most to send, such as "10Mbit"; "" for no limit.'),
    ] = ""
    down: Annotated[
        str,
        Check(parse_rate),
        Meta(description='Most to receive, such as "50Mbit"; "" for no limit.'),
    ] = ""
    monthly: Annotated[
        str,
        Check(parse_volume),
        Meta(
            description="Pause for the rest of the month once so much was sent and received, "
            'such as "100GB"; "" for no limit.'
        ),
    ] = ""

    @property
    def up_rate(self) -> int | None:
        """`up` in bytes per second."""
        return parse_rate(self.up)

    @property
    def down_rate(self) -> int | None:
        """`down` in bytes per second."""
        return parse_rate(self.down)

    @property
    def monthly_bytes(self) -> int | None:
        """`monthly` as a number."""
        return parse_volume(self.monthly)


class StorageSection(Section, frozen=True, kw_only=True):
    """[storage]: what it may fill of the disk."""

    keep_checkpoints: Annotated[
        int,
        Meta(ge=1, le=1000),
        Meta(description="How many states of each run to keep, the newest ones."),
        AtRestart,
    ] = 3
    max: Annotated[
        str,
        Check(check_storage),
        Meta(description="The most that all runs together may need on the disk."),
        AtRestart,
    ] = "20GB"
    min_free: Annotated[
        str,
        Check(parse_size),
        Meta(description="What stays free on the disk, whatever storage.max says."),
    ] = "1GB"

    @property
    def max_bytes(self) -> int:
        """`max` as a number."""
        return parse_size(self.max)

    @property
    def min_free_bytes(self) -> int:
        """`min_free` as a number."""
        return parse_size(self.min_free)


class UiSection(Section, frozen=True, kw_only=True):
    """[ui]: how the window looks and when it speaks up."""

    theme: Annotated[
        Literal["auto", "light", "dark"],
        Meta(description="The window's colours; auto: as the desktop has them."),
    ] = "auto"
    tray: Annotated[
        bool, Meta(description="Show an icon in the desktop's tray, where there is one.")
    ] = True
    notify: Annotated[
        tuple[Notice, ...],
        Meta(max_length=5),
        Meta(
            description="What to show a notification for: stopped unexpectedly, run finished, "
            "update required, disk low, member joined (host)."
        ),
    ] = ("stopped", "finished", "update", "disk", "host")


class Config(Section, frozen=True, kw_only=True):
    """All of `config.toml`; what the file leaves out has its default."""

    node: NodeSection = NodeSection()
    contribute: ContributeSection = ContributeSection()
    network: NetworkSection = NetworkSection()
    storage: StorageSection = StorageSection()
    ui: UiSection = UiSection()


def in_force(wanted: SectionT, started: SectionT) -> SectionT:
    """Return what is in force of `wanted` in a node that started with `started`."""
    kept: dict[str, object] = {}
    for field in msgspec.structs.fields(wanted):
        new, old = getattr(wanted, field.name), getattr(started, field.name)
        if isinstance(new, Section):
            kept[field.name] = in_force(new, old)
        elif AtRestart in get_args(field.type):
            kept[field.name] = old
    return msgspec.structs.replace(wanted, **kept)


def load_config(path: Path) -> Config:
    """Return the configuration in the file `path`, or the defaults if there is none.

    Raises:
        ConfigError: the file has a mistake; the message names file and line.
    """
    return read_toml(path, Config) if path.exists() else Config()
