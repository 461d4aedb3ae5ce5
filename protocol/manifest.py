"""The manifest: what a run trains and by which rules, signed once by its host.

The SHA-256 of its canonical bytes is the run id. Its rules can't change afterwards: a run with
other rules is another run.
"""

from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from protocol.codec import Message, decode, encode
from protocol.errors import CodecError, LaterManifestError, ManifestError, SignatureError
from protocol.identity import Identity
from protocol.layout import MAX_PARAMETERS
from protocol.signing import Bytes32, Digest, Envelope, PeerIdField, RunId, Signed, seal, unseal

PROTOCOL_VERSION = 1
MANIFEST_BYTES = 64 << 10
MOST_KEPT_ROUNDS = 16
NO_RUN = bytes(32)
"""The run in a manifest's own envelope: the manifest is what defines the run."""

Scalar = bool | int | float | Annotated[str, Meta(max_length=1024)]
Settings = Annotated[
    dict[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")], Scalar], Meta(max_length=64)
]
Text = Annotated[str, Meta(max_length=2000)]
MethodKind = Literal["local", "spsa"]
Admission = Literal["open", "invite"]
Rule = Literal["clip", "mean", "median", "trimmed_mean", "krum", "flag"]


class TaskSpec(Message, frozen=True):
    """What is trained: an installed task kind, its settings, and the Merkle root of its data."""

    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
    version: Annotated[int, Meta(ge=1, le=1 << 20)]
    config: Settings
    data_root: Bytes32
    data_bytes: Annotated[int, Meta(ge=1, le=1 << 36)]
    parameters: Annotated[int, Meta(ge=1, le=MAX_PARAMETERS)]
    samples_per_step: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    """Of every peer's batches: nobody can claim more work than its steps make. None: unknown."""


class MethodSpec(Message, frozen=True):
    """How it is trained, with the method's own settings."""

    kind: MethodKind
    settings: Settings


class RoundSpec(Message, frozen=True, kw_only=True):
    """When a round ends: after `local_steps` at each peer, or `target_samples` in the swarm.

    With method spsa `local_steps` are blocks.
    """

    local_steps: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    target_samples: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    max_seconds: Annotated[float, Meta(ge=1, le=86_400)]
    min_peers: Annotated[int, Meta(ge=1, le=256)]
    total: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    """Rounds until the run is finished; none = it goes on."""

    def __post_init__(self) -> None:
        if (self.local_steps is None) == (self.target_samples is None):
            raise ValueError("a round ends by local_steps or by target_samples: give one of them")


class TrustSpec(Message, frozen=True):
    """Whom the reducers believe, what is audited, and what a newcomer has to show first.

    The defaults are for a public run; among friends shorter probation does.
    """

    rule: Rule
    """How updates are aggregated (trust.rules)."""
    audit_rate: Annotated[float, Meta(ge=0, le=1)] = 0.0625
    """Part of the rounds in which a peer repeats somebody's work instead of doing its own, fewer
    than half of them at once; with method spsa one repeated ticket of somebody else's for so many
    of its own."""
    kept_rounds: Annotated[int, Meta(ge=1, le=MOST_KEPT_ROUNDS)] = 3
    """Rounds for which the inputs of an exchange are kept, to be audited."""
    probation_rounds: Annotated[int, Meta(ge=0, le=1 << 20)] = 50
    """Measured rounds before a newcomer's updates count."""
    probation_passes: Annotated[int, Meta(ge=0, le=1 << 20)] = 3
    """Work audits that it has to pass in that time."""
    newcomer_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Most of a round's weight that all who have just left probation hold together."""
    work_bits: Annotated[int, Meta(ge=0, le=40)] = 23
    """Proof of work for an identity: 2 to this power hashes, some 2.5 million a second."""


class Manifest(Message, frozen=True, kw_only=True):
    """One run."""

    protocol: Annotated[int, Meta(ge=1, le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    name: Annotated[str, Meta(min_length=1, max_length=80)]
    description: Text
    licence: Annotated[str, Meta(max_length=200)]
    host: PeerIdField
    created: Annotated[float, Meta(ge=0)]
    """DHT time; makes every run another one, even with the same rules."""
    task: TaskSpec
    method: MethodSpec
    round: RoundSpec
    trust: TrustSpec
    admission: Admission
    stewards: Annotated[tuple[PeerIdField, ...], Meta(max_length=64)]
    genesis_root: Bytes32


class _Spoken(msgspec.Struct):
    """What every version's manifest has."""

    protocol: int


def run_id_of(manifest: Manifest) -> RunId:
    """Return the run's id: the SHA-256 of the manifest's canonical bytes."""
    return _digest(encode(manifest))


def sign_manifest(identity: Identity, manifest: Manifest) -> Signed[Manifest]:
    """Sign as the host that the manifest names.

    Raises:
        ManifestError: it names another host, or nobody could open it (a bound, or a number of the
            wrong type, which only decoding checks).
    """
    if manifest.host != identity.peer_id:
        raise ManifestError("only the host that a manifest names can sign it")
    signed = seal(identity, NO_RUN, manifest)
    open_manifest(signed.envelope)
    return signed


def open_manifest(data: bytes, run: bytes | None = None) -> tuple[RunId, Manifest]:
    """Check a manifest's envelope and return the run's id and the manifest.

    Args:
        data: the envelope, as a peer or a file gave it.
        run: the expected id, if one is known.

    Raises:
        LaterManifestError: it is the run's, if one is given, and of a later protocol.
        ManifestError: malformed, of another run, or not signed by its host.
    """
    try:
        envelope = decode(data, Envelope, limit=MANIFEST_BYTES)
        found = _digest(envelope.payload)
        if run is not None and found != run:
            raise ManifestError(
                f"this is the manifest of run {found.hex()[:12]}, not of {run.hex()[:12]}",
                hint="The peer that sent it is wrong or lying; try the link's other peers.",
            )
        _refuse_later(envelope.payload)
        manifest = unseal(data, NO_RUN, Manifest).message
    except (CodecError, SignatureError) as error:
        raise ManifestError(
            f"the manifest is not valid: {error}",
            hint="Ask the host for a fresh link; an older talkoot can't read newer manifests.",
        ) from error
    if manifest.host != envelope.signer:
        raise ManifestError(
            "the manifest is not signed by the host it names", hint="Ask the host for a fresh link."
        )
    return found, manifest


def _refuse_later(payload: bytes) -> None:
    """Refuse a manifest of a later protocol, whatever else is in it."""
    try:
        spoken = msgspec.msgpack.decode(payload, type=_Spoken).protocol
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return  # what is wrong with it shows when all of it is read
    if spoken > PROTOCOL_VERSION:
        raise LaterManifestError(
            f"the run speaks protocol {spoken}, this talkoot {PROTOCOL_VERSION}",
            hint="Update talkoot, then try again.",
        )


def _digest(payload: bytes) -> RunId:
    return RunId(Digest(sha256(payload).digest()))
