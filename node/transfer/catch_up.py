"""Fetching the state that most peers stand on, of a size and within a time known before."""

import asyncio

from node.run.setting import RunSetting
from node.store.state import State
from node.transfer.line import transfer_seconds
from node.transfer.sources import FetchError, Sources
from node.transfer.transfer import fetch_state
from protocol.errors import ChunkError
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.presence import Head
from protocol.state import FLOAT_BYTES


async def fetch_head(
    setting: RunSetting, head: Head, holders: tuple[PeerId, ...], have: State | None
) -> State:
    """Return the state `head`; what `have` holds of it is not fetched again.

    Raises:
        FetchError: no holder is left or fast enough, it is too large for this machine, or the limit
            set for receiving is too low for what is missing of it.
        BadTreeError: the root does not name a state of the size that the manifest says.
        ChunkError: it does not grow from the manifest's genesis, or is not what its holders said.
    """
    _check_origin(setting.manifest, head)
    size = 2 * FLOAT_BYTES * setting.manifest.task.parameters
    if size > setting.max_state_bytes:
        raise FetchError(
            f"a state of {size:,} bytes is above the limit of {setting.max_state_bytes:,}",
            hint="Raise the limit in the configuration, if there is room for it.",
        )
    seconds = transfer_seconds(size)
    sources = Sources(setting.swarm, setting.run, holders)
    try:
        async with asyncio.timeout(seconds):
            state = await fetch_state(sources, head.root, have, size)
    except TimeoutError as error:
        raise FetchError(f"the state did not come within {seconds:.0f} s") from error
    if (state.round, state.header.prev_root) != (head.round, head.prev_root):
        raise ChunkError(f"the state is of round {state.round}, not what its holders said")
    return state


def _check_origin(manifest: Manifest, head: Head) -> None:
    """Check the first two states, whose place in the run the manifest alone can tell."""
    genesis = {0: head.root, 1: head.prev_root}.get(head.round, manifest.genesis_root)
    if genesis != manifest.genesis_root:
        raise ChunkError(f"the state of round {head.round} is not of the manifest's genesis")
