"""What the window says: pure words and figures."""

import unicodedata
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gui.contributions import as_csv, as_json, own_figures
from gui.logs import harmless
from gui.series import Recent, curve, hourly
from gui.spec import RunDraft, SpecError
from gui.store import Store
from gui.view import (
    axis_number,
    clean,
    clock,
    duration,
    figures,
    headline,
    milliseconds,
    notices,
    number,
    of_both,
    offer,
    pause_words,
    peer_name,
    percent,
    rate,
    short_count,
    size,
    subtitle,
    unmarked,
    until_tomorrow,
)
from gui.why import reasons, rich_text
from protocol.control import Contribution, ContributionRequest, MemoryUse, Status, Traffic
from protocol.machine import Point, Series
from tests.fake_node import HISTORY, HOSTILE, PAUSED, PEER, RUN_STATUS, WHY

NOW = datetime(2026, 3, 1, 14, 5, 7).timestamp()  # noqa: DTZ001 - the time of day here
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


@pytest.mark.parametrize(
    ("contribution", "said"),
    [
        (CONTRIBUTING, "Contributing"),
        (replace(CONTRIBUTING, ends="until 07:00"), "Contributing, until 07:00"),
        (
            replace(CONTRIBUTING, mode="always", reason="whatever your limits say"),
            "Contributing whatever your limits say",
        ),
        (PAUSED, "Paused: on battery, resumes on mains power"),
        (replace(PAUSED, ends=""), "Paused: on battery"),
        (replace(PAUSED, reason="", ends=""), "Paused"),
        (replace(CONTRIBUTING, state="finishing"), "Finishing this round, then paused"),
        (None, "Contributing"),
    ],
)
def test_the_headline_says_the_state_and_why(contribution: Contribution | None, said: str) -> None:
    assert headline(STATUS, contribution, RUN_STATUS) == said


def test_a_run_that_does_not_train_says_so_though_nothing_pauses_it() -> None:
    waiting = replace(RUN_STATUS, state="waiting", reason="2 more peers are needed")
    assert headline(STATUS, CONTRIBUTING, waiting) == "Waiting: 2 more peers are needed"
    behind = replace(RUN_STATUS, state="catching_up", progress=0.5, reason="")
    assert headline(STATUS, CONTRIBUTING, behind) == "Catching up, 50 %: fetching the model"
    assert headline(STATUS, CONTRIBUTING, None) == "Ready: join a run to contribute"
    assert headline(None, None, None) == "Starting"


def test_the_line_below_names_run_round_and_node() -> None:
    assert subtitle(STATUS, RUN_STATUS) == "python · round 4 · node 127.0.0.1:7717 · v0.1.0"
    alone = replace(STATUS, network="alone", network_reason="no peer answers")
    assert subtitle(alone, None).endswith("network alone (no peer answers)")


def test_reasons_of_the_node_are_cleaned_too() -> None:
    said = pause_words(replace(PAUSED, reason=HOSTILE))
    assert said.isprintable()
    assert "\u202e" not in said


def test_pausing_is_offered_while_contributing() -> None:
    made = offer(CONTRIBUTING, NOW)
    assert (made.main.text, made.main.request.mode) == ("Pause", "never")
    hour, tomorrow, always = (choice.request for choice in made.menu)
    assert hour == ContributionRequest(mode="never", for_s=3600.0)
    assert tomorrow.for_s == pytest.approx(18 * 3600 - 5 * 60 - 7)
    assert always == ContributionRequest(mode="never")
    assert made.finish


def test_who_contributes_always_can_go_back_within_the_limits() -> None:
    texts = [choice.text for choice in offer(replace(CONTRIBUTING, mode="always"), NOW).menu]
    assert "Contribute within my limits again" in texts


def test_resuming_what_a_person_paused_keeps_the_limits() -> None:
    asked = replace(PAUSED, cause="asked", mode="never")
    assert offer(asked, NOW).main.request == ContributionRequest(mode="auto")
    assert not offer(asked, NOW).finish


