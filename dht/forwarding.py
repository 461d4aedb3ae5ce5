"""What every swarm over another one passes on as it is."""

from collections import Counter

from dht.swarm import Swarm, Traffic
from protocol.errors import ProtocolError
from protocol.identity import PeerId


class Forwarding:
    """The part of `dht.swarm.Swarm` that is told without asking anybody, as `swarm` tells it."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._swarm.peer_id

    @property
    def refused(self) -> Counter[str]:
        """What was refused from others, by reason."""
        return self._swarm.refused

    @property
    def discouraged(self) -> tuple[PeerId, ...]:
        """Who broke the protocol and is not listened to for a while, the latest last."""
        return self._swarm.discouraged

    def report(self, peer: PeerId | None, error: ProtocolError) -> None:
        """Count what was refused from `peer`; see `dht.swarm.Swarm.report`."""
        self._swarm.report(peer, error)

    @property
    def traffic(self) -> Traffic:
        """What this peer sent and received, and its limits."""
        return self._swarm.traffic

    @property
    def clock_offset(self) -> float | None:
        """How many seconds the other peers' clocks are ahead; None = unknown."""
        return self._swarm.clock_offset

    @property
    def trouble(self) -> str:
        """What keeps the network from working now; "" = nothing."""
        return self._swarm.trouble

    def latency(self, peer: PeerId) -> float | None:
        """Return how many seconds `peer` takes to answer, as last measured; None = never."""
        return self._swarm.latency(peer)

    def time(self) -> float:
        """Return the swarm's common clock in seconds since the epoch."""
        return self._swarm.time()
