"""The rival: a peer that averages by hivemind's own DecentralizedAverager.

It runs three processes, as hivemind does: this one, its DHT with p2pd, and the averager.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

os.environ["HIVEMIND_LOGLEVEL"] = "ERROR"  # read when hivemind is first imported

import hivemind
import torch
from hivemind.averaging.control import AveragingStage, StepControl
from hivemind.compression import Float16Compression

from benches.peers.group import Timed

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
MATCH_SECONDS = 2.0
REQUEST_SECONDS = 1.0
STEP_SECONDS = 60.0
_POLL_SECONDS = 0.02


def serve(pipe: Connection, number: int, tensors: tuple[int, ...], threads: int) -> None:
    """Be a peer with tensors of these sizes."""
    multiprocessing.set_start_method("fork", force=True)  # hivemind's processes can't be spawned
    torch.set_num_threads(threads)
    torch.manual_seed(number)
    peer = Peer(tuple(torch.randn(size) for size in tensors))
    pipe.send("ready")
    methods: dict[str, Callable[[Any], object]] = {
        "join": peer.join,
        "match": peer.match,
        "average": peer.average,
    }
    while True:
        try:
            method, argument = pipe.recv()
        except EOFError:
            return  # its processes are daemons: they end with this one
        pipe.send(methods[method](argument))


class Peer:
    """Goes through one averaging step after the other as the benchmark says."""

    def __init__(self, tensors: tuple[torch.Tensor, ...]) -> None:
        self._tensors = tensors
        self._dht: Any = None
        self._averager: Any = None
        self._step: StepControl | None = None

    def join(self, setting: tuple[list[str], int]) -> list[str]:
        """Join the DHT of peers at these addresses for groups of this size; return its own."""
        peers, size = setting
        self._dht = hivemind.DHT(start=True, initial_peers=peers, host_maddrs=LOOPBACK)
        self._averager = hivemind.DecentralizedAverager(
            self._tensors,
            self._dht,
            start=True,
            prefix="bench",
            target_group_size=size,
            min_group_size=size,
            compression=Float16Compression(),
            min_matchmaking_time=MATCH_SECONDS,
            request_timeout=REQUEST_SECONDS,
        )
        return [str(address) for address in self._dht.get_visible_maddrs()]

    def match(self, _: None) -> None:
        """Find a group, and wait with it for the word to average."""
        with self._averager.get_tensors() as tensors:
            for tensor in tensors:
                tensor.normal_()
        self._step = self._averager.step(wait=False, require_trigger=True, timeout=STEP_SECONDS)
        while self._step.stage != AveragingStage.AWAITING_TRIGGER:
            if self._step.done():
                self._step.result()
            time.sleep(_POLL_SECONDS)

    def average(self, _: None) -> Timed:
        """Give the word and wait for the average: the result is the group's size."""
        if self._step is None:
            raise RuntimeError("there is no group")
        began = time.monotonic()
        self._step.allow_allreduce()
        group = self._step.result(timeout=STEP_SECONDS)
        return began, time.monotonic(), len(group)
