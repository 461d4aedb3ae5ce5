"""What other programs of this machine say: clients of the API, the window's node, the trainer."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from gui.client import RefusedError as WindowRefusedError
from gui.client import _reply as window_reply
from gui.store import LostEventsError as WindowLostEventsError
from gui.store import Store
from node.api.answers import body_of
from node.api.client import ApiError
from node.api.client import _reply as client_reply
from node.api.refusals import RefusedError
from node.cli.keyboard import keys_of
from node.cli.top_model import LostEventsError, TopModel
from node.home import config_values
from node.home.config_edit import set_value, set_values
from node.home.strict_toml import ConfigError
from node.training.trainer_link import _Answers
from node.training.trainer_messages import Answer, frame
from protocol.codec import UNREADABLE
from protocol.control import (
    Contribution,
    Failure,
    Request,
    Status,
)
from protocol.machine import (
    Activity,
    ConfigPatch,
    PeersChanged,
    Snapshot,
    StreamEvent,
)
from protocol.references import AmbiguousPeerError, NoSuchPeerError, find_peer
from tests.fuzz.choices import Choices
from tests.fuzz.decoder import Decode, Decoder, alone, as_bytes, as_text
from tests.fuzz.notation import broken_json
from tests.fuzz.packed import broken_message
from tests.fuzz.plain import broken_bytes, broken_text
from tests.fuzz.values import value_of
from tests.messages import peer

BODIES = sorted(Request.__subclasses__(), key=lambda kind: kind.__name__)
"""What the control API takes as the body of a request, or within it: tests.messages has imported
all that the protocol declares."""


def decoders() -> list[Decoder]:
    """Return the decoders of what programs say."""
    bodies = [_of_body(kind) for kind in BODIES]
    return [*bodies, *_of_replies(), *_of_events(), *_of_settings(), _answers(), *_typed()]


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


class _Request:
    """Stands for an HTTP request, of which only the body is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        return self._data


def _of_body(kind: type[Request]) -> Decoder:
    @contextmanager
    def scene(_: Path) -> Iterator[Decode]:
        async def read(data: bytes) -> object:
            request: Any = _Request(data)
            found: web.Request = request
            return await body_of(found, kind)

        with asyncio.Runner() as runner:
            yield lambda data: runner.run(read(data))

    return Decoder(
        name=f"api.{kind.__name__}",
        valid=lambda choices: _json(value_of(kind, choices)),
        broken=broken_json,
        scene=scene,
        errors=(RefusedError,),
        covers=("node.api.answers.body_of",),
    )


def _of_replies() -> list[Decoder]:
    def of(
        name: str,
        reply: Callable[[int, bytes, Any], object],
        kind: type[msgspec.Struct],
        error: type[Exception],
    ) -> Decoder:
        status = 400 if kind is Failure else 200
        return Decoder(
            name=f"{name}.{kind.__name__}",
            valid=lambda choices: _json(value_of(kind, choices)),
            broken=broken_json,
            scene=alone(lambda data: reply(status, data, kind)),
            errors=(error,),
            covers=("gui.client._reply", "node.api.client._reply"),
        )

    return [
        of(name, reply, kind, error)
        for name, reply, error in (
            ("window", window_reply, WindowRefusedError),
            ("client", client_reply, ApiError),
        )
        for kind in (Failure, Status)
    ]


_EVENTS: dict[str, object] = {
    "snapshot": Snapshot,
    "status": Status,
    "contribution": Contribution,
    "peers": PeersChanged,
    "activity": Activity,
}


def _event(choices: Choices) -> bytes:
    kind = choices.pick(list(_EVENTS))
    data = msgspec.Raw(_json(value_of(_EVENTS[kind], choices)))
    return _json({"seq": 2, "type": kind, "data": data})


def _of_events() -> list[Decoder]:
    first = value_of(Snapshot, Choices.of("first"))

    def of(name: str, model: Callable[[], Any]) -> Decoder:
        def take(data: bytes) -> None:
            event = msgspec.json.decode(data, type=StreamEvent)
            found = model()
            found.apply(StreamEvent(seq=1, type="snapshot", data=msgspec.Raw(_json(first))))
            found.apply(event)

        return Decoder(
            name=f"{name}.event",
            valid=_event,
            broken=broken_json,
            scene=alone(take),
            errors=(*UNREADABLE, WindowLostEventsError, LostEventsError),
            covers=("node.cli.top_model.TopModel.apply", "node.api.client._event"),
        )

    return [of("window", Store), of("top", TopModel)]


