"""Which states the nodes of a run were seen to hold, and where that broke a promise.

A round's agreed state is the one that most nodes held after it. A node may hold another one for a
moment, until it hears how the others voted; it has diverged when it stays off the agreed states for
longer than `DIVERGED_SECONDS`.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

DIVERGED_SECONDS = 60.0
HUNG_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A node's state, when it was first seen there."""

    at: float
    round: int
    root: str


@dataclass
class Rounds:
    """What was seen so far, by node."""

    seen: defaultdict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    newest: int = 0
    """The latest round that any node has held the state of."""
    longest_wait: float = 0.0
    """Seconds between two such rounds."""
    hangs: int = 0
    """Of the run: waits above `HUNG_SECONDS`."""
    _moved_at: float | None = None
    _hanging: bool = False

    def note(self, node: str, round_: int, root: str | None, now: float) -> None:
        """A node holds a state now."""
        if root is None:
            return
        states = self.seen[node]
        if not states or (states[-1].round, states[-1].root) != (round_, root):
            states.append(Seen(now, round_, root))
        if round_ > self.newest:
            self.newest, self._hanging = round_, False
            self._moved_at = now

    def look(self, now: float) -> None:
        """Count a wait that is too long, once."""
        if self._moved_at is None:
            return
        wait = now - self._moved_at
        self.longest_wait = max(self.longest_wait, wait)
        if wait > HUNG_SECONDS and not self._hanging:
            self.hangs, self._hanging = self.hangs + 1, True

    def rest(self) -> None:
        """What comes next is no wait: nobody is expected to move."""
        self._moved_at = None

    def agreed(self) -> dict[int, str]:
        """Return the root of each round that most nodes held after it."""
        held: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for node, states in self.seen.items():
            for state in states:
                held[state.round][node] = state.root
        return {
            round_: Counter(roots.values()).most_common(1)[0][0]
            for round_, roots in sorted(held.items())
        }

    def off_course(self, end: float) -> list[tuple[str, Seen, float]]:
        """Return node, first state and length in seconds of each stay off the agreed states."""
        agreed, found = self.agreed(), []
        for node, states in self.seen.items():
            first: Seen | None = None
            for state in [*states, None]:
                strays = state is not None and state.root != agreed[state.round]
                if strays and first is None:
                    first = state
                elif not strays and first is not None:
                    found.append((node, first, (state.at if state else end) - first.at))
                    first = None
        return found

    def holders(self, round_: int, root: str) -> set[str]:
        """Return who was seen with a state."""
        return {
            node
            for node, states in self.seen.items()
            if any((state.round, state.root) == (round_, root) for state in states)
        }
