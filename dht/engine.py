"""The parts of hivemind that talkoot uses, without the rest, and without what importing it does.

`import hivemind` loads torch: 240 MB and 2.5 s for a daemon that never trains. Its packages are
therefore put in place unopened: a submodule can be imported from them, and the first look at
anything else runs the package's own `__init__`, as if nothing had been postponed. Importing it
also renames the level WARNING to WARN for all loggers and prints to stderr by a handler of its
own; both are undone here.

    DHTID, DHTNode, DHTProtocol, RoutingTable     Kademlia
    P2P, P2PContext, PeerID, Multiaddr            libp2p through p2pd
    ControlClient                                 p2pd's persistent connection
    dht_pb2, p2pd_pb2                             protobufs of both
    get_dht_time                                  the swarm's clock
"""

import importlib
import importlib.util
import logging
import sys
from types import ModuleType

_POSTPONED = ("hivemind", "hivemind.utils", "hivemind.dht")
_LIGHT_UTILS = ("serializer", "logging", "timed_storage")
"""The submodules of hivemind.utils whose names the DHT imports from the package itself."""


class _PostponedPackage(ModuleType):
    """A package whose `__init__` runs when something is asked of it that isn't there yet."""

    def __getattr__(self, name: str) -> object:
        submodule = sys.modules.get(f"{self.__name__}.{name}")  # perhaps just being imported
        if submodule is not None:
            return submodule
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # opened: an ordinary package now
        spec.loader.exec_module(self)
        return getattr(self, name)


def _postpone(name: str) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _PostponedPackage
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


def _fill_utils() -> None:
    package = sys.modules["hivemind.utils"]
    for name in _LIGHT_UTILS:
        module = importlib.import_module(f"hivemind.utils.{name}")
        for public, value in vars(module).items():
            if not public.startswith("_"):
                package.__dict__.setdefault(public, value)


for _name in _POSTPONED:
    _postpone(_name)
_fill_utils()

# ruff: noqa: E402  # only now are these imports light
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.message import Message as Protobuf
from hivemind.dht.node import Blacklist, DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.p2p import P2P, P2PContext, P2PDaemonError, P2PHandlerError, PeerID
from hivemind.p2p.p2p_daemon_bindings.control import ControlClient
from hivemind.p2p.p2p_daemon_bindings.utils import read_pbmsg_safe, write_pbmsg
from hivemind.proto import dht_pb2, p2pd_pb2
from hivemind.utils.logging import use_hivemind_log_handler
from hivemind.utils.multiaddr import Multiaddr
from hivemind.utils.timed_storage import get_dht_time

use_hivemind_log_handler("nowhere")
logging.getLogger("hivemind").setLevel(logging.WARNING)
logging.addLevelName(logging.WARNING, "WARNING")

__all__ = [
    "DHTID",
    "P2P",
    "Blacklist",
    "ControlClient",
    "DHTNode",
    "DHTProtocol",
    "DecodeError",
    "Multiaddr",
    "P2PContext",
    "P2PDaemonError",
    "P2PHandlerError",
    "PeerID",
    "Protobuf",
    "RoutingTable",
    "dht_pb2",
    "get_dht_time",
    "p2pd_pb2",
    "read_pbmsg_safe",
    "write_pbmsg",
]
