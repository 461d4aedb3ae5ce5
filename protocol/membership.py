"""Who belongs to a run: certificates say who is in, the host's charter who is out.

    host ──signs──> Charter: numbered; whom it has banned, which invites it took back, the hash of
      │             the run's key, whether the run is paused. The highest number counts.
      └──signs──> Certificate of a steward ──signs──> Certificate of a member

A peer shows its `Passport`, which is its certificate and, where a steward signed that, the
steward's own: whoever knows the manifest can check it without asking anybody. In an open run
nobody needs one, and the charter alone says who is out.

What a banned steward has signed is void, its members' certificates too: a ban can't be dated back.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Annotated, Literal

from msgspec import Meta

from protocol.codec import Message, encode
from protocol.errors import AdmissionError, ProtocolError
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.signing import Bytes32, PeerIdField, Signed, unseal

MAX_ROSTER = 1024
"""Members of a private run, and entries in each list of a charter."""
CERTIFICATE_BYTES = 640
CHARTER_BYTES = 160 << 10

Role = Literal["member", "steward"]
Time = Annotated[float, Meta(ge=0)]


class StrangerError(AdmissionError):
    """A peer that the run's host or stewards have not let in, or no longer."""

    code = "stranger"


class Certificate(Message, frozen=True):
    """The word of the host or a steward that a peer belongs to the run."""

    peer: PeerIdField
    role: Role
    invite: Bytes32
    """The public key of the invite by which it came."""
    admitted: Time
    """DHT time in seconds."""
    expires: Time | None = None


class Charter(Message, frozen=True):
    """The host's word on its run for everybody; a later one takes the place of all before."""

    number: Annotated[int, Meta(ge=1, le=1 << 40)]
    banned: Annotated[tuple[PeerIdField, ...], Meta(max_length=MAX_ROSTER)] = ()
    revoked: Annotated[tuple[Bytes32, ...], Meta(max_length=MAX_ROSTER)] = ()
    """Public keys of the invites by which nobody may come any more."""
    key_hash: Bytes32 | None = None
    """SHA-256 of the key under which a private run's records are encrypted."""
    paused: bool = False


class Passport(Message, frozen=True):
    """What a peer shows: envelopes of its certificate, and of its issuer's if that is a steward."""

    certificate: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES)] = b""
    """Empty for whom the manifest names."""
    issuer: Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES)] = b""


NO_PASSPORT = Passport()


