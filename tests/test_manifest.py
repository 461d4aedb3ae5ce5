from hashlib import sha256
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.codec import decode, encode
from protocol.errors import LaterManifestError, ManifestError, TalkootError
from protocol.manifest import (
    MANIFEST_BYTES,
    NO_RUN,
    Manifest,
    RoundSpec,
    open_manifest,
    run_id_of,
    sign_manifest,
)
from protocol.signing import Envelope, seal
from tests.messages import RUN, examples, identity, manifest, messages, peer

MANIFEST = manifest()
ENVELOPE = sign_manifest(identity(1), MANIFEST).envelope


def sealed(host: int, message: Manifest) -> bytes:
    return seal(identity(host), NO_RUN, message).envelope


def sealed_fields(changes: dict[str, Any]) -> bytes:
    """Return the envelope of a manifest that this version could not write itself."""
    fields = cast(dict[str, Any], msgpack.unpackb(encode(MANIFEST)))
    payload = cast(bytes, msgpack.packb(fields | changes))
    signature = identity(1).sign(b"talkoot/1\0" + NO_RUN + payload)
    return encode(Envelope(peer(1), payload, signature))


@given(message=messages(Manifest))
@examples(50)
def test_what_a_host_signed_is_opened(message: Manifest) -> None:
    message = replace(message, host=peer(1), protocol=1)
    envelope = sign_manifest(identity(1), message).envelope
    run = run_id_of(message)
    assert open_manifest(envelope) == open_manifest(envelope, run) == (run, message)


def test_the_run_id_is_the_hash_of_the_manifest() -> None:
    assert run_id_of(MANIFEST) == sha256(encode(MANIFEST)).digest()
    assert run_id_of(replace(MANIFEST, created=2e9)) != run_id_of(MANIFEST)


def test_the_manifest_of_another_run_is_refused() -> None:
    with pytest.raises(ManifestError, match="not of") as caught:
        open_manifest(ENVELOPE, RUN)
    assert run_id_of(MANIFEST).hex()[:12] in caught.value.message
    assert caught.value.hint


def test_only_the_host_signs() -> None:
    with pytest.raises(ManifestError, match="host"):
        sign_manifest(identity(2), MANIFEST)


def test_a_manifest_signed_by_another_than_its_host_is_refused() -> None:
    envelope = sealed(2, MANIFEST)
    for run in (None, run_id_of(MANIFEST)):
        with pytest.raises(ManifestError, match="not signed by the host"):
            open_manifest(envelope, run)


def test_a_signature_for_a_run_is_none_for_a_manifest() -> None:
    with pytest.raises(ManifestError, match="not valid"):
        open_manifest(seal(identity(1), RUN, MANIFEST).envelope)


def test_another_message_of_the_host_is_no_manifest() -> None:
    with pytest.raises(ManifestError, match="not valid"):
        open_manifest(seal(identity(1), NO_RUN, MANIFEST.task).envelope)


def test_an_altered_manifest_is_refused_at_every_byte() -> None:
    for at in range(len(ENVELOPE)):
        changed = bytearray(ENVELOPE)
        changed[at] ^= 0x02
        with pytest.raises(ManifestError) as caught:
            open_manifest(bytes(changed))
        assert caught.value.message.isprintable()


def test_a_truncated_manifest_is_refused() -> None:
    for length in range(len(ENVELOPE)):
        with pytest.raises(ManifestError):
            open_manifest(ENVELOPE[:length])


@given(data=st.binary(max_size=200))
@examples(100)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        open_manifest(data)


def test_a_manifest_above_the_limit_is_refused() -> None:
    with pytest.raises(ManifestError, match="limit"):
        open_manifest(bytes(MANIFEST_BYTES + 1))


@pytest.mark.parametrize("spec", [{"local_steps": 5, "target_samples": 5}, {}])
def test_a_round_ends_by_exactly_one_rule(spec: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="one of them"):
        RoundSpec(max_seconds=60.0, min_peers=1, **cast(Any, spec))
    body: dict[str, object] = {"is": "RoundSpec", "local_steps": None, "target_samples": None}
    body.update({"max_seconds": 60.0, "min_peers": 1, "total": None})
    body.update(spec)
    with pytest.raises(ManifestError, match="local_steps or by target_samples"):
        open_manifest(sealed_fields({"round": body}))


@pytest.mark.parametrize(
    "changes", [{}, {"quorum": 5}, {"task": {"is": "Tasks"}}, {"name": ["a", "b"]}]
)
def test_a_later_protocol_is_named_whatever_else_it_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(LaterManifestError, match="protocol 2, this talkoot 1") as caught:
        open_manifest(sealed_fields({"protocol": 2, **changes}))
    assert (caught.value.code, caught.value.hint[:6]) == ("update_required", "Update")


def test_a_later_manifest_of_another_run_is_only_that() -> None:
    with pytest.raises(ManifestError, match="is the manifest of run") as caught:
        open_manifest(sealed_fields({"protocol": 2}), run_id_of(MANIFEST))
    assert caught.value.code == "bad_manifest"


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum": 5},
        {"admission": "by lot"},
        {"method": {"is": "MethodSpec", "kind": "telepathy", "settings": {}}},
        {"trust": {"is": "TrustSpec", "rule": "oracle"}},
        {"protocol": 0},
    ],
)
def test_a_manifest_of_a_later_talkoot_is_refused_with_a_hint(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="not valid") as caught:
        open_manifest(sealed_fields(changes))
    assert "older talkoot" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 81},
        {"description": "x" * 2001},
        {"created": -1.0},
        {"created": float("inf")},
        {"host": peer(1)[:-1]},
        {"genesis_root": bytes(31)},
        {"stewards": [peer(1)] * 65},
    ],
)
def test_a_field_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="not valid"):
        open_manifest(sealed_fields(changes))


@pytest.mark.parametrize(
    "config",
    [{"A": 1}, {"a\n": 1}, {"a b": 1}, {"": 1}, {"a" * 41: 1}, {"a": None}, {"a": [1]},
     {"a": {}}, {"a": b"x"}, {"a": "x" * 1025}, {f"a{at}": 1 for at in range(65)}],
)  # fmt: skip
def test_settings_are_scalars_under_plain_names(config: dict[str, object]) -> None:
    task = cast(dict[str, Any], msgpack.unpackb(encode(MANIFEST.task)))
    with pytest.raises(ManifestError, match="not valid"):
        open_manifest(sealed_fields({"task": task | {"config": config}}))


def test_the_kind_of_task_is_a_plain_name() -> None:
    task = cast(dict[str, Any], msgpack.unpackb(encode(MANIFEST.task)))
    for kind in ("", "text\n", "Text", "os.system", "../text", "x" * 41):
        with pytest.raises(ManifestError, match="not valid"):
            open_manifest(sealed_fields({"task": task | {"kind": kind}}))


def test_a_refusal_can_be_shown_to_a_person() -> None:
    with pytest.raises(TalkootError) as caught:
        open_manifest(b"")
    assert (caught.value.code, bool(caught.value.hint)) == ("bad_manifest", True)
    assert decode(ENVELOPE, Envelope).signer == peer(1)
