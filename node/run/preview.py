"""What a person sees of a run before anything of it starts."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dht.swarm import Swarm
from node.api.trust_words import trust_in_words
from node.home.config import Config
from node.run import line
from node.run.room import Room, needed_bytes
from node.tasks import UnknownTaskError, task_class
from protocol.control import Preview
from protocol.errors import ProtocolError
from protocol.manifest import Manifest, TrustSpec, run_id_of
from protocol.presence import FETCHING_STATE, LEAVING_STATE, LISTENING_STATE, Presence
from protocol.records import Record, RecordKey
from protocol.signing import unseal
from protocol.state import FLOAT_BYTES

_WHAT_OTHERS_SEE = (
    "your network address",
    "your node's name and PeerID, and what it trains on (CPU, or the graphics card's name)",
    "how much you train, your updates to the model, and the reputation that they earn you",
)
_NOWHERE_YET = {LISTENING_STATE, FETCHING_STATE, LEAVING_STATE}
_AUDITED = "whether your work is honest: it is audited, and proof of a lie is kept for good"


class Seen(NamedTuple):
    """What is known of a run from outside."""

    peers: int
    """Who say that they are there."""
    round: int | None
    """The latest that half of them or more say they have reached; None where none says so."""


async def seen_of(swarm: Swarm, run: bytes) -> Seen:
    """Return what the peers of an open run say to everybody."""
    records = await swarm.fetch(RecordKey(run, "presence"))
    return Seen(len(records), _round_of_most(run, records))


async def preview_of(manifest: Manifest, seen: Seen, config: Config, room: Room) -> Preview:
    """Describe the run of a checked manifest, and whether it fits this machine."""
    task = manifest.task
    state_bytes = 2 * FLOAT_BYTES * task.parameters
    obstacle = await asyncio.to_thread(_obstacle, manifest, config, room)
    return Preview(
        run=run_id_of(manifest).hex(),
        name=manifest.name,
        description=manifest.description,
        licence=manifest.licence,
        host=manifest.host,
        task=task.kind,
        method=manifest.method.kind,
        parameters=task.parameters,
        download_bytes=task.data_bytes + state_bytes,
        data_bytes=task.data_bytes,
        peers=seen.peers,
        round=seen.round,
        rounds_total=manifest.round.total,
        rule=manifest.trust.rule,
        admission=manifest.admission,
        what_others_see=_what_others_see(manifest.trust),
        trust=trust_in_words(manifest.trust, manifest.method.kind),
        fits=not obstacle,
        reason=obstacle
        or _end(manifest, seen.round)
        or line.remark(manifest, config.network.up_rate, config.network.down_rate),
    )


def _round_of_most(run: bytes, records: Sequence[bytes]) -> int | None:
    rounds = sorted(_rounds(run, records), reverse=True)
    return rounds[len(rounds) // 2] if rounds else None


def _rounds(run: bytes, records: Sequence[bytes]) -> Iterator[int]:
    for data in records:
        try:
            record = unseal(data, run, Record)
            said = unseal(record.message.body, run, Presence)
        except ProtocolError:
            continue
        if said.signer == record.signer and said.message.state not in _NOWHERE_YET:
            yield said.message.round


def _end(manifest: Manifest, round_: int | None) -> str:
    total = manifest.round.total
    if total is None or round_ is None or round_ < total:
        return ""
    return f"the run is finished, {total:,} of {total:,} rounds: only its model is left to fetch"


def _what_others_see(spec: TrustSpec) -> tuple[str, ...]:
    return (*_WHAT_OTHERS_SEE, _AUDITED) if spec.audit_rate > 0 else _WHAT_OTHERS_SEE


def _obstacle(manifest: Manifest, config: Config, room: Room) -> str:
    try:
        task_class(manifest.task.kind, manifest.task.version)
    except UnknownTaskError as error:
        return f"{error.message}. {error.hint}"
    storage = config.storage
    needed = needed_bytes(manifest.task, storage.keep_checkpoints)
    if needed + room.others > storage.max_bytes:
        beside = f" beside the {room.others:,} of other runs" if room.others else ""
        return f"it needs {needed:,} bytes on disk{beside}; storage.max allows {storage.max}"
    if needed + storage.min_free_bytes > room.free:
        return f"it needs {needed:,} bytes on disk; {room.free:,} are free"
    return line.obstacle(manifest, config.network.up_rate, config.network.down_rate)