class Register:
    """Who belongs to one run and who doesn't, as far as peer `me` has heard. Pure.

    `certificates` are of the members known; `charter` is the newest of the host's.
    """

    def __init__(self, run: bytes, manifest: Manifest, me: PeerId) -> None:
        self.me = me
        self.host = PeerId(manifest.host)
        self.is_private = manifest.admission == "invite"
        self.charter: Signed[Charter] | None = None
        self.key: bytes | None = None
        """Under which a private run's records are encrypted; the charter has its hash."""
        self.banned: frozenset[PeerId] = frozenset()
        """Whom the host has shut out."""
        self._run = run
        self._named = frozenset({self.host, *map(PeerId, manifest.stewards)})
        self._passports: dict[PeerId, Passport] = {}
        self._certificates: dict[PeerId, Signed[Certificate]] = {}

    @property
    def paused(self) -> bool:
        """Whether the host has paused the run for everybody."""
        return self.charter is not None and self.charter.message.paused

    @property
    def named(self) -> frozenset[PeerId]:
        """Whom the manifest names: the host and its first stewards need no certificate."""
        return self._named

    @property
    def certificates(self) -> Mapping[PeerId, Signed[Certificate]]:
        """The certificates heard of, with who signed them, those of banned peers too."""
        return self._certificates

    def passports(self) -> tuple[Passport, ...]:
        """Return the passports of all members heard of."""
        return tuple(self._passports.values())

    def passport(self, peer: PeerId) -> Passport:
        """Return what `peer` shows; empty where it needs none."""
        return self._passports.get(peer, NO_PASSPORT)

    def members(self, now: float) -> frozenset[PeerId]:
        """Return whom this node knows to belong to a private run at DHT time `now`."""
        known = self._named | self._certificates.keys()
        return frozenset(peer for peer in known if self.is_member(peer, now))

    def is_member(self, peer: PeerId, now: float) -> bool:
        """Return whether `peer` is known to belong to the run."""
        if peer in self.banned:
            return False
        if peer in self._named or not self.is_private:
            return True
        signed = self._certificates.get(peer)
        return signed is not None and self._holds(signed, now)

    def may_admit(self, peer: PeerId, now: float) -> bool:
        """Return whether `peer` may let others in: the host, and stewards that are members."""
        if peer in self.banned:
            return False
        signed = self._certificates.get(peer)
        by_role = signed is not None and signed.message.role == "steward"
        return peer in self._named or (by_role and self.is_member(peer, now))

    def uses(self, invite: bytes) -> int:
        """Return how many peers have come by the invite with this public key."""
        return sum(each.message.invite == invite for each in self._certificates.values())

    def farewell(self, peer: PeerId, passport: Passport) -> bytes | None:
        """Return the charter that bans `peer`, for a former member to see; None for strangers."""
        if self.charter is None or peer not in self.banned:
            return None
        try:
            signed = self._read(passport)
        except ProtocolError:
            return None
        return self.charter.envelope if signed.message.peer == peer else None

    def check(self, passport: Passport, peer: PeerId, now: float) -> Signed[Certificate] | None:
        """Check what `peer` shows; None where the manifest names it.

        Raises:
            StrangerError: it doesn't belong to the run at DHT time `now`.
        """
        if peer in self.banned:
            raise StrangerError(f"{peer} was banned by the host")
        if peer in self._named:
            return None
        signed = self._read(passport)
        if signed.message.peer != peer:
            raise StrangerError("it shows somebody else's certificate")
        if signed.message.expires is not None and signed.message.expires <= now:
            raise StrangerError(f"the membership of {peer} has ended")
        return signed

    def welcome(self, passport: Passport) -> bool:
        """Take a passport into the register; true if it is news.

        Raises:
            StrangerError: it isn't valid, or the register is full.
        """
        signed = self._read(passport)
        peer = PeerId(signed.message.peer)
        known = self._certificates.get(peer)
        if peer in self._named or (known and _order(signed) <= _order(known)):
            return False
        if known is None and len(self._certificates) >= MAX_ROSTER:
            raise StrangerError(f"the run has {MAX_ROSTER} members already")
        self._certificates[peer], self._passports[peer] = signed, passport
        return True

    def welcome_all(self, passports: Iterable[Passport]) -> bool:
        """Take what is valid of many passports; true if any is news."""
        news = False
        for passport in passports:
            try:
                news |= self.welcome(passport)
            except ProtocolError:
                continue
        return news

    def adopt(self, envelope: bytes, key: bytes | None = None) -> bool:
        """Take the host's charter if it is later than what we have; true if it is.

        Args:
            envelope: the charter, as a peer or a file gave it.
            key: of a private run, the key that it names; None where it bans us.

        Raises:
            ProtocolError: not a charter of this run's host, or another key.
        """
        if self.charter is not None and self.charter.envelope == envelope:
            return False
        signed = unseal(envelope, self._run, Charter, CHARTER_BYTES)
        self._check_charter(signed, key)
        if self.charter is not None and _rank(signed) <= _rank(self.charter):
            return False
        self.charter, self.key = signed, key
        self.banned = frozenset(map(PeerId, signed.message.banned))
        for peer in [peer for peer, each in self._certificates.items() if self._is_void(each)]:
            del self._certificates[peer], self._passports[peer]
        return True

    def _check_charter(self, signed: Signed[Charter], key: bytes | None) -> None:
        if signed.signer != self.host:
            raise StrangerError("a charter that the host has not signed")
        if self.host in signed.message.banned:
            raise StrangerError("a charter that bans the host itself")
        if key is None and self.me in signed.message.banned:
            return
        if (sha256(key).digest() if key else None) != signed.message.key_hash:
            raise StrangerError("a charter with another key than it names")
        if self.is_private and key is None:
            raise StrangerError("a private run's charter without a key")

    def _is_void(self, signed: Signed[Certificate]) -> bool:
        return signed.signer in self.banned

    def digest(self) -> bytes:
        """Return what two peers compare to learn whether they know the same."""
        parts = [self.charter.envelope if self.charter else b""]
        parts += sorted(encode(passport) for passport in self._passports.values())
        return sha256(b"".join(sha256(part).digest() for part in parts)).digest()

    def _read(self, passport: Passport) -> Signed[Certificate]:
        signed = unseal(passport.certificate, self._run, Certificate, CERTIFICATE_BYTES)
        if not passport.issuer:
            self._check_issuer(signed.signer, None)
        else:
            steward = unseal(passport.issuer, self._run, Certificate, CERTIFICATE_BYTES)
            self._check_issuer(signed.signer, steward)
            if signed.message.role == "steward":
                raise StrangerError("only the host makes stewards")
        return signed

    def _check_issuer(self, issuer: PeerId, steward: Signed[Certificate] | None) -> None:
        if issuer in self.banned:
            raise StrangerError("its certificate is by somebody whom the host has banned")
        if issuer in self._named:
            return
        if steward is None or steward.message.peer != issuer or steward.signer != self.host:
            raise StrangerError("its certificate is by nobody who may let others in")
        if steward.message.role != "steward":
            raise StrangerError("its certificate is by a member that is no steward")

    def _holds(self, signed: Signed[Certificate], now: float) -> bool:
        ends = signed.message.expires
        return not self._is_void(signed) and (ends is None or ends > now)


def _order(signed: Signed[Certificate]) -> tuple[bool, float, bytes]:
    """Of two certificates of a peer the higher counts, at everybody."""
    return signed.message.role == "steward", signed.message.admitted, signed.envelope


def _rank(signed: Signed[Charter]) -> tuple[int, bytes]:
    """Two charters of one number are a host's that came back from an older backup."""
    return signed.message.number, sha256(signed.envelope).digest()