def test_overruling_a_limit_ends_by_itself_unless_asked_otherwise() -> None:
    made = offer(PAUSED, NOW)
    assert made.main.request == ContributionRequest(mode="always", for_s=3600.0)
    assert ContributionRequest(mode="always") in [choice.request for choice in made.menu]


@given(st.floats(1.6e9, 2e9))
def test_tomorrow_is_the_next_day_in_the_morning(now: float) -> None:
    seconds = until_tomorrow(now)
    then = datetime.fromtimestamp(now + seconds).astimezone()
    assert 0 < seconds <= 33 * 3600
    assert (then.hour, then.minute) == (8, 0)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (short_count(813), "813"),
        (short_count(38_912), "38.9 k"),
        (short_count(2_700_000), "2.70 M"),
        (short_count(999.9), "1.00 k"),
        (short_count(0), "0"),
        (short_count(None), "-"),
        (short_count(float("nan")), "-"),
        (rate(2872.2), "2,872 /s"),
        (rate(9.87), "9.9 /s"),
        (percent(0.123), "12 %"),
        (percent(0.0123), "1.2 %"),
        (percent(None), "-"),
        (size(5_100_000_000), "5.1 GB"),
        (size(999), "999 B"),
        (size(None), "-"),
        (of_both(5.1e9, 8e9), "5.1 / 8.0 GB"),
        (of_both(11e6, 15e6, "b/s"), "11 / 15 Mb/s"),
        (of_both(0, 0, "b/s"), "0 / 0 b/s"),
        (of_both(512, None), "512 B"),
        (milliseconds(0.0812), "81 ms"),
        (milliseconds(None), "-"),
        (duration(40), "40 s"),
        (duration(180), "3 min"),
        (duration(7560), "2.1 h"),
        (duration(18 * 3600), "18 h"),
        (duration(3 * 86_400), "3.0 days"),
        (duration(float("inf")), "-"),
        (number(2.3456, 3), "2.346"),
        (axis_number(10.96), "11"),
        (axis_number(7.84), "7.8"),
        (axis_number(0.912), "0.91"),
        (axis_number(0), "0"),
        (clock(NOW), "14:05:07"),
        (clock(1e18), "-"),
    ],
)
def test_figures_are_short(said: str, expected: str) -> None:
    assert said == expected


@given(st.text(max_size=300))
def test_whatever_a_stranger_writes_is_one_short_printable_line(text: str) -> None:
    for shown in (clean(text), peer_name(replace(PEER, name=text)), harmless(text)):
        assert "\n" not in shown
        assert all(c == "\t" or unicodedata.category(c)[0] != "C" for c in shown)
    assert len(clean(text)) <= 48
    assert peer_name(replace(PEER, name=text)).strip()


def test_accents_do_not_grow_over_other_rows() -> None:
    assert clean("e" + "\u0301" * 40 + "f") == "e\u0301\u0301f"


def test_the_six_tiles_are_always_there() -> None:
    assert [figure.value for figure in figures(None, None, 0)] == ["-", "-", "0", "-", "-", "-"]
    full = replace(
        STATUS,
        memory=MemoryUse(device="cuda:0", used=5_100_000_000, limit=8_000_000_000),
        traffic=Traffic(up_per_second=1.4e6, down_per_second=1.9e6, month=10**9),
    )
    shown = figures(full, RUN_STATUS, 3)
    assert [figure.value for figure in shown] == [
        *("81.2", "640", "3", "2.345"),
        *("5.1 / 8.0 GB", "11 / 15 Mb/s"),
    ]
    assert [figure.label for figure in shown][4] == "GPU memory"


