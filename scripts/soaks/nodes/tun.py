"""A router in user space between TUN devices: latency, jitter, loss and partitions of real IP.

`python -P -m soaks.nodes.tun OPTIONS DEVICE=ADDRESS...` makes each device in the namespace that it
is started in, says "ready", and carries packets between them until its input ends. A line of input
sets who is cut off from whom: the addresses of one side, or an empty line for nobody.
"""

import argparse
import asyncio
import fcntl
import os
import socket
import struct
import sys
from random import Random  # noqa: TID251 - dice for packets, nothing secret

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 65536
MAX_WAITING = 2000
"""Packets on their way over one link; more are lost, as in a router's queue."""


class Router:
    """Carries packets between the devices, each by its destination's address.

    Args:
        latency: seconds one way.
        jitter: added seconds, at most; packets of a link stay in their order.
        loss: share of the packets that is lost.
        seed: of all dice.
    """

    def __init__(self, latency: float, jitter: float, loss: float, seed: int) -> None:
        self._latency = latency
        self._jitter = jitter
        self._loss = loss
        self._random = Random(seed)  # noqa: S311
        self._devices: dict[bytes, int] = {}
        self._side: frozenset[bytes] = frozenset()
        self._due: dict[tuple[bytes, bytes], float] = {}
        self._waiting: dict[tuple[bytes, bytes], int] = {}

    def add(self, device: int, address: bytes) -> None:
        """Carry what comes from a device, and what is for its 4-byte address."""
        self._devices[address] = device
        asyncio.get_running_loop().add_reader(device, self._read, device, address)

    def part(self, side: frozenset[bytes]) -> None:
        """Let nothing through between these addresses and the others."""
        self._side = side

    def _read(self, device: int, source: bytes) -> None:
        packet = os.read(device, PACKET_BYTES)
        target = packet[16:20]
        link = source, target
        if packet[0] >> 4 != 4 or target not in self._devices or self._is_cut(link):
            return
        if self._random.random() < self._loss or self._waiting.get(link, 0) >= MAX_WAITING:
            return
        loop = asyncio.get_running_loop()
        delay = self._latency + self._random.random() * self._jitter
        due = max(self._due.get(link, 0.0), loop.time() + delay)
        self._due[link] = due
        self._waiting[link] = self._waiting.get(link, 0) + 1
        loop.call_at(due, self._write, link, packet)

    def _write(self, link: tuple[bytes, bytes], packet: bytes) -> None:
        self._waiting[link] -= 1
        if not self._is_cut(link):
            os.write(self._devices[link[1]], packet)

    def _is_cut(self, link: tuple[bytes, bytes]) -> bool:
        return (link[0] in self._side) != (link[1] in self._side)


def open_tun(name: str) -> int:
    """Return the descriptor of a new TUN device, which lasts as long as that is open."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


async def _serve(options: argparse.Namespace) -> None:
    router = Router(options.latency, options.jitter, options.loss, options.seed)
    for pair in options.devices:
        name, _, address = pair.partition("=")
        router.add(open_tun(name), socket.inet_aton(address))
    print("ready", flush=True)
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        router.part(frozenset(map(socket.inet_aton, line.decode().split())))
        print("done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds one way")
    parser.add_argument("--jitter", type=float, default=0.0, help="added seconds, at most")
    parser.add_argument("--loss", type=float, default=0.0, help="share of the packets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("devices", nargs="+", metavar="DEVICE=ADDRESS")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
