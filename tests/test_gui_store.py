"""What the window knows: events in, and the order of the peers."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gui.order import COLUMNS, PeerOrder
from gui.store import KEPT_LEFT, Change, LostEventsError, Store
from protocol.control import Contribution, Peer, Status
from protocol.machine import Activity, PeersChanged, Snapshot, StreamEvent
from tests.fake_node import PAUSED, PEER, RUN, RUN_STATUS

STATUS = Status(
    version="0.1.0",
    peer_id="12D3KooWMe",
    name="amber-otter",
    pid=1,
    uptime_seconds=1,
    api="http://127.0.0.1:7717",
    network="online",
    runs=(RUN_STATUS,),
)
CONTRIBUTING = Contribution(mode="auto", state="contributing")


def someone(number: int, **changes: object) -> Peer:
    return replace(PEER, **({"id": f"P{number}", "name": f"peer-{number}"} | changes))


def event(seq: int, kind: str, data: object) -> StreamEvent:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return StreamEvent(seq=seq, type=kind, data=raw)  # type: ignore[arg-type]


def snapshot(seq: int, *peers: Peer) -> StreamEvent:
    data = Snapshot(status=STATUS, contribution=CONTRIBUTING, peers=peers, activity=())
    return event(seq, "snapshot", data)


def store_of(*peers: Peer) -> Store:
    store = Store()
    store.apply(snapshot(1, *peers))
    return store


def test_a_snapshot_makes_it_live_and_replaces_everything() -> None:
    store = store_of(someone(1))
    assert store.live
    assert store.apply(snapshot(9, someone(2))) == Change.ALL
    assert list(store.peers) == [(RUN, "P2")]
    assert list(store.left) == [(RUN, "P1")]


def test_events_are_applied_in_order() -> None:
    store = store_of(someone(1))
    assert store.apply(event(2, "contribution", PAUSED)) == Change.CONTRIBUTION
    assert store.apply(event(3, "contribution", PAUSED)) == Change.NONE
    news = PeersChanged(changed=(someone(1, state="paused"), someone(2)), gone=())
    assert store.apply(event(4, "peers", news)) == Change.PEERS
    assert [peer.state for peer in store.peers.values()] == ["paused", "training"]
    assert store.apply(event(5, "activity", Activity(at=1, kind="round", text="x"))) == (
        Change.ACTIVITY
    )
    assert [each.text for each in store.new_activity] == ["x"]


@pytest.mark.parametrize("seq", [0, 1, 3, 10])
def test_a_gap_without_a_snapshot_is_noticed(seq: int) -> None:
    store = store_of()
    with pytest.raises(LostEventsError):
        store.apply(event(seq, "contribution", PAUSED))


def test_a_stream_that_does_not_begin_with_a_snapshot_is_refused() -> None:
    store = store_of()
    store.begin()
    with pytest.raises(LostEventsError):
        store.apply(event(2, "status", STATUS))


def test_a_reply_of_a_later_version_with_more_fields_is_read() -> None:
    store = store_of()
    data = msgspec.to_builtins(STATUS) | {"later": 1}
    assert store.apply(event(2, "status", data)) & Change.STATUS


def test_old_figures_stay_when_the_node_is_lost() -> None:
    store = store_of(someone(1))
    assert store.lose("the node has ended") == Change.LINK
    assert store.lose("the node has ended") == Change.NONE
    assert (store.live, len(store.peers), store.status) == (False, 1, STATUS)


def test_what_is_kept_of_those_that_left_is_bounded() -> None:
    store = store_of(*(someone(n) for n in range(KEPT_LEFT + 50)))
    gone = tuple((RUN, f"P{n}") for n in range(KEPT_LEFT + 50))
    store.apply(event(2, "peers", PeersChanged(gone=gone)))
    assert len(store.left) == KEPT_LEFT


def test_the_run_shown_is_the_chosen_one_else_one_that_goes_on() -> None:
    over = replace(RUN_STATUS, run="aa" * 32, state="finished")
    store = store_of()
    store.take_status(replace(STATUS, runs=(over, RUN_STATUS)))
    assert store.run == RUN_STATUS
    store.chosen_run = over.run
    assert store.run == over
    store.take_status(replace(STATUS, runs=()))
    assert store.run is None


# The order of the peers.


def order_of(*peers: Peer) -> tuple[Store, PeerOrder]:
    store = store_of(*peers)
    order = PeerOrder(store)
    order.run = RUN
    order.arrange()
    return store, order


def names(order: PeerOrder) -> list[str]:
    return [order.peer(row).name for row in range(len(order))]


def test_equals_keep_their_places_when_sorted_again() -> None:
    _, order = order_of(*(someone(n, samples_per_second=5.0) for n in range(9)))
    before = names(order)
    order.arrange()
    assert names(order) == before


def test_what_is_not_known_of_a_peer_comes_last_at_first() -> None:
    _, order = order_of(someone(1, latency_seconds=None), someone(2, latency_seconds=0.1))
    order.column, order.descending = "ping", False
    order.arrange()
    assert names(order) == ["peer-2", "peer-1"]
    order.column, order.descending = "reputation", True
    order.arrange()
    assert len(names(order)) == 2


def test_peers_of_another_run_are_not_shown() -> None:
    _, order = order_of(someone(1), someone(2, run="cd" * 32))
    assert names(order) == ["peer-1"]


def test_newcomers_are_found_once_and_those_gone_keep_their_rows() -> None:
    store, order = order_of(someone(1), someone(2))
    store.apply(event(2, "peers", PeersChanged(changed=(someone(3),), gone=((RUN, "P1"),))))
    assert order.newcomers() == [(RUN, "P3")]
    order.rows += order.newcomers()
    assert order.newcomers() == []
    gone = names(order).index("peer-1")
    assert order.is_gone(gone)
    order.arrange()
    assert "peer-1" not in names(order)


@given(
    st.lists(st.tuples(st.text(max_size=9), st.floats(0, 1e6), st.none() | st.floats(0, 1))),
    st.sampled_from(COLUMNS),
    st.booleans(),
    st.text(max_size=3),
)
def test_every_peer_that_matches_has_one_row(
    drawn: list[tuple[str, float, float | None]], column: str, descending: bool, needle: str
) -> None:
    peers = [
        someone(n, name=name, samples_per_second=speed, reputation=score)
        for n, (name, speed, score) in enumerate(drawn)
    ]
    _, order = order_of(*peers)
    order.column, order.descending = column, descending  # type: ignore[assignment]
    order.search(needle)
    order.arrange()
    assert len(set(order.rows)) == len(order.rows)
    if not needle.strip():
        assert len(order) == len(peers)
    if column == "throughput":
        speeds = [order.peer(row).samples_per_second for row in range(len(order))]
        assert speeds == sorted(speeds, reverse=descending)