def test_hours_sum_what_fell_into_them() -> None:
    points = (Point(at=1000.0, value=1), Point(at=2000.0, value=2), Point(at=7300.0, value=4))
    series = Series(metric="contribution", unit="samples", points=points)
    assert hourly(series, (), 7400.0, 2) == [(0.0, 3.0), (1.0, 4.0)]
    assert hourly(series, (), 7400.0, 3) == [(1.0, 3.0), (2.0, 4.0)]
    assert hourly(series, (), 7290.0, 1) == [(0.0, 4.0)]  # its minute is not over yet
    assert hourly(None, (), 7400.0, 24) == []


def test_what_was_seen_since_follows_what_the_node_wrote() -> None:
    recent = Recent()
    assert recent.note(RUN_STATUS, 900.0)
    assert not recent.note(RUN_STATUS, 901.0)
    for at, loss, accepted in ((1000.0, 2.2, 700), (1100.0, 2.1, 760)):
        run = replace(RUN_STATUS, loss=loss, samples_accepted=accepted)
        assert recent.note(run, at)
    written = Series(metric="loss", unit="", points=(Point(at=990.0, value=2.5),))
    assert curve(written, recent.losses) == [(990.0, 2.5), (1100.0, 2.1)]
    assert curve(None, recent.losses) == [(1000.0, 2.2), (1100.0, 2.1)]
    assert hourly(None, recent.accepted, 1200.0, 2) == [(1.0, 120.0)]
    assert recent.note(replace(RUN_STATUS, run="ee" * 32), 1300.0)
    assert not recent.losses


def test_what_a_machine_can_not_tell_is_said_aloud() -> None:
    unsure = replace(CONTRIBUTING, unknown=("idle time can't be told here",))
    newcomer = replace(RUN_STATUS, standing="probation")
    assert notices(unsure, newcomer) == [
        "idle time can't be told here",
        "this machine is on probation: its work doesn't count yet",
        "fewer than 4 live peers: no guarantee against liars",
    ]
    assert notices(CONTRIBUTING, replace(RUN_STATUS, warnings=())) == []


def test_ones_own_share_is_of_what_the_peers_have_to_their_credit() -> None:
    store = Store(status=STATUS)
    mine = replace(PEER, id="me", me=True, run=RUN_STATUS.run, accepted_samples=100)
    other = replace(PEER, id="other", run=RUN_STATUS.run, accepted_samples=300)
    elsewhere = replace(other, run="ee" * 32)
    store.peers = {(each.run, each.id): each for each in (mine, other, elsewhere)}
    assert [figure.value for figure in own_figures(store)][3] == "25 %"


def test_an_export_has_every_round() -> None:
    lines = as_csv(HISTORY).decode().splitlines()
    assert len(lines) == 1 + len(HISTORY.rounds)
    assert lines[0].startswith("round,root,loss")
    assert b'"too far from the others"' in as_json(HISTORY)


def test_the_reasons_list_parts_and_credit() -> None:
    names = [name for name, _, _ in reasons(WHY)]
    assert names == ["reputation", "accepted", "too far from the others"]
    assert "<b>amber-otter</b>" in rich_text(WHY)


@pytest.mark.parametrize(
    "draft",
    [
        RunDraft("", "", "", "text", ""),
        RunDraft("x" * 81, "", "", "text", ""),
        RunDraft("x", "y" * 2001, "", "text", ""),
        RunDraft("x", "", "", "text", "/no/such/place"),
    ],
)
def test_a_draft_with_a_mistake_is_refused(draft: RunDraft) -> None:
    with pytest.raises(SpecError):
        draft.spec()


def test_kinds_come_with_the_method_that_suits_them() -> None:
    assert RunDraft("a", "", "", "finetune", "").spec().method.kind == "spsa"
    assert RunDraft("a", "", "", "text", "").spec().method.kind == "local"


def test_markup_reaches_neither_tooltips_nor_notifications() -> None:
    assert unmarked("<b>me</b> & <a href='x'>you</a>") == "(b>me(/b> & (a href='x'>you(/a>"
