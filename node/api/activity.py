"""What happened at this node lately, in sentences."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from protocol.control import printable
from protocol.errors import UPDATE_CODES, TalkootError
from protocol.machine import Activity

MOST_ACTIVITIES = 200


class ActivityLog:
    """The newest activities, in memory alone."""

    def __init__(self) -> None:
        self.on_added: Callable[[Activity], None] = _ignore
        """Called with each one that is added."""
        self._kept: deque[Activity] = deque(maxlen=MOST_ACTIVITIES)
        self._updates: set[str] = set()

    def add(self, activity: Activity) -> None:
        """Take in what has just happened."""
        self._kept.append(activity)
        self.on_added(activity)

    @contextmanager
    def telling_of_updates(self) -> Iterator[None]:
        """Tell, beside raising it, of an error that only an update ends; of each such once."""
        try:
            yield
        except TalkootError as error:
            text = printable(f"{error.message}. {error.hint}".strip())
            if error.code in UPDATE_CODES and text not in self._updates:
                self._updates.add(text)
                self.add(Activity(at=time.time(), kind="trouble", text=text, notify="update"))
            raise

    def newest(self) -> tuple[Activity, ...]:
        """Return what is kept, oldest first."""
        return tuple(self._kept)


def _ignore(_: Activity) -> None:
    pass
