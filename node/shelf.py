"""What a peer holds for others to fetch: the manifest, the data set, the last two states."""

from node.run_folder import DataFile
from node.state import State


class Shelf:
    """The source of a run's `TreeServer`.

    Args:
        envelope: the manifest as its host signed it.
        data: the run's data set on disk.
        state: the agreed state that this peer holds, if any.
    """

    def __init__(self, envelope: bytes, data: DataFile, state: State | None) -> None:
        self.state = state
        self._previous: State | None = None
        self._envelope = envelope
        self._data = data

    def put(self, state: State) -> None:
        """Hold a newer state; the one before stays for those who are still fetching it."""
        self._previous, self.state = self.state, state

    def manifest(self) -> bytes:
        """Return the manifest's envelope."""
        return self._envelope

    def leaves(self, root: bytes) -> tuple[bytes, ...] | None:
        """Return the leaves of the tree with this root, if it is here."""
        tree = self._tree(root)
        return None if tree is None else tree.leaves

    def chunk(self, root: bytes, index: int) -> bytes | None:
        """Return one chunk of the tree with this root, if it is here."""
        tree = self._tree(root)
        return None if tree is None or index >= len(tree.leaves) else tree.chunk(index)

    def _tree(self, root: bytes) -> State | DataFile | None:
        for tree in (self.state, self._previous, self._data):
            if tree is not None and tree.root == root:
                return tree
        return None
