"""What this node knows of who belongs to one run, in memory and on disk.

RunMembers ── Register (protocol.membership)   certificates, charter, run key
    │         invites that this node made, peers that its person has blocked
    └── members.msgpack, readable by this user only: it holds keys
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from node.store.storage import Disk, set_aside, telling
from protocol.affairs import Affairs, Expelled, affairs_protocol
from protocol.codec import Message, decode, encode
from protocol.errors import CodecError, NotMemberError, ProtocolError
from protocol.identity import PeerId
from protocol.invites import MAX_USES, InviteSecret, Signature
from protocol.manifest import Manifest
from protocol.membership import (
    CHARTER_BYTES,
    MAX_ROSTER,
    Certificate,
    Passport,
    Register,
    Role,
    StrangerError,
)
from protocol.signing import Bytes32, PeerIdField, Signed

log = logging.getLogger(__name__)

FILE_NAME = "members.msgpack"
MAX_INVITES = 256
MAX_BLOCKED = 1024
_FILE_BYTES = 4 << 20

Clock = Callable[[], float]


class KeptInvite(Message, frozen=True):
    """An invite that this node, as the host, has made."""

    seed: Bytes32
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)]
    role: Role
    created: Annotated[float, Meta(ge=0)]
    expires: Annotated[int, Meta(ge=0)]
    signature: Signature

    @property
    def secret(self) -> InviteSecret:
        """What its link carries."""
        return InviteSecret(self.seed, self.uses, self.role, self.signature)

    @property
    def key(self) -> bytes:
        """Its public key."""
        return self.secret.terms(self.expires).key


class _Kept(Message, frozen=True):
    charter: Annotated[bytes, Meta(max_length=CHARTER_BYTES)] = b""
    key: Bytes32 | None = None
    roster: Annotated[tuple[Passport, ...], Meta(max_length=MAX_ROSTER)] = ()
    blocked: Annotated[tuple[PeerIdField, ...], Meta(max_length=MAX_BLOCKED)] = ()
    invites: Annotated[tuple[KeptInvite, ...], Meta(max_length=MAX_INVITES)] = ()


class RunMembers:
    """Who belongs to one run; implements `dht.private_swarm.Membership`.

    `changed` is set with every piece of news, for its one follower to clear.

    Args:
        run: the run's 32-byte id.
        manifest: what it says.
        me: this peer.
        folder: the run's folder.
        disk: for durable writing.
        clock: DHT time.
    """

    def __init__(
        self, run: bytes, manifest: Manifest, me: PeerId, folder: Path, disk: Disk, clock: Clock
    ) -> None:
        self.register = Register(run, manifest, me)
        self.blocked: set[PeerId] = set()
        self.invites: dict[bytes, KeptInvite] = {}
        """Those that this node made, by their public keys, the newest last."""
        self.changed = asyncio.Event()
        self.run = run
        self.me = me
        self.clock = clock
        self._path = folder / FILE_NAME
        self._disk = disk
        self._writing = asyncio.Lock()

    # dht.private_swarm.Membership

    def refuses(self, peer: PeerId) -> bool:
        """Return whether this node has no dealings with `peer` in this run."""
        if peer == self.me:
            return False
        return peer in self.blocked or not self.register.is_member(peer, self.clock())

    @property
    def passport(self) -> Passport:
        """What this peer shows."""
        return self.register.passport(self.me)

    @property
    def key(self) -> bytes | None:
        """The run's key; None = there is none here."""
        return self.register.key

    def let_in(self, peer: PeerId, passport: Passport) -> None:
        """Check what `peer` shows and take it into the register. Raises StrangerError."""
        if passport == self.register.passport(peer) and not self.refuses(peer):
            return  # checked before
        try:
            signed = self.register.check(passport, peer, self.clock())
            news = signed is not None and self.register.welcome(passport)
        except StrangerError:
            raise
        except ProtocolError as error:
            raise StrangerError(f"it shows what is no passport: {error.message}") from error
        if news:
            self.changed.set()

    def farewell(self, peer: PeerId, service: str, passport: Passport) -> bytes | None:
        """Return what to tell a banned member that asks for the run's affairs; else None."""
        if service != affairs_protocol(self.run):
            return None
        charter = self.register.farewell(peer, passport)
        return encode(Expelled(charter=charter)) if charter else None

    @property
    def is_banned(self) -> bool:
        """Whether the host has shut this node out."""
        return self.me in self.register.banned

    # news

    def affairs(self) -> Affairs:
        """Return all that this node knows, for another member."""
        register = self.register
        return Affairs(
            digest=register.digest(),
            charter=register.charter.envelope if register.charter else b"",
            key=register.key,
            roster=register.passports(),
        )

    def merge(self, affairs: Affairs) -> None:
        """Take what another member knows.

        Raises:
            ProtocolError: a charter that is not the host's.
        """
        news = bool(affairs.charter) and self.register.adopt(affairs.charter, affairs.key)
        if self.register.welcome_all(affairs.roster) or news:
            self.changed.set()

    def be_expelled(self, farewell: Expelled) -> None:
        """Take the word of the host that this node is banned. Raises ProtocolError: it isn't."""
        if self.register.adopt(farewell.charter):
            self.changed.set()

    def admitting(self, addresses: Iterable[str]) -> list[str]:
        """Return those of these multiaddrs under which somebody answers who may let others in."""
        may = partial(self.register.may_admit, now=self.clock())
        return [
            each for each in dict.fromkeys(addresses) if may(PeerId(each.rpartition("/p2p/")[2]))
        ]

    def admitted(self, peer: PeerId) -> Signed[Certificate] | None:
        """Return the certificate of a peer, if it needed one and is known."""
        return self.register.certificates.get(peer)

    # the disk

    async def load(self) -> None:
        """Read what is on disk; a damaged file is set aside, and the host's bans come again.

        Raises:
            NotMemberError: a run by invite, and it can't be taken part in without the file.
        """
        kept = await asyncio.to_thread(self._read)
        try:
            if kept.charter:
                self.register.adopt(kept.charter, kept.key)
        except ProtocolError as error:
            log.warning("the charter in %s is left out: %s", self._path, error)
        self.register.welcome_all(kept.roster)
        self.blocked |= set(map(PeerId, kept.blocked))
        self.invites |= {each.key: each for each in kept.invites}
        self.check()

    def check(self) -> None:
        """Check that this node can take part. Raises NotMemberError."""
        register = self.register
        if not register.is_private or self.me == register.host or self.is_banned:
            return
        if register.key is None or not (self.me in register.named or self.admitted(self.me)):
            raise _lost()

    async def save(self) -> None:
        """Write all of it.

        Raises:
            DiskFullError, WriteError: it can't be kept; what was there before remains.
        """
        async with self._writing:
            register = self.register
            kept = _Kept(
                charter=register.charter.envelope if register.charter else b"",
                key=register.key,
                roster=register.passports(),
                blocked=tuple(sorted(self.blocked)),
                invites=tuple(self.invites.values()),
            )
            data = encode(kept)
            await asyncio.to_thread(self._disk.write_secret, self._path, [data])

    def _read(self) -> _Kept:
        with telling(self._path.parent, 0):
            try:
                return decode(self._path.read_bytes(), _Kept, limit=_FILE_BYTES)
            except FileNotFoundError:
                return _Kept()
            except CodecError as error:
                log.warning("%s is damaged: %s; set aside", self._path, error)
                set_aside(self._path)
                return _Kept()


def key_hash(key: bytes) -> bytes:
    """Return what a charter says of the run's key."""
    return sha256(key).digest()


def _lost() -> NotMemberError:
    return NotMemberError("this node no longer has its membership of this private run")
