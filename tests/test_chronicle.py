"""What happened between two looks at a node, in sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.api.activity import MOST_ACTIVITIES, ActivityLog
from node.api.chronicle import MEMBERS_SECONDS, Chronicle, admitted
from protocol.control import Peer, RoundReport, RunStatus, Status
from protocol.machine import Activity
from tests.fake_node import (
    CONTRIBUTING,
    HOSTILE,
    OTHER_RUN,
    PAUSED,
    PEER,
    RUN,
    RUN_STATUS,
    FakeControls,
)

STATUS = FakeControls().status()
OWN_4 = RoundReport(round=4, peers=())
"""Of a run that has the state of round 5."""
HOSTED = replace(RUN_STATUS, role="host", peers=3)


class Witness:
    """A chronicle, and who its hosted runs have as members."""

    def __init__(self) -> None:
        self.log = ActivityLog()
        self.members: list[Peer] = [replace(PEER, id="me", me=True)]
        self.asked: list[str] = []
        self.now = 5.0
        self.chronicle = Chronicle(self.log, self._peers, clock=lambda: self.now)

    def _peers(self, run: str) -> list[Peer]:
        self.asked.append(run)
        return self.members

    def sees(self, *runs: RunStatus) -> list[Activity]:
        """Look at a node with these runs; return what is new."""
        before = len(self.log.newest())
        self.chronicle.note(with_runs(*runs))
        return list(self.log.newest())[before:]


def with_runs(*runs: RunStatus) -> Status:
    return replace(STATUS, runs=runs)


def texts(found: list[Activity]) -> list[str]:
    return [activity.text for activity in found]


def test_nothing_has_happened_at_the_first_look() -> None:
    assert Witness().sees(RUN_STATUS, replace(RUN_STATUS, run=OTHER_RUN)) == []


def test_runs_come_and_go() -> None:
    witness = Witness()
    witness.sees()
    assert texts(witness.sees(RUN_STATUS)) == ["Joined python"]
    other = replace(HOSTED, run=OTHER_RUN, name="mine")
    assert texts(witness.sees(RUN_STATUS, other)) == ["Hosting mine"]
    assert texts(witness.sees(other)) == ["Left python"]


def test_a_round_tells_how_many_took_part_and_how_long_it_took() -> None:
    witness = Witness()
    witness.sees(RUN_STATUS)
    after = replace(RUN_STATUS, round=5, last_round=OWN_4, round_peers=3, round_seconds=31.4)
    [told] = witness.sees(after)
    assert told == Activity(
        at=5.0, kind="round", text="python: round 5 averaged with 3 peers in 31 s", run=RUN
    )
    assert witness.sees(after) == []
    alone = replace(after, round=6, last_round=RoundReport(round=5, peers=()), round_peers=1)
    assert texts(witness.sees(alone)) == ["python: round 6 averaged with 1 peer in 31 s"]


def test_rounds_that_were_fetched_are_no_rounds_averaged() -> None:
    witness = Witness()
    witness.sees(RUN_STATUS)
    assert texts(witness.sees(replace(RUN_STATUS, round=50))) == ["python: caught up with round 50"]
    assert texts(witness.sees(replace(RUN_STATUS, round=51))) == ["python: round 51 is done"]


@pytest.mark.parametrize("start", [1, 2, 3])
def test_rounds_faster_than_the_looks_are_no_catching_up(start: int) -> None:
    witness = Witness()
    witness.sees(replace(RUN_STATUS, round=start))
    now = replace(RUN_STATUS, round=5, last_round=OWN_4, round_peers=3, round_seconds=0.2)
    assert texts(witness.sees(now)) == ["python: round 5 averaged with 3 peers in 0 s"]


def test_one_round_missed_is_no_catching_up() -> None:
    witness = Witness()
    witness.sees(replace(RUN_STATUS, round=5))
    missed = replace(RUN_STATUS, round=7, round_peers=3, round_seconds=31.4)
    assert texts(witness.sees(missed)) == ["python: round 7 is done"]
    assert texts(witness.sees(replace(missed, round=10))) == ["python: caught up with round 10"]


@pytest.mark.parametrize(
    ("failure", "notify"),
    [
        ("diverged", "stopped"),
        ("", "stopped"),
        ("disk_full", "disk"),
        ("unknown_task", "update"),
        ("update_required", "update"),
    ],
)
def test_a_run_that_stops_is_worth_a_notification(failure: str, notify: str) -> None:
    witness = Witness()
    witness.sees(RUN_STATUS)
    stopped = replace(RUN_STATUS, state="stopped", reason="no room", failure=failure)
    [told] = witness.sees(stopped)
    assert (told.kind, told.text) == ("trouble", "python has stopped: no room")
    assert told.notify == notify
    assert witness.chronicle.stops == {failure or "stopped": 1}
    assert witness.sees(stopped) == []


def test_a_run_that_is_finished_and_a_ban_are_worth_a_notification() -> None:
    witness = Witness()
    witness.sees(replace(RUN_STATUS, standing="established"))
    [told] = witness.sees(replace(RUN_STATUS, standing="established", state="finished"))
    assert (told.text, told.notify) == ("python is finished: all its rounds are done", "finished")
    [told] = witness.sees(replace(RUN_STATUS, standing="banned", state="finished"))
    assert (told.kind, told.notify) == ("trouble", "stopped")


def test_a_warning_is_told_once_whatever_its_figures_do() -> None:
    witness = Witness()
    witness.sees(replace(RUN_STATUS, warnings=()))
    few = replace(RUN_STATUS, warnings=("fewer than 4 live peers (3)",))
    assert texts(witness.sees(few)) == ["python: fewer than 4 live peers (3)"]
    assert witness.sees(replace(few, warnings=("fewer than 4 live peers (2)",))) == []


# Members of a hosted run.


def test_a_host_is_told_who_joins_by_name() -> None:
    witness = Witness()
    witness.sees(HOSTED)
    witness.members.append(replace(PEER, id="12D3KooWnew", name="blue-fox"))
    [told] = witness.sees(replace(HOSTED, peers=4))
    assert (told.text, told.notify) == ("blue-fox joined python", "host")
    witness.now += MEMBERS_SECONDS
    witness.members.append(replace(PEER, id="12D3KooWnameless", name=""))
    assert texts(witness.sees(replace(HOSTED, peers=5))) == ["…nameless joined python"]


def test_who_comes_back_has_not_joined_again() -> None:
    witness = Witness()
    witness.sees(HOSTED)
    fox = replace(PEER, id="12D3KooWfox")
    witness.members.append(fox)
    witness.sees(replace(HOSTED, peers=4))
    witness.members.remove(fox)
    witness.sees(replace(HOSTED, peers=3))
    witness.members.append(fox)
    assert witness.sees(replace(HOSTED, peers=4)) == []


def test_strangers_who_come_one_by_one_do_not_fill_the_activity() -> None:
    witness = Witness()
    witness.sees(HOSTED)
    for number in range(10):
        witness.members.append(replace(PEER, id=f"peer {number}", name=f"peer {number}"))
        witness.sees(replace(HOSTED, peers=4 + number))
        witness.now += MEMBERS_SECONDS / 10
    assert texts(list(witness.log.newest())) == ["peer 0 joined python"]
    assert texts(witness.sees(replace(HOSTED, peers=13))) == ["9 members joined python"]
    assert witness.sees(replace(HOSTED, peers=13)) == []


def test_a_crowd_that_joins_is_told_as_a_number() -> None:
    witness = Witness()
    witness.sees(HOSTED)
    witness.members += [replace(PEER, id=f"peer {number}") for number in range(900)]
    assert texts(witness.sees(replace(HOSTED, peers=903))) == ["900 members joined python"]


def test_a_members_run_is_not_searched_for_members() -> None:
    witness = Witness()
    witness.sees(RUN_STATUS)
    witness.sees(replace(RUN_STATUS, peers=9))
    assert witness.asked == []


# Contribution.


def test_of_a_run_by_invite_the_node_tells_who_was_let_in() -> None:
    witness = Witness()
    private = replace(HOSTED, admission="invite")
    witness.sees(private)
    witness.members += [PEER]
    assert witness.sees(replace(private, peers=4)) == []
    assert witness.asked == []
    assert admitted(private, PEER.id, PEER.name, 7.0) == Activity(
        at=7.0, kind="peer", text="amber-otter joined python by an invite", run=RUN, notify="host"
    )
    assert admitted(private, PEER.id, "\u202e", 7.0).text.startswith("…KooWPeer joined")
    assert "\x1b" not in admitted(private, PEER.id, HOSTILE, 7.0).text


def test_pauses_are_told_with_reason_and_end() -> None:
    witness = Witness()
    for contribution in (CONTRIBUTING, CONTRIBUTING, PAUSED, PAUSED, CONTRIBUTING):
        witness.chronicle.note_contribution(contribution)
    assert texts(list(witness.log.newest())) == [
        "Paused: on battery, resumes on mains power",
        "Contributing again",
    ]


def test_a_pause_for_want_of_disk_is_worth_a_notification() -> None:
    witness = Witness()
    witness.chronicle.note_contribution(CONTRIBUTING)
    witness.chronicle.note_contribution(replace(PAUSED, cause="disk", reason="the disk is full"))
    assert [activity.notify for activity in witness.log.newest()] == ["disk"]


def test_a_battery_that_flaps_is_told_at_its_own_pace() -> None:
    """Each change is one line: what holds them apart is the governor's."""
    witness = Witness()
    for _ in range(1000):
        witness.chronicle.note_contribution(PAUSED)
        witness.chronicle.note_contribution(CONTRIBUTING)
    assert len(witness.log.newest()) == MOST_ACTIVITIES


