"""Invites: a secret in a link, and what peers say to each other to redeem it.

An invite is a key pair. Its public half, with how many may come by it and until when, is signed by
the host (`InviteTerms`); the link carries the private half and that signature. So any steward can
admit by it while the host is away, without having heard of it before, and redeeming shows no
secret to anybody: the redeemer signs, with the invite's key, for itself and for whom it asks.

    Redeem  →  Admission | NotAdmitted
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast

from msgspec import Meta

from protocol.codec import MAX_MESSAGE_BYTES, Message, decode, encode
from protocol.errors import (
    InviteError,
    InviteExpiredError,
    InviteUsedUpError,
    LinkError,
    NotMemberError,
    SignatureError,
    TalkootError,
)
from protocol.identity import Identity, PeerId, peer_id_of, public_key_of, verify
from protocol.manifest import MANIFEST_BYTES
from protocol.membership import CHARTER_BYTES, MAX_ROSTER, Passport, Role
from protocol.rollcall import RoundField
from protocol.signing import Bytes32, Envelope, Signed, seal, unseal

INVITE_PROTOCOL = "/talkoot/1/invite"
REDEEM_BYTES = 1 << 10
ADMISSION_BYTES = 2 * MAX_MESSAGE_BYTES
MAX_USES = 1000
LATEST = 1 << 40
"""No invite and no link ends later, in seconds of DHT time."""
_SEED_BYTES, _SIGNATURE_BYTES = 32, 64
_ROLES: tuple[Role, ...] = ("member", "steward")
_PROOF = b"talkoot/1 redeem\0"

Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Refusal = Literal["refused", "expired", "used_up", "revoked", "banned", "full", "not_a_steward"]


class InviteTerms(Message, frozen=True):
    """What the host signs of an invite."""

    key: Bytes32
    """The invite's public key, by which it is known."""
    uses: Annotated[int, Meta(ge=1, le=MAX_USES)]
    role: Role
    expires: Annotated[int, Meta(ge=0, le=LATEST)]
    """DHT time in seconds."""


class Redeem(Message, frozen=True):
    """Asks to see the run behind an invite, or to be let in."""

    run: Bytes32
    terms: InviteTerms
    signature: Signature
    """The host's, of the terms."""
    proof: Signature
    """By the invite's key: see `proof_of`."""
    enter: bool
    """False: only the manifest is asked for, and no use is spent."""


class Admission(Message, frozen=True):
    """The run behind an invite; to who enters also all that a member has."""

    manifest: Annotated[bytes, Meta(max_length=MANIFEST_BYTES)]
    peers: Annotated[int, Meta(ge=0)]
    """Who is there now."""
    round: RoundField
    """Of the state that they hold."""
    passport: Passport | None = None
    charter: Annotated[bytes, Meta(max_length=CHARTER_BYTES)] = b""
    key: Bytes32 | None = None
    roster: Annotated[tuple[Passport, ...], Meta(max_length=MAX_ROSTER)] = ()


class NotAdmitted(Message, frozen=True):
    """No. To who has no valid invite the reason is always the same."""

    reason: Refusal


RedeemReply: TypeAlias = Admission | NotAdmitted


def refusal_of(reason: Refusal) -> TalkootError:
    """Return what to tell a person whose invite was not taken."""
    match reason:
        case "expired":
            return InviteExpiredError()
        case "used_up":
            return InviteUsedUpError()
        case "banned":
            return NotMemberError("the host has banned this node from the run")
        case _:
            return InviteError(_REASONS[reason])


_REASONS: dict[Refusal, str] = {
    "refused": "the peers of this link know no such invite",
    "revoked": "the host has taken this invite back",
    "full": "the run has as many members as it can have",
    "not_a_steward": "nobody who may let others in answers now: neither the host nor a steward",
}


@dataclass(frozen=True, slots=True)
class InviteSecret:
    """What a link carries of an invite, beside its end."""

    seed: bytes
    """The invite's private key, 32 bytes."""
    uses: int
    role: Role
    signature: bytes
    """The host's, of the terms."""

    @property
    def identity(self) -> Identity:
        """The invite's key pair."""
        return Identity.from_seed(self.seed)

    def terms(self, expires: int) -> InviteTerms:
        """Return what the host has signed."""
        key = public_key_of(self.identity.peer_id)
        return InviteTerms(key=key, uses=self.uses, role=self.role, expires=expires)

    def __str__(self) -> str:
        numbers = self.uses.to_bytes(2, "big") + bytes([_ROLES.index(self.role)])
        data = self.seed + self.signature + numbers
        return urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "InviteSecret":
        """Return the secret in a link's field. Raises LinkError: it is none."""
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            data = b""
        seed, rest = data[:_SEED_BYTES], data[_SEED_BYTES:]
        signature, uses, role = rest[:_SIGNATURE_BYTES], rest[_SIGNATURE_BYTES:-1], rest[-1:]
        number = int.from_bytes(uses, "big")
        if len(uses) == 2 and 1 <= number <= MAX_USES and role[0] < len(_ROLES):
            found = cls(seed, number, _ROLES[role[0]], signature)
            if str(found) == text:
                return found
        raise LinkError("the link's invite can't be read", hint="Copy the whole link again.")


def make_invite(
    host: Identity, run: bytes, seed: bytes, uses: int, role: Role, expires: int
) -> InviteSecret:
    """Return the secret of a new invite that the run's host signs, from 32 random bytes."""
    unsigned = InviteSecret(seed, uses, role, b"")
    signed = seal(host, run, unsigned.terms(expires))
    return InviteSecret(seed, uses, role, decode(signed.envelope, Envelope).signature)


def ask_with(
    secret: InviteSecret, expires: int, run: bytes, me: PeerId, asked: PeerId, *, enter: bool
) -> Redeem:
    """Return what `me` says to `asked` to redeem an invite."""
    proof = secret.identity.sign(_proven(run, me, asked))
    terms = secret.terms(expires)
    return Redeem(run=run, terms=terms, signature=secret.signature, proof=proof, enter=enter)


def check_redeem(request: Redeem, host: PeerId, asking: PeerId, me: PeerId) -> Signed[InviteTerms]:
    """Check that `asking` holds an invite of `host`, and asks `me` for itself.

    Raises:
        SignatureError: one of the signatures is not right.
    """
    key = peer_id_of(request.terms.key)
    verify(key, _proven(request.run, asking, me), request.proof)
    payload = encode(request.terms)
    envelope = Envelope(signer=host, payload=payload, signature=request.signature)
    signed = unseal(encode(envelope), request.run, InviteTerms)
    if signed.signer != host:
        raise SignatureError("the invite is not the host's")
    return signed


def read_redeem(frame: bytes) -> Redeem:
    """Return the request in `frame`. Raises CodecError: it holds none."""
    return decode(frame, Redeem, limit=REDEEM_BYTES)


def read_redeem_reply(frame: bytes) -> RedeemReply:
    """Return the reply in `frame`. Raises CodecError: it holds none."""
    return cast(RedeemReply, decode(frame, RedeemReply, limit=ADMISSION_BYTES))


def _proven(run: bytes, asking: PeerId, asked: PeerId) -> bytes:
    return _PROOF + run + asking.encode() + asked.encode()