def _of_settings() -> list[Decoder]:
    @contextmanager
    def patching(folder: Path) -> Iterator[Decode]:
        path = folder / "config.toml"

        def decode(data: bytes) -> object:
            path.write_text('[node]\nname = "amber"\n')
            return set_values(path, msgspec.json.decode(data, type=ConfigPatch).set)

        yield decode

    @contextmanager
    def setting(folder: Path) -> Iterator[Decode]:
        path = folder / "config.toml"

        def decode(data: bytes) -> object:
            key, _, raw = as_text(data).partition("=")
            path.write_text('[node]\nname = "amber"\n')
            return set_value(path, key, raw)

        yield decode

    keys = ("node.name", "node.listen", "ui.notify", "storage.keep_checkpoints", "network.up")
    raws = ("amber", '["/ip4/0.0.0.0/tcp/0"]', "disk,host", "3", "10Mbit", "{a=1}", "1979-05-27")

    def patch(choices: Choices) -> bytes:
        values = ("amber", ["/ip4/0.0.0.0/tcp/0"], ["disk"], 3, "10Mbit", None, True, 1.5)
        return _json({"set": {choices.pick(keys): choices.pick(values) for _ in range(2)}})

    return [
        Decoder(
            name="config.set_values",
            valid=lambda _: _json({"set": {"node.name": "amber", "ui.notify": ["disk"]}}),
            broken=lambda _, choices: broken_json(patch(choices), choices),
            scene=patching,
            errors=(ConfigError, *UNREADABLE),
            covers=("node.home.config_edit.changed_text",),
        ),
        Decoder(
            name="config.set_value",
            valid=lambda _: b"node.name=amber",
            broken=lambda _, choices: as_bytes(
                f"{choices.pick(keys)}={broken_text(choices.pick(raws), choices)}"
            ),
            scene=setting,
            errors=(ConfigError,),
            covers=("node.home.config_edit._accepted",),
        ),
    ]


def _answers() -> Decoder:
    @contextmanager
    def scene(_: Path) -> Iterator[Decode]:
        async def receive(data: bytes) -> None:
            answers = _Answers()
            half = len(data) // 2
            answers.data_received(data[:half])
            answers.data_received(data[half:])

        with asyncio.Runner() as runner:
            yield lambda data: runner.run(receive(data))

    def broken(data: bytes, choices: Choices) -> bytes:
        if choices.one_in(4):
            return broken_bytes(data, choices)
        body = broken_message(data[4:], choices)
        return len(body).to_bytes(4, "big") + body

    return Decoder(
        name="trainer.answers",
        valid=lambda choices: frame(value_of(Answer, choices)),
        broken=broken,
        scene=scene,
    )


_PARSERS: tuple[tuple[Callable[[str], object], str], ...] = (
    (config_values.parse_size, "20.5GiB"),
    (config_values.parse_rate, "10Mbit/s"),
    (config_values.parse_volume, "100GB"),
    (config_values.parse_share, "80%"),
    (config_values.parse_hours, "22:00-07:00, 12:00-13:00"),
    (config_values.parse_days, "mon-fri,sun"),
    (config_values.parse_api, "127.0.0.1:7717"),
    (config_values.check_storage, "20GB"),
    (config_values.check_name, "amber-otter"),
    (config_values.check_listen, "/ip4/0.0.0.0/tcp/0"),
    (config_values.check_announce, "/dns4/example.org/tcp/4001"),
    (config_values.check_device, "cuda:1"),
)


def _typed() -> list[Decoder]:
    """What a person types, one way or another."""

    def of(
        name: str, read: Callable[[str], object], text: str, *errors: type[Exception]
    ) -> Decoder:
        return Decoder(
            name=name,
            valid=lambda _: as_bytes(text),
            broken=lambda data, choices: as_bytes(broken_text(as_text(data), choices)),
            scene=alone(lambda data: read(as_text(data))),
            errors=errors,
        )

    names = {str(peer(number)): f"peer {number}" for number in range(3)}
    return [
        *(of(f"config.{read.__name__}", read, text, ValueError) for read, text in _PARSERS),
        of(
            "references.find_peer",
            lambda text: find_peer(names, text),
            peer(1),
            *(AmbiguousPeerError, NoSuchPeerError),
        ),
        of("keyboard", lambda text: list(keys_of(text)), "\x1b[A\x1b[5~q\x1bOPé"),
    ]