# What strangers chose.


def test_names_are_made_safe_to_show() -> None:
    witness = Witness()
    hostile = replace(HOSTED, name=HOSTILE, reason=HOSTILE, warnings=())
    witness.sees(hostile)
    witness.members.append(replace(PEER, id="x", name=HOSTILE * 1000))
    told = witness.sees(replace(hostile, peers=4, state="stopped", warnings=(HOSTILE,)))
    assert len(told) == 3
    for activity in told:
        assert not set("\x1b\x07\u202e\r\n") & set(activity.text)
        assert len(activity.text) < 400


@given(st.text(), st.text(), st.text(), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_whatever_a_run_says_a_sentence_comes_of_it(
    name: str, reason: str, warning: str, before: int, after: int
) -> None:
    witness = Witness()
    witness.sees(replace(RUN_STATUS, name=name, round=before))
    told = witness.sees(
        replace(
            RUN_STATUS, name=name, reason=reason, round=after, warnings=(warning,), state="stopped"
        )
    )
    assert all(activity.text.strip() for activity in told)


def test_a_network_that_goes_and_comes_back_is_told_once_each() -> None:
    witness = Witness()
    down = replace(STATUS, network="offline", network_reason="the network process has ended")
    for status in (STATUS, down, down, STATUS, STATUS):
        witness.chronicle.note(status)
    assert [text for text in texts(list(witness.log.newest())) if "network" in text] == [
        "The network is down: the network process has ended",
        "The network is back",
    ]
