"""What a limited line carries within the deadlines of transfers, and what it had better not begin.

A frame has `STALL_SECONDS`. More transfers at once than bring a chunk through in half of that would
all run into it; a chunk that alone takes longer never comes through.
"""

from node.transfer.sources import STALL_SECONDS, FetchError
from protocol.trees import MAX_CHUNK_BYTES

BASE_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 100_000


class SlowLineError(FetchError):
    """The limit set for receiving is too low for what is to be fetched."""

    code = "slow_line"


def transfers_at_once(rate: float | None, most: int) -> int:
    """Return how many transfers to have at once, at least one; `rate` in bytes per second."""
    if rate is None:
        return most
    return min(most, max(1, int(rate * STALL_SECONDS / 2 / MAX_CHUNK_BYTES)))


def transfer_seconds(size: int) -> float:
    """Return how long `size` bytes may take in all, by the least rate that is of use."""
    return BASE_SECONDS + size / SLOWEST_BYTES_PER_SECOND


def carries(rate: float | None, size: int) -> bool:
    """Return whether a frame of `size` bytes comes through in time."""
    return rate is None or size <= rate * STALL_SECONDS


def check_line(rate: float | None, size: int, seconds: float = STALL_SECONDS) -> None:
    """Check that `size` bytes can be received in time.

    Raises:
        SlowLineError: they can't.
    """
    if rate is not None and size > rate * seconds:
        raise SlowLineError(
            f"network.down is {in_megabits(rate)}, too little to fetch {size:,} bytes in time: "
            f"at least {in_megabits(size / seconds)} is needed",
            hint="Raise network.down in the configuration.",
        )


def in_megabits(rate: float) -> str:
    """Return bytes per second as the configuration has them."""
    megabits = rate * 8 / 1e6
    return f"{megabits:.3g}Mbit" if megabits < 10 else f"{megabits:.0f}Mbit"
