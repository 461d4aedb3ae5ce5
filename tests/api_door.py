"""A served control API over a fake node, and the barest of clients for it."""

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
