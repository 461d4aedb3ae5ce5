"""A served control API over a fake node, and the barest of clients for it."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from node.api.server import serve_api
from node.home.paths import Paths
from tests.fake_node import FakeControls

FREE_PORT = "127.0.0.1:0"


@dataclass
class Door:
    """A served API and a bare HTTP session to it, without any header of its own."""

    url: str
    token: str
    read_token: str
    session: aiohttp.ClientSession
    controls: FakeControls

    @property
    def asked(self) -> list[tuple[object, ...]]:
        """What the node was asked by calls; the chronicle looks at its status on its own."""
        return [call for call in self.controls.asked if call != ("status",)]

    async def call(
        self,
        method: str = "GET",
        path: str = "/v1/status",
        *,
        token: str | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        headers.setdefault("Authorization", f"Bearer {token or self.token}")
        async with self.session.request(
            method, self.url + path, headers=headers, data=data
        ) as response:
            return response.status, await response.json()

    async def text(self, path: str, *, token: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, await response.text()


@asynccontextmanager
async def opened(paths: Paths) -> AsyncIterator[Door]:
    """Serve a fake node in the home `paths`."""
    controls = FakeControls()
    async with serve_api(controls, paths, FREE_PORT) as url, aiohttp.ClientSession() as session:
        token, read_token = paths.token.read_text(), paths.read_token.read_text()
        yield Door(url, token, read_token, session, controls)


async def silent_listener(url: str, token: str) -> socket.socket:
    """Connect to the events, and never read."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (host, int(port)))
    await loop.sock_sendall(connection, _handshake(host, int(port), token))
    return connection


def _handshake(host: str, port: int, token: str) -> bytes:
    lines = (
        "GET /v1/events HTTP/1.1",
        f"Host: {host}:{port}",
        f"Authorization: Bearer {token}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}",
        "\r\n",
    )
    return "\r\n".join(lines).encode()
