"""A peer's identity: an Ed25519 key, known to others by its libp2p PeerID.

A PeerID of an Ed25519 key *contains* the public key (identity multihash of the libp2p PublicKey
protobuf), so a signature can be checked from the PeerID alone.
"""

from typing import NewType

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.errors import SignatureError, TalkootError

PeerId = NewType("PeerId", str)
"""Base58 of the PeerID multihash: what people see and what messages carry (52 characters)."""

_PEER_ID_CHARACTERS = 52
_PEER_ID_PREFIX = b"\x00\x24\x08\x01\x12\x20"  # identity multihash, 36 bytes; key type 1; 32 bytes
_PRIVATE_KEY_PREFIX = b"\x08\x01\x12\x40"  # PrivateKey protobuf: key type 1; 64 bytes


class IdentityFileError(TalkootError):
    """An identity file that doesn't hold an Ed25519 key in libp2p's format."""

    code = "bad_identity"


def peer_id_of(public_key: bytes) -> PeerId:
    """Return the PeerID of a raw 32-byte Ed25519 public key."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def public_key_of(peer_id: str) -> bytes:
    """Return the raw 32-byte public key inside `peer_id`.

    Raises:
        SignatureError: not the PeerID of an Ed25519 key.
    """
    try:
        # one form for each key: the decoder itself would let white space at the end pass
        raw = base58.b58decode(peer_id) if len(peer_id) == _PEER_ID_CHARACTERS else b""
    except ValueError:
        raw = b""
    if len(raw) != len(_PEER_ID_PREFIX) + 32 or not raw.startswith(_PEER_ID_PREFIX):
        raise SignatureError(f"{peer_id[:64]!r} is not the PeerID of an Ed25519 key")
    return raw[len(_PEER_ID_PREFIX) :]


def verify(peer_id: str, message: bytes, signature: bytes) -> None:
    """Check that `peer_id` signed `message`.

    Raises:
        SignatureError: it did not, or `peer_id` is malformed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(peer_id)).verify(signature, message)
    except InvalidSignature as error:
        raise SignatureError(f"the signature is not by {peer_id}") from error


class Identity:
    """The private key of this peer."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_id = peer_id_of(key.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """Return the identity whose private key is the 32-byte `seed`."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_libp2p(cls, data: bytes) -> "Identity":
        """Return the identity in `data`, the libp2p PrivateKey protobuf that p2pd reads.

        Raises:
            IdentityFileError: of another length or key type, or its halves don't belong together.
        """
        body = data[len(_PRIVATE_KEY_PREFIX) :]
        if not data.startswith(_PRIVATE_KEY_PREFIX) or len(body) != 64:
            raise IdentityFileError("the identity file does not hold an Ed25519 key")
        identity = cls.from_seed(body[:32])
        if identity.to_libp2p() != data:
            raise IdentityFileError("the identity file is damaged: its two halves differ")
        return identity

    def to_libp2p(self) -> bytes:
        """Return the libp2p PrivateKey protobuf (68 bytes: header, seed, public key)."""
        public = self._key.public_key().public_bytes_raw()
        return _PRIVATE_KEY_PREFIX + self._key.private_bytes_raw() + public

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self._key.sign(message)
