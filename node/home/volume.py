"""How much was sent and received in each calendar month, over all starts of the node.

What is counted goes to the month that the clock shows at that moment, and the months of ten years
are kept: a clock that jumps forward and comes back finds what it left. Months are of local time.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from dht import swarm
from node.home.paths import write_file
from protocol.codec import UNREADABLE
from protocol.control import Traffic
from protocol.errors import TalkootError

log = logging.getLogger(__name__)

SAVE_SECONDS = 60.0
"""What a power cut can make the count forget."""
KEPT_MONTHS = 120

_Month = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}\Z")]
_Months = dict[_Month, Annotated[int, Meta(ge=0)]]


class MonthlyVolume:
    """Counts while its context lasts, which reads the file at first and writes it in the end.

    Args:
        path: the file.
        traffic: tells what was sent and received since the start; one that begins anew is noticed.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        traffic: Callable[[], swarm.Traffic],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._traffic = traffic
        self._clock = clock
        self._months: dict[str, int] = {}
        self._month = "1970-01"
        self._counted = 0  # of what `traffic` tells
        self._saved: dict[str, int] = {}
        self._fails = False
        self._saving = threading.Lock()

    def __enter__(self) -> Self:
        self._months = _read(self._path)
        self._saved = self._months.copy()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._note(self._traffic())
        self._save()

    @property
    def used(self) -> int:
        """Bytes of both directions in this month."""
        self._note(self._traffic())
        return self._months.get(self._month, 0)

    def report(self, limit: int | None) -> Traffic:
        """Return what to show of the traffic; `limit` is the month's, in bytes."""
        now, used = self._traffic(), self.used
        return Traffic(
            up=now.up,
            down=now.down,
            up_per_second=now.up_per_second,
            down_per_second=now.down_per_second,
            month=used,
            month_limit=limit,
        )

    async def keep(self) -> None:
        """Save every minute, for ever."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            self._note(self._traffic())
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        """Write the file, if there is anything new; a disk that fails is tried again later."""
        with self._saving:
            months = self._months.copy()
            if months == self._saved:
                return
            try:
                write_file(self._path, msgspec.json.encode(months))
            except TalkootError as error:
                if not self._fails:
                    log.error("the month's volume is not saved: %s", error)  # noqa: TRY400
                self._fails = True
            else:
                self._saved, self._fails = months, False

    def _note(self, traffic: swarm.Traffic) -> None:
        total = traffic.up + traffic.down
        more = total - self._counted if total >= self._counted else total
        self._counted = total
        self._month = _month_of(self._clock(), self._month)
        if more:
            self._months[self._month] = self._months.get(self._month, 0) + more
            while len(self._months) > KEPT_MONTHS:
                del self._months[min(self._months.keys() - {self._month})]


def _month_of(seconds: float, otherwise: str) -> str:
    try:
        day = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):  # a clock out of all bounds
        return otherwise
    return f"{day.year:04}-{day.month:02}"


def _read(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Months)
    except FileNotFoundError:
        pass
    except (OSError, *UNREADABLE) as error:
        log.warning("the volume of this month is counted anew, %s is damaged: %s", path, error)
    return {}
