import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import decode
from protocol.errors import CodecError
from protocol.layout import CHUNK_FLOATS, MAX_CHUNKS, MAX_PARAMETERS, Layout, TensorSpec
from tests.messages import examples

SIZES = st.lists(
    st.one_of(
        st.integers(1, 50),
        st.integers(1, 5 * CHUNK_FLOATS),
        st.sampled_from([1, CHUNK_FLOATS - 1, CHUNK_FLOATS, CHUNK_FLOATS + 1, 2 * CHUNK_FLOATS]),
    ),
    min_size=1,
    max_size=40,
)


def layout_of(sizes: list[int]) -> Layout:
    return Layout(tuple(TensorSpec(str(at), (size,)) for at, size in enumerate(sizes)))


@given(SIZES)
@examples(200)
def test_chunks_cover_every_element_exactly_once(sizes: list[int]) -> None:
    layout = layout_of(sizes)
    edges = [0, *(stop for _, stop in layout.chunks)]
    assert [start for start, _ in layout.chunks] == edges[:-1]
    assert edges[-1] == layout.size == sum(sizes)
    assert all(0 < stop - start <= CHUNK_FLOATS for start, stop in layout.chunks)


@given(SIZES)
@examples(100)
def test_of_two_neighbouring_chunks_one_is_half_full(sizes: list[int]) -> None:
    """This bounds the number of chunks by the number of parameters."""
    for (start, edge), (_, stop) in itertools.pairwise(layout_of(sizes).chunks):
        assert 2 * max(edge - start, stop - edge) >= CHUNK_FLOATS


@given(SIZES)
@examples(100)
def test_a_chunk_holds_whole_tensors_or_a_part_of_one(sizes: list[int]) -> None:
    layout = layout_of(sizes)
    spans = {(start, stop) for _, start, stop in layout.spans()}
    inside = {edge for span in spans for edge in span}
    for start, stop in layout.chunks:
        whole = start in inside and stop in inside
        assert whole or any(first <= start and stop <= last for first, last in spans)


@given(SIZES)
@examples(50)
def test_a_tensor_of_another_shape_and_name_is_cut_alike(sizes: list[int]) -> None:
    other = Layout(tuple(TensorSpec(f"t{at}", (1, size, 1)) for at, size in enumerate(sizes)))
    assert other.chunks == layout_of(sizes).chunks


@given(SIZES)
@examples(50)
def test_the_same_large_tensor_is_cut_alike_whatever_stands_around_it(sizes: list[int]) -> None:
    large = 3 * CHUNK_FLOATS + 7
    alone = [stop - start for start, stop in layout_of([large]).chunks]
    layout = layout_of([*sizes, large, *sizes])
    start = sum(sizes)
    within = [
        stop - first for first, stop in layout.chunks if start <= first and stop <= start + large
    ]
    assert within == alone


def test_spans_follow_the_order_of_the_tensors() -> None:
    tensors = TensorSpec("w", (3, 4)), TensorSpec("scale", ()), TensorSpec("b", (4,))
    assert Layout(tensors).spans() == [
        (tensors[0], 0, 12),
        (tensors[1], 12, 13),
        (tensors[2], 13, 17),
    ]


@pytest.mark.parametrize(
    "shape", [(1 << 31, 1 << 31), (1 << 31,) * 8, (MAX_PARAMETERS, 2), (MAX_PARAMETERS + 1,)]
)
def test_a_size_that_overflows_is_refused_before_anything_is_cut(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match="limit"):
        Layout((TensorSpec("w", shape),))


def test_sizes_that_overflow_together_are_refused() -> None:
    half = TensorSpec("a", (MAX_PARAMETERS // 2,)), TensorSpec("b", (MAX_PARAMETERS // 2,))
    assert Layout(half).size == MAX_PARAMETERS
    assert len(Layout(half).chunks) == MAX_CHUNKS
    with pytest.raises(CodecError, match="limit"):
        Layout((*half, TensorSpec("c", ())))


def test_more_chunks_than_an_offer_can_name_are_refused() -> None:
    size = CHUNK_FLOATS // 2 + 1
    assert len(layout_of([size] * MAX_CHUNKS).chunks) == MAX_CHUNKS
    with pytest.raises(CodecError, match="chunks"):
        layout_of([size] * (MAX_CHUNKS + 1))


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", "b", "a"]])
def test_names_are_there_and_differ(names: list[str]) -> None:
    with pytest.raises(CodecError):
        Layout(tuple(TensorSpec(name, (1,)) for name in names))


@pytest.mark.parametrize("shape", [b"\x91\x00", b"\x91\xff", b"\x91\xcf" + b"\xff" * 8])
def test_a_dimension_is_positive_and_bounded(shape: bytes) -> None:
    data = b"\x83\xa2is\xaaTensorSpec\xa4name\xa1w\xa5shape"
    assert decode(data + b"\x91\x01", TensorSpec) == TensorSpec("w", (1,))
    with pytest.raises(CodecError):
        decode(data + shape, TensorSpec)


def test_the_size_of_a_shape_is_its_product() -> None:
    assert TensorSpec("w", (2, 3, 4)).size == math.prod((2, 3, 4))
    assert TensorSpec("scalar", ()).size == 1
