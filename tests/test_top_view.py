"""What `talkoot top` knows and draws, without a terminal."""

import io

import msgspec
import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from node.cli.keyboard import keys_of
from node.cli.top_model import SORTS, LostEventsError, TopModel
from node.cli.top_view import TopView, lines_of, sparkline
from protocol.control import Contribution, MemoryUse, Peer, Traffic
from protocol.machine import Activity, PeersChanged, Point, Series, Snapshot, StreamEvent
from tests.fake_node import CONTRIBUTING, HOSTILE, PAUSED, PEER, RUN, RUN_STATUS, FakeControls

STATUS = FakeControls().status()
ME = replace(PEER, id="12D3KooWMe", name="solar-eagle", me=True, samples_per_second=1.0)
SIZES = [(80, 24), (40, 10), (20, 5), (200, 60), (1, 1), (80, 1), (10, 100)]


def event(seq: int, type_: str, data: object) -> StreamEvent:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return StreamEvent(seq=seq, type=type_, data=raw)  # type: ignore[arg-type]


def snapshot(*peers: Peer, contribution: Contribution = CONTRIBUTING) -> Snapshot:
    status = replace(STATUS, contribution=contribution)
    return Snapshot(status=status, contribution=contribution, peers=peers, activity=())


def model(*peers: Peer, **changes: object) -> TopModel:
    made = TopModel()
    made.apply(event(1, "snapshot", snapshot(ME, *peers)))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def peers(count: int) -> list[Peer]:
    return [
        replace(PEER, id=f"12D3KooW{n:05}", name=f"peer-{n:05}", samples_per_second=float(n))
        for n in range(count)
    ]


def shown(made: TopModel, width: int = 80, height: int = 24) -> str:
    return "\n".join(line.plain for line in lines_of(made, width, height))


# What it knows.


def test_events_change_what_is_known() -> None:
    made = model(PEER)
    other = replace(PEER, id="12D3KooWOther")
    made.apply(event(2, "peers", PeersChanged(changed=(other,), gone=((RUN, PEER.id),))))
    assert [peer.id for peer in made.shown_peers()] == [ME.id, other.id]
    made.apply(event(3, "contribution", PAUSED))
    assert made.contribution == PAUSED
    made.apply(event(4, "activity", Activity(at=1.7e9, kind="round", text="Round 4 is agreed")))
    assert "Round 4 is agreed" in shown(made)
    made.apply(event(5, "status", replace(STATUS, name="other-name", contribution=None)))
    assert "other-name" in shown(made)
    assert made.contribution == PAUSED
    made.apply(event(9, "snapshot", snapshot()))
    assert made.peers == {}


@pytest.mark.parametrize("seq", [1, 3, 0])
def test_a_gap_asks_for_a_new_stream(seq: int) -> None:
    made = model()
    with pytest.raises(LostEventsError):
        made.apply(event(seq, "contribution", PAUSED))


def test_events_of_a_new_stream_begin_with_a_snapshot() -> None:
    made = model()
    made.lose("the node has died")
    with pytest.raises(LostEventsError):
        made.apply(event(2, "contribution", PAUSED))
    made.apply(event(1, "snapshot", snapshot()))
    assert made.trouble == ""


# Keys.


def test_keys_of_a_terminal_are_told_apart() -> None:
    typed = "a/\x1b[A\x1bOB\x1b[5~\r\x7fé\x1b[1;5C\x00\x1b"
    names = ["a", "/", "up", "down", "page up", "enter", "backspace", "é", "escape"]
    assert list(keys_of(typed)) == names
    assert list(keys_of("\x1b[99999")) == []


def test_q_quits_but_for_a_filter_that_is_typed() -> None:
    made = model()
    assert made.press("q") == "quit"
    for key in ("/", "q", "backspace", "a", "M", " ", "b", "enter"):
        assert made.press(key) is None
    assert (made.filter, made.is_typing) == ("aM b", False)
    assert made.press("q") == "quit"
    made.press("escape")
    assert made.filter == ""


def test_what_is_typed_cannot_steer_the_terminal() -> None:
    made = model(is_typing=True)
    for key in ("\x1b", "\u202e", "\x9b", *("x" * 100)):
        made.press(key)
    assert made.filter == "x" * 39 + "…"


def test_the_filter_finds_names_states_and_ids() -> None:
    made = model(*peers(20), replace(PEER, id="12D3KooWFox", name="Grey-Fox", device="RTX 3060"))
    for text in ("grey", "koowfox", "rtx 3060 "):
        made.filter = text
        assert [peer.name for peer in made.shown_peers()] == ["Grey-Fox"]
    made.filter = "established"
    assert len(made.shown_peers()) == 22
    assert "0 of 22" in shown(model(*peers(20), ME, PEER, filter="nobody"))


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_puts_this_node_first_and_takes_any_figure(sort: str) -> None:
    odd = [
        replace(PEER, id="a", reputation=None, latency_seconds=None),
        replace(PEER, id="b", latency_seconds=0.01, reputation=0.2, samples_per_second=9.0),
        replace(PEER, id="c", latency_seconds=0.5, reputation=0.1, name="", round=None),
    ]
    made = model(*odd, sort=sort)
    found = [peer.id for peer in made.shown_peers()]
    assert found[0] == ME.id
    assert sorted(found[1:]) == ["a", "b", "c"]
    if sort in {"throughput", "reputation", "latency"}:
        assert found[1] == "b"
    assert "…" in shown(made, 200)


def test_s_goes_through_the_orders() -> None:
    made = model()
    seen = []
    for _ in SORTS:
        seen.append(made.sort)
        made.press("s")
    assert tuple(seen) == SORTS
    assert made.sort == SORTS[0]


