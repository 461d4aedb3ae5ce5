"""What `talkoot demo` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protocol.manifest import MethodKind


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """A whole swarm on this machine."""

    mode: MethodKind = "local"
    """The method: whole updates of a language model, or one byte per gradient on digits."""
    peers: int = 4
    attackers: int = 1
    rounds: int | None = None
    """None: as many as the demo thinks fit."""
    data: Path | None = None
    """A text file or a folder of them; None = Python's standard library."""
    attack: str = "reverse"
    """What the attackers do (trust.attacks)."""
    aggregator: Literal["mean", "clip"] = "clip"
    json: bool = False
    """Print the summary alone, as one JSON object."""
    keep: bool = False
    """Keep the nodes' homes afterwards."""
    gui: bool = False
    """Open the window on the first node; the demonstration lasts until it is closed."""
    debug: bool = False
