"""A duty cycle: work for some of the time, rest for the remainder, so that a laptop stays cool."""

import time
from threading import Event


class Duty:
    """Rests after each piece of work, in proportion to how long it took.

    Args:
        share: of the time in which to work, above 0 and up to 1.
    """

    def __init__(self, share: float) -> None:
        self.steps = 0
        """How many pieces of work were done."""
        self._share = share
        self._since = time.monotonic()

    def begin(self) -> None:
        """A piece of work begins."""
        self._since = time.monotonic()

    def rest(self, stop: Event) -> None:
        """Rest after the piece of work that ends now, until `stop` is set; the next one begins."""
        self.steps += 1
        if self._share < 1:
            stop.wait((time.monotonic() - self._since) * (1 / self._share - 1))
        self.begin()
