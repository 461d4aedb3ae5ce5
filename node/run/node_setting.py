"""What all runs of a node share."""

from collections.abc import Callable
from dataclasses import dataclass

from dht.swarm import Swarm
from node.members.affairs import Doors
from node.run.workers import WorkerOf
from node.store.storage import Disk
from node.training.permit import Gate, Permit
from protocol.identity import Identity, PeerId


def _ignore(_: bytes, __: PeerId) -> None:
    pass


@dataclass(frozen=True, slots=True)
class NodeSetting:
    """What all runs of a node share."""

    swarm: Swarm
    doors: Doors
    identity: Identity
    name: str
    disk: Disk
    permit: Permit
    """Whether training may run, and what it may use."""
    attendance: Gate
    """Whether runs are taken part in at all: rounds followed, states and data served."""
    reduces: bool
    max_state_bytes: int
    worker_of: WorkerOf
    device: str = ""
    """What others see that this node trains on."""
    on_joined: Callable[[bytes, PeerId], None] = _ignore
    """Told of every new member of a run by invite: its run and its PeerID."""
