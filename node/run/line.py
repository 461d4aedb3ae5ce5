"""Whether the limits set for the network suffice for a run, and what to say where they don't.

A round of method `local` sends and receives an update, 2 bytes a parameter, while the others wait
for inputs: 5 s and 1 s a megabyte (`ExchangeTiming`). Who is slower has only some of its chunks
count; below `HOPELESS` of that rate next to nothing comes in time, either way. To fetch the agreed
states instead would take four times as much, round for round, and would end no sooner: so such a
peer does not train, and says why. A state that is fetched has 60 s and 10 s a megabyte.

    parameters      an exchange    a state, once
    100,000         0.3 Mbit       0.1 Mbit
    1,000,000       2.3 Mbit       0.5 Mbit
    10,000,000      6.4 Mbit       0.7 Mbit
    100,000,000     7.8 Mbit       0.8 Mbit

A reducer needs more: its share of the vector times the number of other members, of which it gets
that little only if all others have no more to offer. Broadcasts and DHT come on top.
"""

from collections.abc import Iterator

from dht.swarm import Traffic
from node.exchange.setting import ExchangeTiming
from node.exchange.wire import UPDATE_BYTES
from node.transfer.line import in_megabits, transfer_seconds
from protocol.manifest import Manifest
from protocol.state import FLOAT_BYTES

AMPLE, HOPELESS = 1.1, 0.4
"""Of an exchange's rate. Measured with 2 to 8 members of which one is slow: above, all of its work
came in time; below, at most a third, or it missed aggregates."""


def obstacle(manifest: Manifest, up: float | None, down: float | None) -> str:
    """Return which limit (bytes per second; None = no limit) is hopeless; "" = none is."""
    exchange = exchange_rate(manifest)
    least = {"up": HOPELESS * exchange, "down": max(HOPELESS * exchange, state_rate(manifest))}
    return next(_short_of(least, exchange, up, down), "")


def remark(manifest: Manifest, up: float | None, down: float | None) -> str:
    """Return which limit lets part of the work come too late; "" = none does."""
    exchange = exchange_rate(manifest)
    return next(_short_of({"up": exchange, "down": exchange}, exchange, up, down), "")


def exchange_rate(manifest: Manifest) -> float:
    """Return at how many bytes per second, up and down, a peer's whole update comes in time."""
    if manifest.method.kind != "local":
        return 0.0
    size = UPDATE_BYTES * manifest.task.parameters
    return size / ExchangeTiming.for_bytes(size).inputs


def state_rate(manifest: Manifest) -> float:
    """Return at how many bytes per second a state comes in time."""
    size = 2 * FLOAT_BYTES * manifest.task.parameters
    return size / transfer_seconds(size)


def offered(capacity: int, traffic: Traffic) -> int:
    """Return what of a reducer's `capacity` (bytes per second) the limits leave."""
    limits = (traffic.up_limit, traffic.down_limit)
    return int(min([capacity, *(limit for limit in limits if limit is not None)]))


def _short_of(
    least: dict[str, float], exchange: float, up: float | None, down: float | None
) -> Iterator[str]:
    for key, rate in (("up", up), ("down", down)):
        if rate is not None and rate < least[key]:
            needed = in_megabits(max(AMPLE * exchange, least[key]))
            yield f"network.{key} is {in_megabits(rate)}, and this run needs {needed}"
