"""What is read from disk: a power cut, a failing disk or a person may have left anything there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import msgspec
import numpy as np

from gui.client import NoNodeError, Place
from gui.spec import SpecError
from gui.spec import read_spec as read_spec_in_window
from node.api.client import NodeNotRunningError, find_node
from node.cli.hosting import read_spec
from node.governor.governor import _kept_order
from node.governor.orders import Order
from node.governor.simulated import _stated
from node.home.address_book import AddressBook
from node.home.config import load_config
from node.home.identity_file import load_identity
from node.home.listen import _read as read_ports
from node.home.paths import Paths
from node.home.strict_toml import ConfigError
from node.home.volume import _read as read_volume
from node.store.ledger import Credit, RoundNote, RunLedger
from node.store.signed_slots import SignedSlots, SlotBook
from node.store.state import CheckpointStore, State
from node.store.storage import Disk, StateError
from node.tasks import TaskDataError
from node.tasks.encoder_set import EncoderSet
from node.tasks.labelled_texts import read_labelled
from node.tasks.pretrained import read_shape
from node.tasks.tensor_blob import pack, unpack
from protocol.codec import UNREADABLE, encode
from protocol.control import NodeFile
from protocol.identity import IdentityFileError
from protocol.layout import Layout, TensorSpec
from protocol.ledger import Ledger, Standing
from tests.encoder_scene import small_set
from tests.fuzz.choices import Choices
from tests.fuzz.decoder import Decode, Decoder, alone, as_bytes, as_text, of_file
from tests.fuzz.notation import broken_json
from tests.fuzz.packed import broken_message
from tests.fuzz.plain import broken_bytes, broken_text
from tests.fuzz.values import value_of
from tests.messages import RUN, identity, peer

_LENGTH_BYTES = 8
_PAGE_BYTES = 4096
_CONFIG = """\
# what a person wrote
[node]
name = "amber-otter"
listen = ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/0"]
announce = ["/dns4/example.org/tcp/4001"]
api = "127.0.0.1:7717"

[contribute]
mode = "auto"
device = "cpu"
gpu_memory = "80%"
only = { when_idle_minutes = 5, on_battery = false, hours = "22:00-07:00", days = "mon-fri" }

[network]
up = "10Mbit"
monthly = "100GB"

[storage]
keep_checkpoints = 3
max = "20GB"

[ui]
notify = ["disk", "host"]
"""
_SPEC = """\
name = "Plays"
description = "Plays of one author"
licence = "CC0"
stewards = []

[task]
kind = "text"
data = "spec.toml"
config = { context = 128, dropout = 0.5 }

[method]
kind = "local"
settings = { learning_rate = 1e-3 }

[round]
local_steps = 50
max_seconds = 120
min_peers = 1

