"""Updates as float16 on the wire."""

import numpy as np
import pytest

from node.exchange.wire import pack_aggregate, pack_update, unpack_update
from protocol.errors import CodecError

HALVES = np.arange(1 << 16, dtype="<u2")


def test_every_half_is_unpacked_as_numpy_converts_it() -> None:
    found = unpack_update(HALVES.tobytes(), HALVES.size)
    assert found.dtype == np.float32
    assert found.tobytes() == HALVES.view("<f2").astype(np.float32).tobytes()


def test_what_is_a_half_already_is_packed_without_loss() -> None:
    numbers = HALVES[~np.isnan(HALVES.view("<f2"))]
    values = unpack_update(numbers.tobytes(), numbers.size)
    assert pack_update(values) == numbers.tobytes()


def test_beyond_the_range_an_update_is_infinite_and_an_aggregate_is_not() -> None:
    values = np.array([1e6, -1e6, 65504], np.float32)
    assert unpack_update(pack_update(values), 3).tolist() == [np.inf, -np.inf, 65504]
    assert unpack_update(pack_aggregate(values), 3).tolist() == [65504, -65504, 65504]


@pytest.mark.parametrize("size", [2, 4])
def test_a_chunk_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(CodecError, match=f"has {2 * size} bytes, not 6"):
        unpack_update(bytes(6), size)
