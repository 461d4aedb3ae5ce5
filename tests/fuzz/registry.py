"""All decoders by name."""

from functools import lru_cache

from tests.fuzz import (
    targets_files,
    targets_members,
    targets_messages,
    targets_network,
    targets_programs,
)
from tests.fuzz.decoder import Decoder

_TARGETS = (targets_messages, targets_members, targets_network, targets_files, targets_programs)


@lru_cache
def registry() -> dict[str, Decoder]:
    """Return every decoder by its name.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Decoder] = {}
    for decoder in (each for module in _TARGETS for each in module.decoders()):
        if decoder.name in found:
            raise ValueError(f"two decoders are called {decoder.name}")
        found[decoder.name] = decoder
    return found