[trust]
rule = "clip"
audit_rate = 0.1
"""


def decoders() -> list[Decoder]:
    """Return the readers of files."""
    return [*_of_tensors(), *_of_notes(), *_by_people(), _ledger_file()]


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


# checkpoints and data sets: a length, a header in JSON, the tensors


def _broken_tensors(data: bytes, choices: Choices) -> bytes:
    """Break the header as JSON, its length, or the bytes."""
    if choices.one_in(3):
        return broken_bytes(data, choices)
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header, rest = data[_LENGTH_BYTES : _LENGTH_BYTES + length], data[_LENGTH_BYTES + length :]
    header = broken_json(header, choices)
    size = len(header) if not choices.one_in(8) else choices.pick((0, 1, (1 << 64) - 1, 1 << 24))
    if choices.one_in(8):
        rest = choices.pick((b"", rest[:-1], rest * 2))
    return size.to_bytes(_LENGTH_BYTES, "little") + header + rest


def _state(choices: Choices) -> State:
    layout = Layout((TensorSpec("w", (3, 5)), TensorSpec("scale", ()), TensorSpec("b", (2,))))
    values = np.frombuffer(choices.blob(2 * layout.size), np.int16).astype(np.float32)
    state = State.genesis(RUN, layout, values, scale=choices.pick((0.0, 0.5)))
    standings = (Standing(peer=name, joined=0, seen=1) for name in sorted((peer(1), peer(2))))
    return state.next(values * 2, values, Ledger(tuple(standings)), 0.25)


def a_checkpoint(choices: Choices) -> bytes:
    """Return the bytes of a checkpoint of round 1."""
    with tempfile.TemporaryDirectory() as folder:
        return CheckpointStore(Path(folder), RUN, Disk()).save(_state(choices)).read_bytes()


def _blob(choices: Choices) -> bytes:
    values = np.frombuffer(choices.blob(24), np.int32)
    tensors = [("lengths", values), ("weight", values.astype(np.float32).reshape(2, 3))]
    return pack(tensors, {"about": "two tensors"})


def _of_tensors() -> list[Decoder]:
    return [
        Decoder(
            name="checkpoint",
            valid=a_checkpoint,
            broken=_broken_tensors,
            scene=of_file(
                lambda path: CheckpointStore(path.parent, RUN, Disk()).load(1),
                "state-1.safetensors",
            ),
            errors=(StateError,),
            covers=("node.store.tensor_file.read_tensor_header",),
        ),
        Decoder(
            name="checkpoint.newest",
            valid=a_checkpoint,
            broken=_broken_tensors,
            scene=_falling_back,
        ),
        Decoder(
            name="tensor_blob",
            valid=_blob,
            broken=_broken_tensors,
            scene=alone(unpack),
            errors=(TaskDataError,),
            covers=("node.tasks.tensor_blob.unpack",),
        ),
        Decoder(
            name="encoder_set",
            valid=lambda _: small_set().pack(),
            broken=_broken_tensors,
            scene=alone(lambda data: EncoderSet.unpack(data, 8)),
            errors=(TaskDataError,),
            covers=("node.tasks.encoder_set.EncoderSet.unpack",),
        ),
    ]


@contextmanager
def _falling_back(folder: Path) -> Iterator[Decode]:
    """Load the newest checkpoint where the one before it is good: there is always one."""
    store = CheckpointStore(folder, RUN, Disk())
    good = State.genesis(RUN, Layout((TensorSpec("w", (2,)),)), np.zeros(2, np.float32))
    path = store.save(good)

    def decode(data: bytes) -> object:
        store.path_of(1).write_bytes(data)
        found = store.load_newest()
        if found is None or (found.round == 0 and found.root != good.root) or not path.exists():
            raise AssertionError("the good checkpoint is not found")
        return found

    yield decode


# what the node notes for itself


def _of_notes() -> list[Decoder]:
    def order(choices: Choices) -> bytes:
        return _json(value_of(Order, choices))

    def book(choices: Choices) -> bytes:
        return _json(
            {
                peer(number): [f"/ip4/192.0.2.{number}/tcp/4001/p2p/{peer(number)}"]
                for number in range(1 + choices.below(4))
            }
        )

    def node_file(_: Choices) -> bytes:
        here = NodeFile(url="http://127.0.0.1:7717", pid=os.getpid(), token_path=os.devnull)
        return _json(here)

    return [
        Decoder(
            name="signed_slots",
            valid=lambda choices: encode(value_of(SlotBook, choices)),
            broken=broken_message,
            scene=of_file(lambda path: SignedSlots(path, Disk()).next_attempt(3, RUN), "slots"),
        ),
        Decoder(
            name="address_book",
            valid=book,
            broken=broken_json,
            scene=of_file(_load_book, "peers.json"),
            covers=("node.home.address_book.AddressBook.load",),
        ),
        Decoder(
            name="order",
            valid=order,
            broken=broken_json,
            scene=of_file(_kept_order, "order.json"),
            covers=("node.governor.governor._kept_order",),
        ),
        Decoder(
            name="ports",
            valid=lambda _: _json({"/ip4/0.0.0.0/tcp/0": 4001}),
            broken=broken_json,
            scene=of_file(read_ports, "ports.json"),
            covers=("node.home.listen._read",),
        ),
        Decoder(
            name="volume",
            valid=lambda choices: _json({"2026-01": choices.below(1 << 40), "2026-02": 7}),
            broken=broken_json,
            scene=of_file(read_volume, "volume.json"),
            covers=("node.home.volume._read",),
        ),
        Decoder(
            name="identity",
            valid=lambda choices: identity(choices.below(9)).to_libp2p(),
            broken=broken_bytes,
            scene=of_file(load_identity, "identity.key"),
            errors=(IdentityFileError,),
        ),
        Decoder(
            name="node_file",
            valid=node_file,
            broken=broken_json,
            scene=_finding_a_node,
            errors=(NodeNotRunningError,),
            covers=("node.api.client.find_node",),
        ),
        Decoder(
            name="node_file.window",
            valid=node_file,
            broken=broken_json,
            scene=of_file(lambda path: Place(path).find(), "node.json"),
            errors=(NoNodeError,),
            covers=("gui.client.Place._announced",),
        ),
    ]


def _load_book(path: Path) -> list[str]:
    book = AddressBook(path, Disk())
    book.load()
    return book.addresses()


@contextmanager
def _finding_a_node(folder: Path) -> Iterator[Decode]:
    paths = Paths(config=folder / "config", state=folder, data=folder / "data")
    paths.node_file.parent.mkdir(parents=True, exist_ok=True)

    def decode(data: bytes) -> object:
        paths.node_file.write_bytes(data)
        return find_node(paths)

    yield decode


# what a person writes


def _broken_lines(data: bytes, choices: Choices) -> bytes:
    """Break words of a text, or move, double and drop its lines; or break its bytes."""
    if choices.one_in(8):
        return broken_bytes(data, choices)
    lines = as_text(data).split("\n")
    at, other = choices.below(len(lines)), choices.below(len(lines))
    match choices.below(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at:at] = [lines[at]] * 300
        case _:
            lines[at] = broken_text(lines[at], choices)
    return as_bytes("\n".join(lines))


@lru_cache
def _model_config() -> bytes:
    return _json(
        {
            "model_type": "bert",
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "hidden_size": 8,
            "intermediate_size": 16,
            "vocab_size": 99,
            "max_position_embeddings": 32,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        }
    )


def _texts(choices: Choices) -> bytes:
    count = 80 + choices.below(10)
    return as_bytes("\n".join(f"{'ab'[n % 2]}\ttext number {n}" for n in range(count)))


def _by_people() -> list[Decoder]:
    config = partial(Decoder, valid=lambda _: _CONFIG.encode(), broken=_broken_lines)
    spec = partial(Decoder, valid=lambda _: _SPEC.encode(), broken=_broken_lines)
    return [
        config(
            name="config",
            scene=of_file(load_config, "config.toml"),
            errors=(ConfigError,),
            covers=(
                "node.home.strict_toml.parse_toml",
                "node.home.strict_toml._statements",
                "node.home.strict_toml.line_of",
            ),
        ),
        spec(
            name="spec",
            scene=of_file(read_spec, "spec.toml"),
            errors=(ConfigError,),
        ),
        spec(
            name="spec.window",
            scene=of_file(read_spec_in_window, "spec.toml"),
            errors=(SpecError,),
            covers=("gui.spec.read_spec",),
        ),
        Decoder(
            name="sensors",
            valid=lambda _: _json({"power": "battery", "idle_seconds": 3600, "gpu_celsius": None}),
            broken=broken_json,
            scene=of_file(_stated, "sensors.json"),
            errors=UNREADABLE,
            covers=("node.governor.simulated._stated",),
        ),
        Decoder(
            name="labelled_texts",
            valid=_texts,
            broken=_broken_lines,
            scene=of_file(read_labelled, "texts.tsv"),
            errors=(TaskDataError,),
        ),
        Decoder(
            name="model_config",
            valid=lambda _: _model_config(),
            broken=broken_json,
            scene=of_file(lambda path: read_shape(path.parent), "config.json"),
            errors=(TaskDataError,),
            covers=("node.tasks.pretrained.read_shape",),
        ),
    ]


# SQLite


def _broken_pages(data: bytes, choices: Choices) -> bytes:
    """Break bytes of a database, or drop, zero, swap or cut its pages."""
    if choices.one_in(2):
        return broken_bytes(data, choices)
    pages = [data[at : at + _PAGE_BYTES] for at in range(0, len(data), _PAGE_BYTES)]
    at, other = choices.below(len(pages)), choices.below(len(pages))
    match choices.below(4):
        case 0:
            pages[at] = bytes(_PAGE_BYTES)
        case 1:
            pages[at], pages[other] = pages[other], pages[at]
        case 2:
            del pages[at]
        case _:
            pages[at] = broken_bytes(pages[at], choices)
    return b"".join(pages)


def _ledger(choices: Choices) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        _use_ledger(path, choices.below(99))
        return path.read_bytes()


def _use_ledger(path: Path, number: int = 1) -> object:
    ledger = RunLedger(path)
    before = ledger.history(peer(1), 0, 10)
    ledger.note_round(
        RoundNote(number, RUN, 1.5, 2.0, 2, 1e9),
        [Credit(peer(n), 10 + n, "accepted") for n in range(3)],
    )
    return before, ledger.credit_of(peer(1)), ledger.evidence_list()


def _ledger_file() -> Decoder:
    return Decoder(
        name="ledger_file",
        valid=_ledger,
        broken=_broken_pages,
        scene=of_file(_use_ledger_anew, "ledger.sqlite"),
        errors=(StateError,),
    )


def _use_ledger_anew(path: Path) -> object:
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    return _use_ledger(path)
