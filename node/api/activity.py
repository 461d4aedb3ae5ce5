"""What happened at this node lately, in sentences."""

from collections import deque
from collections.abc import Callable

from protocol.machine import Activity

MOST_ACTIVITIES = 200


class ActivityLog:
    """The newest activities, in memory alone."""

    def __init__(self) -> None:
        self.on_added: Callable[[Activity], None] = _ignore
        """Called with each one that is added."""
        self._kept: deque[Activity] = deque(maxlen=MOST_ACTIVITIES)

    def add(self, activity: Activity) -> None:
        """Take in what has just happened."""
        self._kept.append(activity)
        self.on_added(activity)

    def newest(self) -> tuple[Activity, ...]:
        """Return what is kept, oldest first."""
        return tuple(self._kept)


def _ignore(_: Activity) -> None:
    pass
