from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ChunkError
from protocol.merkle import (
    check_chunk,
    check_leaves,
    leaf_hash,
    merkle_root,
    path_of,
    root_by_path,
    root_of,
)
from tests.messages import examples

CHUNKS = st.lists(st.binary(max_size=8), max_size=20)


@given(CHUNKS)
@examples(50)
def test_leaves_and_chunks_that_made_a_root_pass_its_check(chunks: list[bytes]) -> None:
    root, leaves = root_of(chunks)
    check_leaves(leaves, root)
    for chunk, leaf in zip(chunks, leaves, strict=True):
        check_chunk(chunk, leaf)
        check_chunk(memoryview(chunk), leaf)


@given(CHUNKS, CHUNKS)
@examples(100)
def test_two_lists_share_a_root_only_if_they_are_equal(one: list[bytes], two: list[bytes]) -> None:
    assert (root_of(one)[0] == root_of(two)[0]) == (one == two)


@pytest.mark.parametrize("count", range(9))
def test_any_flipped_bit_of_a_leaf_changes_the_root(count: int) -> None:
    root, leaves = root_of(bytes([number]) for number in range(count))
    for leaf in range(count):
        for bit in range(0, 256, 5):
            flipped = list(leaves)
            changed = int.from_bytes(flipped[leaf], "big") ^ (1 << bit)
            flipped[leaf] = changed.to_bytes(32, "big")
            with pytest.raises(ChunkError):
                check_leaves(flipped, root)


@pytest.mark.parametrize("count", range(1, 9))
def test_leaves_left_out_added_repeated_or_swapped_change_the_root(count: int) -> None:
    root, leaves = root_of(bytes([number]) for number in range(count))
    for at in range(count):
        for wrong in (
            [*leaves[:at], *leaves[at + 1 :]],
            [*leaves[: at + 1], *leaves[at:]],
            [*leaves, *leaves[at:]],
            [*leaves, bytes(32)],
        ):
            with pytest.raises(ChunkError):
                check_leaves(wrong, root)
    if count > 1:
        with pytest.raises(ChunkError):
            check_leaves(leaves[::-1], root)


def test_an_inner_node_can_not_pass_for_a_chunk() -> None:
    root, (left, right) = root_of([b"one", b"two"])
    inner = sha256(b"\x01" + left + right).digest()
    assert leaf_hash(left + right) != inner
    for forged in ([inner], [leaf_hash(b"\x01" + left + right)], [left + right]):
        assert merkle_root(forged) != root
    with pytest.raises(ChunkError):
        check_chunk(b"\x01" + left + right, inner)


def test_a_subtree_s_root_is_no_root_of_its_own() -> None:
    root, leaves = root_of([b"1", b"2", b"3", b"4"])
    halves = [sha256(b"\x01" + leaves[at] + leaves[at + 1]).digest() for at in (0, 2)]
    assert merkle_root(halves) != root


def test_the_empty_list_has_a_root_of_its_own() -> None:
    root, leaves = root_of([])
    assert leaves == []
    check_leaves([], root)
    for wrong in ([b""], [bytes(32)], [root]):
        with pytest.raises(ChunkError):
            check_leaves(wrong, root)


def test_another_chunk_is_refused() -> None:
    leaf = leaf_hash(b"chunk")
    for wrong in (b"", b"chunj", b"chunk\x00", b"\x00chunk", leaf):
        with pytest.raises(ChunkError):
            check_chunk(wrong, leaf)


def test_the_tree_is_that_of_the_specification() -> None:
    one, two, three = (sha256(b"\x00" + chunk).digest() for chunk in (b"1", b"2", b"3"))
    top = sha256(b"\x01" + sha256(b"\x01" + one + two).digest() + three).digest()
    expected = sha256(b"\x02" + (3).to_bytes(8, "big") + top).digest()
    assert root_of([b"1", b"2", b"3"]) == (expected, [one, two, three])


@pytest.mark.parametrize("count", range(1, 12))
def test_the_path_of_every_leaf_leads_to_the_root(count: int) -> None:
    root, leaves = root_of(bytes([number]) for number in range(count))
    for index, leaf in enumerate(leaves):
        path = path_of(leaves, index)
        assert root_by_path(leaf, index, count, path) == root
        assert root_by_path(bytes(32), index, count, path) != root


@pytest.mark.parametrize("count", range(1, 12))
def test_a_path_is_of_no_use_in_another_place(count: int) -> None:
    root, leaves = root_of(bytes([number]) for number in range(count))
    for index, leaf in enumerate(leaves):
        path = path_of(leaves, index)
        others = [(place, count) for place in range(-1, count + 4) if place != index]
        for place, leaves_count in [*others, (index, count + 1), (index, count - 1)]:
            assert found_root(leaf, place, leaves_count, path) != root
        for wrong in (path[:-1], (*path, None), (*path, bytes(32))):
            if wrong != path:
                assert found_root(leaf, index, count, wrong) != root


def found_root(leaf: bytes, index: int, count: int, path: tuple[bytes | None, ...]) -> bytes | None:
    try:
        return root_by_path(leaf, index, count, path)
    except ChunkError:
        return None
