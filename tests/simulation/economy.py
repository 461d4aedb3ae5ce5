"""What makes thousands of runs affordable, and changes nothing that they show.

In one process all peers check the same bytes, so each signature is checked, and each payload
decoded, once: by the real functions, whose results are remembered; what differs in a bit is checked
anew. Clocks tick more seldom. Nothing that a run makes forms cycles that would have to be collected
before its end.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import pytest

import node.chain.round
import node.run.worker
import protocol.codec
import protocol.identity
import protocol.signing
import protocol.tickets

REMEMBERED = 1 << 15
ROUND_TICK_SECONDS = 0.25
BLOCK_TICK_SECONDS = 0.15


@contextmanager
def economy(*, remember: bool = True) -> Iterator[None]:
    """Save work while the context lasts; without `remember`, every peer checks every signature."""
    was_collecting = gc.isenabled()
    with pytest.MonkeyPatch.context() as patch:
        if remember:
            verify = lru_cache(REMEMBERED)(protocol.identity.verify)
            decode = lru_cache(REMEMBERED)(protocol.codec.decode)
            patch.setattr(protocol.signing, "verify", verify)
            patch.setattr(protocol.signing, "decode", decode)
            patch.setattr(protocol.tickets, "verify", verify)
            peer_id_of = lru_cache(REMEMBERED)(protocol.identity.peer_id_of)
            patch.setattr(protocol.tickets, "peer_id_of", peer_id_of)
        patch.setattr(node.run.worker, "TICK_SECONDS", ROUND_TICK_SECONDS)
        patch.setattr(node.chain.round, "TICK_SECONDS", BLOCK_TICK_SECONDS)
        gc.disable()
        try:
            yield
        finally:
            if was_collecting:
                gc.enable()
            gc.collect()
