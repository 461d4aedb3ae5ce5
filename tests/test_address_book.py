"""The address book remembers whom we met, believes nobody about others, and stays small."""

import logging
from pathlib import Path

import pytest

from dht.virtual_time import run
from node.home.address_book import MAX_ADDRESS_CHARACTERS, MAX_ADDRESSES, MAX_PEERS, AddressBook
from node.store.storage import Disk, DiskFullError
from protocol.identity import PeerId
from tests.messages import peer


def address(number: int, port: int = 1) -> str:
    return f"/ip4/10.0.0.1/tcp/{port}/p2p/{peer(number)}"


def live(*numbers: int) -> dict[PeerId, list[str]]:
    return {peer(number): [address(number)] for number in numbers}


def a_book(folder: Path, disk: Disk | None = None) -> AddressBook:
    return AddressBook(folder / "peers.json", disk or Disk())


def saved(book: AddressBook, folder: Path) -> AddressBook:
    """Save a book and return the one that reads it again."""
    run(book.save())
    again = a_book(folder)
    again.load()
    return again


def test_who_was_met_is_known_after_a_restart(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    book.load()
    book.note_live(live(1, 2))
    book.note_address(address(3))
    again = saved(book, tmp_path)
    assert set(again.addresses()) == {address(1), address(2), address(3)}
    assert again.addresses(without={peer(1), peer(3)}) == [address(2)]


def test_a_peers_latest_addresses_count(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    book.note_live({peer(1): [address(1, port=1)]})
    book.note_live({peer(1): [address(1, port=2)]})
    assert book.addresses() == [address(1, port=2)]
    book.note_live({peer(1): []})  # it has none to tell at the moment
    assert book.addresses() == [address(1, port=2)]
    book.note_address(address(1, port=3))
    assert book.addresses() == [address(1, port=3), address(1, port=2)]


def test_nobody_can_name_anothers_address(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    book.note_live({peer(1): [address(2), "/ip4/10.0.0.1/tcp/1", "", address(1) + "/x"]})
    assert book.addresses() == []
    book.note_live(live(1))
    book.note_live({peer(1): [address(2)]})
    assert book.addresses() == [address(1)]


def test_addresses_are_few_and_short(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    long = "/dns/" + "a" * MAX_ADDRESS_CHARACTERS + address(1)
    many = [address(1, port) for port in range(MAX_ADDRESSES + 3)]
    book.note_live({peer(1): [long, *many]})
    assert book.addresses() == many[:MAX_ADDRESSES]
    assert set(saved(book, tmp_path).addresses()) == set(book.addresses())


def test_a_full_book_forgets_who_has_been_silent_for_longest(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    for number in range(MAX_PEERS):
        book.note_live(live(number))
    book.note_live(live(0))
    book.note_live(live(MAX_PEERS))
    known = book.addresses()
    assert len(known) == MAX_PEERS
    assert address(1) not in known
    assert address(0) in known
    assert address(MAX_PEERS) in known
    book.note_address(address(MAX_PEERS + 1))
    assert address(2) not in book.addresses()
    assert len(saved(book, tmp_path).addresses()) == MAX_PEERS


def test_newcomers_never_take_the_place_of_who_is_live(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    honest = range(MAX_PEERS)
    book.note_live(live(*honest))
    book.note_live(live(*honest, *range(MAX_PEERS, 3 * MAX_PEERS)))
    assert set(book.addresses()) == {address(number) for number in honest}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"a": "b"}',
        b'{"a": [1]}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"{" + b",".join(b'"%d":[]' % number for number in range(MAX_PEERS + 1)) + b"}",
        b" " * (1 << 20) + b"{}",
    ],
)
def test_a_damaged_file_is_an_empty_book(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peers.json").write_bytes(content)
    book = a_book(tmp_path)
    with caplog.at_level(logging.WARNING):
        book.load()
    assert book.addresses() == []
    assert "left out" in caplog.text
    book.note_live(live(1))
    assert saved(book, tmp_path).addresses() == [address(1)]


def test_foreign_addresses_in_the_file_are_not_believed(tmp_path: Path) -> None:
    line = f'"{peer(1)}": ["{address(2)}", "{address(1)}"]'
    (tmp_path / "peers.json").write_text("{" + line + "}")
    book = a_book(tmp_path)
    book.load()
    assert book.addresses() == [address(1)]


def test_a_file_that_cannot_be_read_is_an_empty_book(tmp_path: Path) -> None:
    (tmp_path / "peers.json").mkdir()
    book = a_book(tmp_path)
    book.load()
    assert book.addresses() == []


class CountingDisk(Disk):
    """Counts writes, and may be full."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.full = False

    def write(self, path: Path, parts: object) -> None:
        self.writes += 1
        if self.full:
            raise DiskFullError("no room")


def test_only_news_are_written(tmp_path: Path) -> None:
    disk = CountingDisk()
    book = a_book(tmp_path, disk)
    run(book.save())
    assert disk.writes == 0
    for _ in range(3):
        book.note_live(live(1, 2))
        run(book.save())
    assert disk.writes == 1


def test_a_full_disk_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = CountingDisk()
    disk.full = True
    book = a_book(tmp_path, disk)
    book.note_live(live(1))
    run(book.save())
    assert "not saved" in caplog.text
    assert book.addresses() == [address(1)]
