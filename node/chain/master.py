"""Where the training process's weights are in the tree of blocks, and how they get elsewhere."""

from collections.abc import Iterator, Sequence

from node.methods.spsa.blocks import BlockRules
from node.methods.spsa.moves import Move
from node.store.state import State
from node.training.trainer import Probed, Prober, Vectors
from protocol.chain import Link
from protocol.identity import PeerId

PORTION_TICKETS = 4096
"""In one message to the training process; one takes 290 bytes at most, and frames are bounded."""


class Branches:
    """What the blocks of one round do to the weights, each computed once.

    Args:
        rules: what a block's effect depends on.
        scale: of the state that the round grows from.
    """

    def __init__(self, rules: BlockRules, scale: float) -> None:
        self.rules = rules
        self._scale = scale
        self._known: dict[bytes, tuple[Move, float]] = {}

    def scale_at(self, link: Link) -> float:
        """Return the scale that is agreed at this place."""
        return self._scale if link.block is None else self._of(link)[1]

    def path(self, start: Link, end: Link) -> list[Move]:
        """Return the moves that lead from one place in the round's tree to another.

        The places may be of two trees over the same blocks: one that grew here, and one made again.

        Raises:
            ValueError: they are of two rounds.
        """
        undo, do = [], []
        while start.digest != end.digest:
            if start.height >= end.height and start.parent is not None:
                undo.append(self._of(start)[0].inverse())
                start = start.parent
            elif end.parent is not None:
                do.append(self._of(end)[0])
                end = end.parent
            else:
                raise ValueError("the places are of two rounds")
        return undo + do[::-1]

    def _of(self, link: Link) -> tuple[Move, float]:
        pending = []
        while link.parent is not None and link.digest not in self._known:
            pending.append(link)
            link = link.parent
        scale = self._known[link.digest][1] if link.parent is not None else self._scale
        found = self._known.get(link.digest)
        for each in reversed(pending):
            if each.block is None:
                continue
            move = self.rules.move_of(each.block, scale)
            scale = self.rules.scale_after(each.block, scale)
            found = self._known[each.digest] = move, scale
        if found is None:
            raise RuntimeError("a state is not a block")
        return found


class Master:
    """The weights in the training process. One caller at a time.

    A call that fails or is cancelled leaves them anywhere: the next one begins from the state.

    Args:
        prober: the training process.
        run: the run's 32-byte id.
    """

    def __init__(self, prober: Prober, run: bytes) -> None:
        self._prober = prober
        self._run = run
        self._root: bytes | None = None
        self._at: Link | None = None

    async def goto(self, state: State, branches: Branches, link: Link) -> None:
        """Bring the weights to a place in the tree of the round that grows from `state`.

        Raises:
            TrainerError: the training process failed; the next call may succeed.
        """
        start, known = self._at, self._root == state.root
        self._at = None
        if start is None or not known:
            await self._prober.begin(self._run, state.root, (state.params, state.momentum))
            self._root, start = state.root, link.back(0)
        for moves in _portions(branches.path(start, link)):
            await self._prober.apply(moves)
        self._at = link

    async def probe(self, peer: PeerId, seq: int, count: int) -> Probed:
        """Evaluate the probes of a ticket where the weights are.

        Raises:
            TrainerError: as above.
        """
        at, self._at = self._at, None
        if at is None:
            raise RuntimeError("the weights are nowhere")
        found = await self._prober.probe(peer, seq, count)
        self._at = at
        return found

    async def seal(self, void: Sequence[Move]) -> Vectors:
        """Take these moves back and return the state's vectors.

        Raises:
            TrainerError: as above.
        """
        self._at = None
        for moves in _portions([move.inverse() for move in void]):
            await self._prober.apply(moves)
        return await self._prober.freeze()


def _portions(moves: Sequence[Move]) -> Iterator[list[Move]]:
    """Return the moves in portions, each of which fits into a message to the training process."""
    portion: list[Move] = []
    tickets = 0
    for move in moves:
        if portion and tickets + len(move.tickets) > PORTION_TICKETS:
            yield portion
            portion, tickets = [], 0
        portion.append(move)
        tickets += len(move.tickets)
    if portion:
        yield portion
