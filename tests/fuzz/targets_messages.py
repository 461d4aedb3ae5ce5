"""Messages between peers: every kind alone, and the functions that open several layers."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from node.audit.evidence_check import open_evidence
from protocol.block_requests import BlocksReply
from protocol.block_tree import best_of
from protocol.blocks import MAX_BLOCK_BYTES, Block, open_block, read_log
from protocol.codec import Message, decode, encode
from protocol.errors import (
    CodecError,
    ManifestError,
    ProtocolError,
    RoundError,
    SignatureError,
)
from protocol.events import Announcement
from protocol.evidence import (
    Equivocation,
    Evidence,
    FalseAccusation,
    FalseAggregate,
    ForkedTickets,
    Mismatch,
    Sent,
)
from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import NO_RUN, open_manifest, sign_manifest
from protocol.rollcall import RollCall, open_roll
from protocol.signing import Envelope, seal, unseal
from protocol.state import StateHeader, read_ledger, read_state_header
from protocol.tickets import open_ticket
from protocol.transfers import Receipt
from protocol.trees import TreeReply, TreeRequest, read_reply, read_request
from tests.chain_scene import ROUND, RULES, Scene, block, by_rank
from tests.fuzz.choices import Choices
from tests.fuzz.decoder import Decode, Decoder, alone
from tests.fuzz.packed import broken_message
from tests.fuzz.plain import broken_bytes
from tests.fuzz.values import value_of
from tests.messages import ROOT, RUN, committed, identity, manifest, peer, roll_call
from trust.evidence import check_signatures

PACKAGES = ("protocol", "trust", "dht", "node")
LIMIT = 4 << 20


def message_kinds() -> list[type[Message]]:
    """Return every kind of message that the packages declare."""
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if "(Message, frozen=True" in path.read_text():
                importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
    kinds = [kind for kind in Message.__subclasses__() if kind.__module__.split(".")[0] in PACKAGES]
    return sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__name__}")


def decoders() -> list[Decoder]:
    """Return the decoders of messages."""
    return [*map(_of_kind, message_kinds()), *_layered(), *_of_tickets()]


def _of_kind(kind: type[Message]) -> Decoder:
    special = _VALID.get(kind)
    return Decoder(
        name=f"{kind.__module__}.{kind.__name__}",
        valid=special or (lambda choices: encode(value_of(kind, choices))),
        broken=broken_message,
        scene=alone(lambda data: decode(data, kind, limit=LIMIT)),
        errors=(CodecError,),
        again=_encoded,
    )


def _encoded(message: Any) -> bytes:  # noqa: ANN401
    return encode(message)


def _ledger(choices: Choices) -> bytes:
    standings = {peer(n): value_of(Standing, choices) for n in range(1 + choices.below(4))}
    return encode(
        Ledger(
            tuple(
                Standing(**{**_fields(standings[name]), "peer": name}) for name in sorted(standings)
            )
        )
    )


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def _sealed(message: Message, choices: Choices, run: bytes = RUN) -> bytes:
    return seal(identity(1 + choices.below(4)), run, message).envelope


def _roll(choices: Choices) -> bytes:
    count = 1 + choices.below(4)
    members = [committed(number, steps=1 + choices.below(99)) for number in range(count)]
    return roll_call(choices.below(count), members).envelope


def _announcement(choices: Choices) -> bytes:
    if choices.one_in(3):
        return _roll(choices)
    return _sealed(value_of(Announcement, choices), choices)


def _header(choices: Choices) -> bytes:
    header = value_of(StateHeader, choices)
    return encode(StateHeader(RUN, 1 + choices.below(99), ROOT, header.tensors))


def _manifest(choices: Choices) -> bytes:
    return sign_manifest(identity(1), manifest(created=float(choices.below(1000)))).envelope


def _proof(choices: Choices) -> Any:  # noqa: ANN401
    receipt, sent = value_of(Receipt, choices), value_of(Sent, choices)
    scene = Scene()
    one, two = scene.make(1).data, scene.make(1).data
    return choices.pick(
        (
            Equivocation(_roll(choices), _roll(choices)),
            Equivocation(_sealed(receipt, choices), _sealed(receipt, choices)),
            Mismatch(_roll(choices), _sealed(sent, choices), ROOT, (ROOT, None), 3),
            FalseAggregate(_roll(choices), _sealed(receipt, choices), b"data"),
            ForkedTickets(ROUND, ROOT, one, two),
        )
    )


def _evidence(choices: Choices) -> bytes:
    evidence = Evidence(peer(1), _proof(choices))
    sealed = _sealed(evidence, choices)
    if choices.one_in(4):
        return _sealed(Evidence(peer(2), FalseAccusation(sealed)), choices)
    return sealed


_VALID: dict[type[Message], Callable[[Choices], bytes]] = {
    Ledger: _ledger,
    StateHeader: _header,
    Envelope: _announcement,
    Evidence: lambda choices: encode(Evidence(peer(1), _proof(choices))),
}


def _open_roll(data: bytes) -> object:
    return open_roll(unseal(data, RUN, RollCall), RUN)


def _check_evidence(data: bytes) -> object:
    evidence = open_evidence(data, RUN).message
    proof = evidence.proof
    if isinstance(proof, Equivocation | Mismatch | ForkedTickets):
        return check_signatures(RUN, PeerId(evidence.accused), proof)
    return None


def _layered() -> list[Decoder]:
    sealed, state = (CodecError, SignatureError), (CodecError,)
    return [
        Decoder(
            name="signing.unseal",
            valid=_announcement,
            broken=broken_message,
            scene=alone(lambda data: unseal(data, RUN, Announcement)),
            errors=sealed,
            again=lambda found: found.envelope,  # type: ignore[attr-defined]
            covers=("protocol.codec.decode",),
        ),
        Decoder(
            name="manifest.open_manifest",
            valid=_manifest,
            broken=partial(broken_message, run=NO_RUN),
            scene=alone(open_manifest),
            errors=(ManifestError,),
            covers=("protocol.manifest._refuse_later",),
        ),
        Decoder(
            name="rollcall.open_roll",
            valid=_roll,
            broken=broken_message,
            scene=alone(_open_roll),
            errors=(*sealed, RoundError),
        ),
        Decoder(
            name="evidence",
            valid=_evidence,
            broken=broken_message,
            scene=alone(_check_evidence),
            errors=sealed,
        ),
        Decoder(
            name="state.header",
            valid=_header,
            broken=broken_message,
            scene=alone(lambda data: read_state_header(data, RUN)),
            errors=state,
        ),
        Decoder(
            name="state.ledger",
            valid=_ledger,
            broken=broken_message,
            scene=alone(read_ledger),
            errors=state,
            again=_encoded,
        ),
        _of_tree("read_request", read_request, TreeRequest),
        _of_tree("read_reply", read_reply, TreeReply),
    ]


def _of_tree(name: str, read: Decode, kind: object) -> Decoder:
    return Decoder(
        name=f"trees.{name}",
        valid=lambda choices: encode(value_of(kind, choices)),
        broken=broken_message,
        scene=alone(read),
        errors=(CodecError,),
        again=_encoded,
    )


def _ticket(choices: Choices) -> bytes:
    return Scene().make(choices.below(6)).data


def _blocks(choices: Choices) -> list[bytes]:
    scene, found = Scene(), []
    for _ in range(1 + choices.below(3)):
        tip = scene.tip
        numbers = sorted({choices.below(6) for _ in range(3)})
        made = block(by_rank(tip.height + 1)[0], tip, scene.make_all(*numbers))
        scene.take(made)
        found.append(made.envelope)
    return found


def _open_block(data: bytes) -> object:
    return open_block(unseal(data, RUN, Block, MAX_BLOCK_BYTES), RUN)


def _hear_chain(data: bytes) -> object:
    """Grow a tree of the blocks in a `BlocksReply`, as who asks for them does."""
    reply = decode(data, BlocksReply)
    scene = Scene()
    blocks = []
    for envelope in reply.blocks:
        signed = unseal(envelope, RUN, Block, MAX_BLOCK_BYTES)
        scene.chain.check_convener(signed.signer, signed.message)
        opened = open_block(signed, RUN)
        blocks.append(opened)
        scene.chain.hear_block(opened, scene.now, asked=True)
    best_of(ROOT, [blocks], RULES, scene.counts)
    return read_log(reply.blocks, RUN, ROUND, ROOT)


def _reply(choices: Choices) -> bytes:
    return encode(BlocksReply(tuple(_blocks(choices)), more=choices.one_in(2)))


def _of_tickets() -> list[Decoder]:
    sealed = (CodecError, SignatureError, RoundError)
    return [
        Decoder(
            name="tickets.open_ticket",
            valid=_ticket,
            broken=broken_bytes,
            scene=alone(lambda data: open_ticket(data, RUN, ROOT)),
            errors=(CodecError, SignatureError),
            again=lambda found: found.data,  # type: ignore[attr-defined]
        ),
        Decoder(
            name="blocks.open_block",
            valid=lambda choices: _blocks(choices)[-1],
            broken=broken_message,
            scene=alone(_open_block),
            errors=sealed,
        ),
        Decoder(
            name="chain.hear_blocks",
            valid=_reply,
            broken=broken_message,
            scene=alone(_hear_chain),
            errors=(ProtocolError,),
        ),
    ]
