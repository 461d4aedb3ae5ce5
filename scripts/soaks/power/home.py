"""The files of a node that a power cut may hit, all made by the node's own code.

`Home` writes them step by step; `trouble` tells after a cut what was acknowledged and is lost.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from node.governor.governor import _keep, _kept_order
from node.governor.orders import Order
from node.home.address_book import AddressBook
from node.home.config import load_config
from node.home.config_edit import set_value
from node.home.identity_file import load_identity
from node.store.ledger import Credit, RoundNote, RunLedger
from node.store.lives import next_life
from node.store.run_folder import RunFolder
from node.store.signed_slots import SignedSlots
from node.store.state import State
from node.store.storage import Disk
from protocol.errors import TalkootError
from protocol.identity import Identity, PeerId
from protocol.layout import Layout, TensorSpec
from protocol.manifest import open_manifest, sign_manifest
from tests.messages import RUN, manifest

LAYOUT = Layout((TensorSpec("weight", (40, 50)), TensorSpec("bias", (7,))))
MOST_CHECKPOINTS = 1000
_PEER = PeerId("12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp")
_HOST = Identity.from_seed(bytes(31) + b"\x01")


class Home:
    """A node's files in one folder; `n` counts the steps from 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "run", RUN, Disk())
        self.ledger = RunLedger(folder / "run" / "ledger.sqlite")
        self.slots = SignedSlots(folder / "run" / "slots", Disk())
        self.state: State | None = None

    def steps(self) -> dict[str, Callable[[int], str]]:
        """Return by its name what does step n of a file and returns what it acknowledges."""
        return {
            "identity": self._identity,
            "manifest": self._manifest,
            "checkpoint": self._checkpoint,
            "ledger": self._ledger,
            "slot": lambda n: str(self.slots.next_attempt(n, RUN)),
            "life": lambda _: str(next_life(self.folder / "life", Disk())),
            "book": self._book,
            "config": self._config,
            "order": self._order,
        }

    def _identity(self, _: int) -> str:
        return load_identity(self.folder / "identity.key").peer_id

    def _manifest(self, n: int) -> str:
        self.run.save_manifest(sign_manifest(_HOST, manifest(created=float(n))).envelope)
        return str(n)

    def _checkpoint(self, n: int) -> str:
        values = np.full(LAYOUT.size, n, np.float32)
        if self.state is None:
            self.state = State.genesis(RUN, LAYOUT, values)
        self.state = self.state.next(values, values)
        self.run.checkpoints.save(self.state)
        return f"{self.state.round} {self.state.root.hex()}"

    def _ledger(self, n: int) -> str:
        self.ledger.note_round(
            RoundNote(n, RUN, 1.0 / n, 1.0, 1, float(n)), [Credit(_PEER, n, "accepted")]
        )
        return str(n)

    def _book(self, n: int) -> str:
        book = AddressBook(self.folder / "peers.json", Disk())
        book.load()
        book.note_live({_PEER: [f"/ip4/192.0.2.7/tcp/{n}/p2p/{_PEER}"]})
        asyncio.run(book.save())
        return str(n)

    def _config(self, n: int) -> str:
        value = n % MOST_CHECKPOINTS + 1
        set_value(self.folder / "config.toml", "storage.keep_checkpoints", str(value))
        return str(n)

    def _order(self, n: int) -> str:
        order = Order(mode="never", configured="auto", base="auto", for_s=float(n), until=1e12)
        _keep(self.folder / "order.json", order)
        return str(n)


def trouble(folder: Path, known: dict[str, tuple[int, str]]) -> Iterator[str]:
    """Yield what is lost or half after a cut.

    Args:
        folder: of a `Home`.
        known: by the file's name, the last step that was acknowledged, and its words.
    """
    home = Home(folder)
    for name, (n, words) in known.items():
        try:
            with _said(name):
                getattr(_Check(home), name)(n, words)
        except _LostError as lost:
            yield str(lost)
    for path in folder.rglob("*.damaged*"):
        yield f"{path.name} was set aside"


class _LostError(Exception):
    """A file doesn't hold what was acknowledged."""


@contextmanager
def _said(name: str) -> Iterator[None]:
    try:
        yield
    except (TalkootError, OSError, ValueError, AssertionError) as error:
        raise _LostError(f"{name}: {type(error).__name__}: {error}") from error


def _at_least(found: float | None, n: float) -> None:
    if found is None or found < n:
        raise ValueError(f"{found} is there, {n} was acknowledged")


class _Check:
    """Looks for step n of each file, or a later one: what was under way may be there too."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def identity(self, _: int, words: str) -> None:
        if self.home._identity(0) != words:  # noqa: SLF001 - as it is read at any start
            raise ValueError("it is another one")

    def manifest(self, n: int, _: str) -> None:
        _at_least(open_manifest(self.home.run.manifest() or b"")[1].created, n)

    def checkpoint(self, _: int, words: str) -> None:
        round_, root = words.split()
        told: list[str] = []
        found = self.home.run.checkpoints.load_newest(told.append)
        _at_least(found and found.round, int(round_))
        acknowledged = self.home.run.checkpoints.load(int(round_))
        if told or acknowledged.root.hex() != root:
            raise ValueError(f"another root; {told}")

    def ledger(self, n: int, _: str) -> None:
        rounds = [note.round for note, credit in self.home.ledger.history(_PEER, max(1, n - 500))]
        if missing := set(range(max(1, n - 500), n + 1)) - set(rounds):
            raise ValueError(f"rounds {sorted(missing)[:5]} are missing")

    def slot(self, n: int, words: str) -> None:
        _at_least(self.home.slots.next_attempt(n, RUN), int(words) + 1)

    def life(self, _: int, words: str) -> None:
        _at_least(next_life(self.home.folder / "life", Disk()), int(words) + 1)

    def book(self, n: int, _: str) -> None:
        book = AddressBook(self.home.folder / "peers.json", Disk())
        book.load()
        _at_least(max((int(each.split("/")[4]) for each in book.addresses()), default=None), n)

    def config(self, n: int, _: str) -> None:
        found = load_config(self.home.folder / "config.toml").storage.keep_checkpoints
        if found not in {(n + more) % MOST_CHECKPOINTS + 1 for more in range(200)}:
            raise ValueError(f"{found} is there, {n % MOST_CHECKPOINTS + 1} was acknowledged")

    def order(self, n: int, _: str) -> None:
        order = _kept_order(self.home.folder / "order.json")
        _at_least(order and order.for_s, n)
