import json
from pathlib import Path
from typing import Any

import pytest

from protocol.identity import PeerId
from protocol.noise import batch_key, keystream, noise_key, noise_stream
from tests.messages import OTHER_RUN, RUN, peer

CASES = json.loads((Path(__file__).parent / "vectors" / "noise.json").read_text())["cases"]
MASK = (1 << 32) - 1


@pytest.mark.parametrize("case", CASES)
def test_another_implementation_can_agree_on_the_noise(case: dict[str, Any]) -> None:
    run, root, who = bytes.fromhex(case["run"]), bytes.fromhex(case["root"]), PeerId(case["peer"])
    key = noise_key(run, root, who, case["seq"], case["probe"])
    assert key.hex() == case["noise_key"]
    assert keystream(key, len(case["keystream"]) // 2).hex() == case["keystream"]
    assert batch_key(run, root, who, case["seq"]) == case["batch_key"]


def test_each_probe_has_a_key_of_its_own() -> None:
    cases = [
        (run, root, peer(n), seq, probe)
        for run in (RUN, OTHER_RUN)
        for root in (bytes(32), b"r" * 32)
        for n in (1, 2)
        for seq in (0, 1, 1 << 16, (1 << 32) - 1)
        for probe in (0, 1, (1 << 16) - 1)
    ]
    assert len({noise_key(*case) for case in cases}) == len(cases)


def test_each_ticket_has_a_seed_of_its_own_that_fits_any_generator() -> None:
    cases = [
        (run, root, peer(n), seq)
        for run in (RUN, OTHER_RUN)
        for root in (bytes(32), b"r" * 32)
        for n in (1, 2)
        for seq in (0, 1, (1 << 32) - 1)
    ]
    seeds = {batch_key(*case) for case in cases}
    assert len(seeds) == len(cases)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


@pytest.mark.parametrize(("seq", "probe"), [(-1, 0), (1 << 32, 0), (0, -1), (0, 1 << 16)])
def test_a_number_that_does_not_fit_is_refused(seq: int, probe: int) -> None:
    with pytest.raises(OverflowError):
        noise_key(RUN, bytes(32), peer(1), seq, probe)


def test_the_noise_is_chacha20s_keystream_from_its_first_block_on() -> None:
    zero_key = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"  # RFC 8439, A.1
    assert keystream(bytes(32), 32).hex() == zero_key
    key = bytes(range(32))
    blocks = b"".join(chacha20_block(key, counter) for counter in range(5))
    assert keystream(key, 300) == blocks[:300]
    assert keystream(key, 0) == b""


def test_the_noise_comes_in_portions_and_as_its_complement() -> None:
    key = bytes(range(32))
    whole = keystream(key, 300)
    stream = noise_stream(key)
    assert stream.update(bytes(77)) + stream.update(bytes(223)) == whole
    complement = noise_stream(key).update(b"\xff" * 300)
    assert all(a ^ b == 0xFF for a, b in zip(complement, whole, strict=True))


def chacha20_block(key: bytes, counter: int) -> bytes:
    """RFC 8439, section 2.3, with a nonce of zeros."""
    words = [int.from_bytes(key[4 * i : 4 * i + 4], "little") for i in range(8)]
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *words, counter, 0, 0, 0]
    state = list(start)
    for _ in range(10):
        for column in range(4):
            quarter_round(state, column, 4 + column, 8 + column, 12 + column)
        for row in range(4):
            quarter_round(state, row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    summed = [(a + b) & MASK for a, b in zip(state, start, strict=True)]
    return b"".join(word.to_bytes(4, "little") for word in summed)


def quarter_round(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & MASK
        mixed = state[z] ^ state[x]
        state[z] = (mixed << turn | mixed >> (32 - turn)) & MASK