@pytest.mark.parametrize(
    ("now", "mode", "seconds", "words"),
    [
        (CONTRIBUTING, "never", None, "pause"),
        (PAUSED, "always", 3600.0, "contribute for 1 h"),
        (replace(PAUSED, cause="asked"), "auto", None, "contribute"),
        (replace(PAUSED, cause="finished"), "auto", None, "contribute"),
    ],
)
def test_p_pauses_or_ends_the_pause(
    now: Contribution, mode: str, seconds: float | None, words: str
) -> None:
    made = model(contribution=now)
    assert (made.next_contribution.mode, made.next_contribution.for_s) == (mode, seconds)
    assert f" p  {words} " in shown(made, 100).splitlines()[-1]
    assert made.press("p") == "contribution"
    made.lose("gone")
    assert made.press("p") is None


def test_the_list_scrolls_within_its_bounds() -> None:
    made = model(*peers(100))
    assert "peer-00099" in shown(made)
    for _ in range(200):
        made.press("page down")
    assert "peer-00000" in shown(made)
    made.press("up")
    assert "peer-00000" not in shown(made)
    made.press("home")
    assert "solar-eagle (you)" in shown(made)


# What it draws.


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 3, 5000])
def test_it_fits_any_terminal(width: int, height: int, count: int) -> None:
    made = model(*peers(count))
    for _ in range(2):
        lines = lines_of(made, width, height)
        assert len(lines) == height
        assert all(cell_len(line.plain) <= width for line in lines)
        made.lose("the node has died")


def test_a_common_terminal_shows_all_that_matters() -> None:
    made = model(*peers(30))
    made.status = replace(
        STATUS,
        memory=MemoryUse(device="cuda:0", used=5_100_000_000, limit=8_000_000_000),
        traffic=Traffic(up_per_second=1.2e6, month=3 * 10**9, month_limit=10**11),
    )
    made.losses = Series(
        metric="loss", unit="", points=tuple(Point(at=3600.0 * n, value=5 - n) for n in range(4))
    )
    found = shown(made)
    for text in (
        *("Contributing", "python  training  round 4/100, 50 %  loss 2.345  81.2 /s  3 peers"),
        *("memory 5.1 GB of 8.0 GB", "up 1.2 MB/s", "month 3.0 GB of 100.0 GB"),
        *("loss in 3 h  5.000 █▆▃▁ 2.000", "Peers 31", "solar-eagle (you)", "sort: throughput"),
        "fewer than 4 live peers",
    ):
        assert text in found
    assert sum("peer-000" in line for line in found.splitlines()) >= 10


def test_a_wide_terminal_shows_more_of_each_peer() -> None:
    made = model(replace(PEER, device="RTX 3060", latency_seconds=0.081, address="direct"))
    assert "RTX 3060" not in shown(made)
    for text in ("RTX 3060", "81 ms", "direct", "640"):
        assert text in shown(made, 200)


def test_a_pause_says_why_and_what_ends_it() -> None:
    made = model(contribution=PAUSED)
    assert "Paused: on battery, resumes on mains power" in shown(made).splitlines()[0]


def test_a_node_that_is_gone_leaves_its_figures_greyed() -> None:
    made = model(PEER)
    made.lose("the node (process 7) has died")
    lines = lines_of(made, 80, 24)
    assert lines[0].plain == "node gone, waiting: the node (process 7) has died"
    assert any("amber-otter" in line.plain for line in lines)
    assert all(line.style == "dim" for line in lines)
    assert "waiting: looking for the node" in shown(TopModel())


def test_text_of_strangers_cannot_steer_the_terminal() -> None:
    hostile = replace(PEER, name=HOSTILE * 50, state=HOSTILE, device=HOSTILE)
    run = replace(RUN_STATUS, name=HOSTILE, reason=HOSTILE, warnings=(HOSTILE,))
    made = model(hostile)
    made.status = replace(STATUS, name=HOSTILE, network_reason=HOSTILE, runs=(run,))
    made.contribution = replace(PAUSED, reason=HOSTILE, unknown=(HOSTILE,))
    made.activity.append(Activity(at=1e300, kind="peer", text=HOSTILE))
    made.message = HOSTILE
    for width in (80, 200):
        out = io.StringIO()
        console = Console(file=out, width=width, height=40, color_system=None, force_terminal=True)
        console.print(TopView(made), markup=False)
        written = out.getvalue()
        assert "evil" in written
        assert not any(part in written for part in ("\x1b]", "\x1b[2J", "\u202e", "\r"))
        assert "[bold]evil" in written  # as text


def test_many_runs_leave_room_for_the_keys() -> None:
    made = model(PEER)
    made.status = replace(STATUS, runs=tuple(replace(RUN_STATUS, run=f"{n:064}") for n in range(9)))
    lines = shown(made).splitlines()
    assert "and 5 more runs" in "\n".join(lines)
    assert " q  quit" in lines[-1]
    made.status = replace(STATUS, runs=())
    assert "talkoot join LINK" in shown(made)


@pytest.mark.parametrize(
    ("values", "curve"),
    [([1, 2, 3], "▁▅█"), ([2, 2], "▁▁"), ([3], "▁"), ([], ""), ([8, 8, 1, 1], "██▁▁")],
)
def test_a_curve_has_its_highest_where_the_figures_have(values: list[float], curve: str) -> None:
    assert sparkline(values, 60) == curve


def test_a_long_curve_is_as_wide_as_asked_for() -> None:
    values = [float(n) for n in range(1000)]
    assert len(sparkline(values, 60)) == 60
    assert set(sparkline(values, 60, "_.")) == {"_", "."}


def test_no_colour_is_drawn_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=80, height=24).print(TopView(model(PEER)))
    assert "\x1b[3" not in out.getvalue()
    assert isinstance(lines_of(model(), 80, 24)[0], Text)
