"""The part of the control API's client that hosts: a pause for all, invites, bans, and blocks."""

from abc import ABC, abstractmethod
from typing import TypeVar
from urllib.parse import quote

import msgspec

from protocol.control import API_PREFIX, Peer, RunStatus
from protocol.hosting import Invite, InviteRequest, Member, RunChange
from protocol.references import find_run, hosted_run, only_run

ANSWER_SECONDS = 10.0

ReplyT = TypeVar("ReplyT")


class HostingCalls(ABC):
    """Calls to one node, which `node.api.client.NodeClient` makes; all raise what that says."""

    @abstractmethod
    async def runs(self) -> list[RunStatus]:
        """Return the node's runs."""

    @abstractmethod
    async def _call(
        self,
        method: str,
        where: str,
        kind: type[ReplyT],
        *,
        body: msgspec.Struct | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> ReplyT: ...

    async def change_run(self, run: str | None, change: RunChange) -> RunStatus:
        """Change what the host may change of a run for everybody."""
        where = await self._hosted(run)
        return await self._call("PATCH", where, RunStatus, body=change)

    async def create_invite(self, run: str | None, wanted: InviteRequest) -> Invite:
        """Make an invite to a private run that this node hosts."""
        where = f"{await self._hosted(run, private=True)}/invites"
        return await self._call("POST", where, Invite, body=wanted)

    async def invites(self, run: str | None = None) -> list[Invite]:
        """Return the invites to a private run that this node hosts, newest first."""
        where = f"{await self._hosted(run, private=True)}/invites"
        return await self._call("GET", where, list[Invite])

    async def revoke_invite(self, run: str | None, invite: str) -> Invite:
        """Let nobody join by an invite (by its id, or the start of it) any more."""
        where = f"{await self._hosted(run, private=True)}/invites/{segment(invite)}"
        return await self._call("DELETE", where, Invite)

    async def members(self, run: str | None = None) -> list[Member]:
        """Return who was let into a run; None = the only one hosted here, else the only run."""
        runs = await self.runs()
        hosted = [status for status in runs if status.role == "host"]
        found = only_run(hosted or runs, None) if run is None else find_run(runs, run)
        return await self._call("GET", f"{API_PREFIX}/runs/{found.run}/members", list[Member])

    async def ban(self, run: str | None, peer: str) -> Member:
        """Shut a peer (by id, a part of it, or name) out of a run that this node hosts."""
        where = f"{await self._hosted(run)}/bans/{segment(peer)}"
        return await self._call("PUT", where, Member)

    async def unban(self, run: str | None, peer: str) -> Member:
        """Take a ban back."""
        where = f"{await self._hosted(run)}/bans/{segment(peer)}"
        return await self._call("DELETE", where, Member)

    async def block(self, run: str | None, peer: str) -> Peer:
        """Have this node deal with a peer (by id, a part of it, or name) no more."""
        where = f"{await self._place(run)}/blocks/{segment(peer)}"
        return await self._call("PUT", where, Peer)

    async def unblock(self, run: str | None, peer: str) -> Peer:
        """Have this node deal with a blocked peer again."""
        where = f"{await self._place(run)}/blocks/{segment(peer)}"
        return await self._call("DELETE", where, Peer)

    async def _hosted(self, run: str | None, *, private: bool = False) -> str:
        found = hosted_run(await self.runs(), run, private=private)
        return f"{API_PREFIX}/runs/{found.run}"

    async def _place(self, run: str | None) -> str:
        return f"{API_PREFIX}/runs/{only_run(await self.runs(), run).run}"


def segment(text: str) -> str:
    """Return `text` as one segment of a path; dots alone would be taken for a folder."""
    return quote(text, safe="") if text.strip(".") else "%20"
