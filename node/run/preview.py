"""What a person sees of a run before anything of it starts."""

import asyncio

from dht.swarm import Swarm
from node.api.trust_words import trust_in_words
from node.home.config import Config
from node.run import line
from node.tasks import UnknownTaskError, task_class
from protocol.control import Preview
from protocol.manifest import Manifest, TrustSpec, run_id_of
from protocol.records import RecordKey
from protocol.state import FLOAT_BYTES

_WHAT_OTHERS_SEE = (
    "your network address",
    "your node's name and PeerID, and what it trains on (CPU, or the graphics card's name)",
    "how much you train, your updates to the model, and the reputation that they earn you",
)
_AUDITED = "whether your work is honest: it is audited, and proof of a lie is kept for good"


async def peers_of(swarm: Swarm, run: bytes) -> int:
    """Return how many peers say that they are in an open run."""
    return len(await swarm.fetch(RecordKey(run, "presence")))


async def preview_of(manifest: Manifest, peers: int, config: Config, free_bytes: int) -> Preview:
    """Describe the run of a checked manifest, and whether it fits this machine."""
    task = manifest.task
    state_bytes = 2 * FLOAT_BYTES * task.parameters
    obstacle = await asyncio.to_thread(_obstacle, manifest, state_bytes, config, free_bytes)
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
        peers=peers,
        rule=manifest.trust.rule,
        admission=manifest.admission,
        what_others_see=_what_others_see(manifest.trust),
        trust=trust_in_words(manifest.trust, manifest.method.kind),
        fits=not obstacle,
        reason=obstacle or line.remark(manifest, config.network.up_rate, config.network.down_rate),
    )


def _what_others_see(spec: TrustSpec) -> tuple[str, ...]:
    return (*_WHAT_OTHERS_SEE, _AUDITED) if spec.audit_rate > 0 else _WHAT_OTHERS_SEE


def _obstacle(manifest: Manifest, state_bytes: int, config: Config, free_bytes: int) -> str:
    try:
        task_class(manifest.task.kind, manifest.task.version)
    except UnknownTaskError as error:
        return f"{error.message}. {error.hint}"
    needed = manifest.task.data_bytes + (config.storage.keep_checkpoints + 1) * state_bytes
    if needed > config.storage.max_bytes:
        return f"it needs {needed:,} bytes on disk; storage.max allows {config.storage.max}"
    if needed + config.storage.min_free_bytes > free_bytes:
        return f"it needs {needed:,} bytes on disk; {free_bytes:,} are free"
    return line.obstacle(manifest, config.network.up_rate, config.network.down_rate)
