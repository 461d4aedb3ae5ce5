"""Whether to contribute: the pure policy."""

from dataclasses import replace
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.governor.limits import Limits
from node.governor.policy import decide
from node.governor.readings import Readings, believable
from node.governor.schedule import Schedule
from node.home.config import Config
from protocol.control import Contribution, PauseCause
from tests.governor_scene import FINE, Machine, berlin

IDLE_10 = Limits(idle_minutes=10)


def said(contribution: Contribution) -> tuple[str, str, str]:
    return contribution.state, contribution.reason, contribution.ends


def test_a_machine_at_rest_on_mains_power_contributes() -> None:
    contribution = Machine().look()
    assert contribution == Contribution(
        mode="auto", state="contributing", reason="within your limits"
    )


@pytest.mark.parametrize(
    ("limits", "readings", "cause", "reason", "ends"),
    [
        ({}, {"power": "battery"}, "battery", "on battery", "resumes on mains power"),
        (
            {},
            {"metered": True},
            "metered",
            "on a metered connection",
            "resumes on an unmetered connection",
        ),
        (
            {"idle_minutes": 10},
            {"idle_seconds": 599},
            "in_use",
            "somebody uses this machine",
            "resumes once nobody has used this machine for 10 minutes",
        ),
        (
            {},
            {"gpu_celsius": 85},
            "temperature",
            "the GPU reached 85 °C",
            "resumes when the GPU is below 75 °C",
        ),
        (
            {},
            {"cpu_celsius": 97.5},
            "temperature",
            "the CPU reached 95 °C",
            "resumes when the CPU is below 85 °C",
        ),
        (
            {"free_bytes": 10**9},
            {"free_bytes": 9e8},
            "disk",
            "less than 1 GB free on the disk",
            "resumes when 1.1 GB are free on the disk",
        ),
        (
            {"month_bytes": 100 * 10**9},
            {"month_bytes": 100e9},
            "volume",
            "this month's 100 GB are used up",
            "resumes on 1 December",
        ),
        (
            {"schedule": Schedule("22:00-07:00", "mon-sun")},
            {},
            "schedule",
            "outside the hours 22:00-07:00",
            "resumes at 22:00",
        ),
        (
            {"schedule": Schedule("00:00-24:00", "sat,sun")},
            {},
            "schedule",
            "outside the days sat,sun",
            "resumes on Saturday at 00:00",
        ),
        (
            {"schedule": Schedule("09:00-10:00", "mon-fri")},
            {},
            "schedule",
            "outside the hours 09:00-10:00 on mon-fri",
            "resumes tomorrow at 09:00",
        ),
    ],
)
def test_each_limit_pauses_with_its_cause_reason_and_end(
    limits: dict[str, Any], readings: dict[str, Any], cause: str, reason: str, ends: str
) -> None:
    machine = Machine(Limits(**limits))
    contribution = machine.reads(**readings)
    assert contribution.cause == cause
    assert said(contribution) == ("paused", reason, ends)


def test_several_causes_are_told_together_and_the_end_is_the_last_one() -> None:
    machine = Machine(Limits(schedule=Schedule("22:00-07:00", "mon-sun")))
    contribution = machine.reads(power="battery")
    assert contribution.reason == "on battery and outside the hours 22:00-07:00"
    assert contribution.ends == "resumes on mains power and at 22:00"
    assert (contribution.cause, contribution.until) == ("battery", None)


def test_a_schedule_says_when_it_opens_and_closes() -> None:
    machine = Machine(Limits(schedule=Schedule("22:00-07:00", "mon-sun")))
    opening = berlin("2026-11-23 22:00")
    assert machine.look().until == opening
    machine.at = opening
    assert said(machine.look()) == (
        "contributing",
        "within your limits",
        "until tomorrow at 07:00",
    )
    machine.at = berlin("2026-11-24 07:00")
    assert machine.look().cause == "schedule"


@pytest.mark.parametrize(
    ("limits", "readings"),
    [
        (Limits(on_battery=True), {"power": "battery"}),
        (Limits(on_metered=True), {"metered": True}),
        (Limits(), {"idle_seconds": 0.0}),
        (Limits(), {"free_bytes": 0.0}),
        (Limits(), {"month_bytes": 1e15}),
        (Limits(), {"power": "none"}),
    ],
)
def test_what_no_limit_asks_for_holds_nobody_back(limits: Limits, readings: dict[str, Any]) -> None:
    contribution = Machine(limits).reads(**readings)
    assert (contribution.state, contribution.unknown) == ("contributing", ())


# Hysteresis.


def test_mains_power_must_last_for_a_minute() -> None:
    machine = Machine()
    machine.look()
    assert machine.reads(power="battery").state == "paused"
    machine.after(5)
    contribution = machine.reads(power="mains")
    assert said(contribution) == (
        "paused",
        "on battery",
        "resumes when on mains power for a minute",
    )
    assert contribution.until == machine.at + 60
    assert machine.after(59).until == machine.at + 1
    assert machine.after(1).state == "contributing"


def test_a_battery_that_flaps_starts_nothing() -> None:
    machine = Machine()
    machine.look()
    states = set()
    for flap in range(200):
        machine.reads(power="battery" if flap % 5 == 0 else "mains")
        states.add(machine.after(10).state)
    assert states == {"paused"}


def test_a_hot_gpu_cools_by_ten_degrees_for_a_minute() -> None:
    machine = Machine()
    machine.reads(gpu_celsius=85)
    assert machine.reads(gpu_celsius=76).ends == "resumes when the GPU is below 75 °C"
    assert machine.after(600).state == "paused"
    cool = machine.reads(gpu_celsius=75)
    assert cool.ends == "resumes once the GPU has been below 75 °C for a minute"
    machine.after(50)
    machine.reads(gpu_celsius=80)
    machine.reads(gpu_celsius=70)
    assert machine.after(59).state == "paused"
    assert machine.after(1).state == "contributing"


def test_a_full_disk_needs_a_tenth_more_than_the_limit() -> None:
    machine = Machine(Limits(free_bytes=10**9))
    machine.reads(free_bytes=0.5e9)
    machine.reads(free_bytes=1.05e9)
    assert machine.after(600).cause == "disk"
    machine.reads(free_bytes=1.2e9)
    assert machine.after(60).state == "contributing"


def test_touching_the_machine_pauses_at_once_and_rest_resumes_without_more_delay() -> None:
    machine = Machine(IDLE_10)
    machine.look()
    assert machine.reads(idle_seconds=0).cause == "in_use"
    machine.at += 598
    machine.tick += 598
    assert machine.reads(idle_seconds=598).state == "paused"
    machine.at += 2
    machine.tick += 2
    assert machine.reads(idle_seconds=600).state == "contributing"


def test_a_limit_taken_out_of_the_configuration_holds_nobody_back() -> None:
    machine = Machine()
    machine.reads(power="battery")
    machine.limits = Limits(on_battery=True)
    assert machine.look().state == "contributing"


def test_a_clock_that_jumps_does_not_shorten_or_lengthen_the_minute() -> None:
    machine = Machine()
    machine.reads(power="battery")
    machine.reads(power="mains")
    machine.at += 86_400
    assert machine.after(30).state == "paused"
    machine.at -= 10 * 86_400
    assert machine.after(30).state == "contributing"


# What sensors can't tell.


def test_an_unknown_battery_counts_as_on_battery_and_is_said() -> None:
    contribution = Machine().reads(power=None)
    assert (contribution.cause, contribution.reason) == (
        "battery",
        "can't tell whether on mains power",
    )
    assert "contribute.only.on_battery = true" in contribution.ends
    assert "it counts as on battery" in contribution.unknown[0]


def test_an_unknown_user_counts_as_present_and_is_said() -> None:
    contribution = Machine(IDLE_10).reads(idle_seconds=None)
    assert (contribution.cause, contribution.reason) == (
        "in_use",
        "can't tell whether anybody uses this machine",
    )
    assert "contribute.only.when_idle_minutes = 0" in contribution.ends
    assert "it counts as in use" in contribution.unknown[0]


def test_other_unknowns_hold_nobody_back_but_are_said() -> None:
    contribution = decide(
        Readings(power="none", gpu=True),
        Limits(free_bytes=1, month_bytes=1),
        None,
        Machine().now,
    ).contribution
    assert contribution.state == "contributing"
    assert len(contribution.unknown) == 5


def test_a_machine_without_gpu_is_not_asked_for_its_heat() -> None:
    contribution = Machine().reads(gpu=False, gpu_celsius=None)
    assert contribution.unknown == ()


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_sensor_that_lies_counts_as_unknown(lie: float) -> None:
    contribution = Machine().reads(gpu_celsius=lie, cpu_celsius=lie)
    assert contribution.state == "contributing"
    assert "how hot the GPU is" in contribution.unknown[0]
    assert "how hot the CPU is" in contribution.unknown[1]


def test_no_lie_is_believed() -> None:
    lies = Readings(idle_seconds=-1, free_bytes=float("nan"), month_bytes=1e300, gpu_celsius=0)
    assert believable(lies) == Readings()


# Modes.


def test_mode_always_keeps_to_heat_and_disk_alone() -> None:
    limits = Limits(mode="always", free_bytes=10**9, month_bytes=1, idle_minutes=10)
    machine = Machine(limits)
    contribution = machine.reads(
        power="battery", metered=True, idle_seconds=0.0, month_bytes=2.0, gpu_celsius=None
    )
    assert (contribution.state, contribution.reason) == ("contributing", "whatever your limits say")
    assert contribution.unknown == (
        "Can't tell how hot the GPU is: contribute.only.gpu_temp_max has no effect.",
    )
    assert machine.reads(gpu_celsius=90).cause == "temperature"
    machine.reads(gpu_celsius=60, free_bytes=0.0)
    machine.after(60)
    contribution = machine.after(60)
    assert (contribution.cause, contribution.seeding) == ("disk", True)


def test_mode_never_of_the_configuration_says_so() -> None:
    contribution = Machine(Limits(mode="never")).look()
    assert (contribution.mode, contribution.cause) == ("never", "asked")
    assert said(contribution) == ("paused", "contribute.mode is never", "until you resume")


def test_a_pause_for_an_hour_ends_and_gives_way_to_the_configuration() -> None:
    machine = Machine()
    contribution = machine.order("never", 3600)
    assert said(contribution) == ("paused", "as you asked", "until 15:00")
    assert contribution.until == contribution.mode_until == machine.at + 3600
    assert machine.after(3599).state == "paused"
    contribution = machine.after(1)
    assert (contribution.mode, contribution.state) == ("auto", "contributing")


def test_contributing_for_an_hour_whatever_the_limits_say() -> None:
    machine = Machine(Limits(mode="never"))
    contribution = machine.order("always", 3600)
    assert (contribution.state, contribution.ends) == ("contributing", "until 15:00")
    assert machine.after(3600).reason == "contribute.mode is never"


def test_a_battery_pulled_during_a_pause_holds_after_it() -> None:
    machine = Machine()
    machine.order("never", 100)
    machine.reads(power="battery")
    machine.after(90)
    machine.reads(power="mains")
    contribution = machine.after(10)
    assert contribution.ends == "resumes when on mains power for a minute"


def test_an_order_is_obeyed_at_once_in_either_direction() -> None:
    machine = Machine()
    machine.look()
    for _ in range(3):
        assert machine.order("never").state == "paused"
        assert machine.order("auto").state == "contributing"


def test_changing_the_configured_mode_ends_an_order() -> None:
    machine = Machine()
    machine.order("never")
    machine.limits = Limits(mode="always")
    assert machine.look().state == "contributing"


# Finish.


def round_over(machine: Machine) -> Contribution:
    assert machine.last is not None
    assert machine.last.order is not None
    over = msgspec.structs.replace(machine.last.order, over=True)
    machine.last = replace(machine.last, order=over)
    return machine.look()


def test_finish_goes_on_until_the_round_is_over() -> None:
    machine = Machine()
    contribution = machine.order("finish")
    assert (contribution.state, contribution.cause) == ("finishing", None)
    assert contribution.ends == "pauses when the round is over"
    assert machine.after(1000).state == "finishing"
    contribution = round_over(machine)
    assert (contribution.mode, contribution.cause) == ("finish", "finished")
    assert said(contribution)[1:] == ("the round is finished, as you asked", "until you resume")
    assert machine.order("finish").cause == "finished"
    assert machine.order("auto").state == "contributing"


def test_finish_for_a_time_gives_way_to_the_configuration() -> None:
    machine = Machine()
    machine.order("finish", 3600)
    assert round_over(machine).ends == "until 15:00"
    assert machine.after(3600).state == "contributing"


@pytest.mark.parametrize("before", ["never", "battery"])
def test_finish_while_paused_has_nothing_to_finish(before: str) -> None:
    machine = Machine()
    if before == "never":
        machine.order("never")
    else:
        machine.reads(power="battery")
    assert machine.order("finish").cause == "finished"


def test_a_limit_that_trips_while_finishing_ends_the_round_for_good() -> None:
    machine = Machine()
    machine.order("finish")
    assert machine.reads(power="battery").cause == "finished"
    machine.reads(power="mains")
    assert machine.after(1000).cause == "finished"


def test_finish_after_always_keeps_to_no_more_limits_than_before() -> None:
    machine = Machine()
    machine.order("always")
    machine.reads(power="battery")
    assert machine.order("finish").state == "finishing"


# Clocks that jump.


def test_a_clock_set_back_makes_an_order_no_longer_than_it_was_meant() -> None:
    machine = Machine()
    machine.order("never", 3600)
    machine.at -= 400 * 86_400
    machine.look()
    assert machine.after(3599).state == "paused"
    assert machine.after(1).state == "contributing"


def test_a_clock_set_ahead_ends_an_order() -> None:
    machine = Machine()
    machine.order("never", 3600)
    machine.at += 86_400
    assert machine.look().state == "contributing"


# Seeding.


def test_a_paused_node_seeds_unless_told_not_to() -> None:
    machine = Machine()
    assert machine.reads(power="battery").seeding
    machine.limits = Limits(seed_while_paused=False)
    assert not machine.look().seeding
    assert machine.reads(power="none").state == "paused"
    assert machine.after(60).seeding


@pytest.mark.parametrize(
    ("limits", "readings"),
    [(Limits(), {"metered": True}), (Limits(month_bytes=1), {"month_bytes": 2})],
)
def test_a_metered_or_used_up_connection_is_not_seeded_over(
    limits: Limits, readings: dict[str, Any]
) -> None:
    machine = Machine(limits)
    assert not machine.reads(**readings).seeding
    assert not machine.order("never").seeding
    assert machine.order("always").seeding


# Properties.

ANY_FIGURE = st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, 84.0, 90.0, 1e9]))
ANY_READINGS = st.builds(
    Readings,
    power=st.sampled_from(["mains", "battery", "none", None]),
    idle_seconds=ANY_FIGURE,
    metered=st.sampled_from([True, False, None]),
    gpu=st.booleans(),
    gpu_celsius=ANY_FIGURE,
    cpu_celsius=ANY_FIGURE,
    free_bytes=ANY_FIGURE,
    month_bytes=ANY_FIGURE,
)
ANY_LIMITS = st.builds(
    Limits,
    mode=st.sampled_from(["always", "auto", "never"]),
    idle_minutes=st.sampled_from([0, 1, 10]),
    on_battery=st.booleans(),
    on_metered=st.booleans(),
    schedule=st.builds(
        Schedule,
        st.sampled_from(["00:00-24:00", "22:00-07:00", "02:30-02:45", "08:00-12:00,13:00-18:00"]),
        st.sampled_from(["mon-sun", "mon-fri,sun", "sat-mon"]),
    ),
    free_bytes=st.sampled_from([0, 10**9]),
    month_bytes=st.sampled_from([None, 10**9]),
    seed_while_paused=st.booleans(),
)
ORDERS = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from(["always", "auto", "never", "finish"]),
        st.sampled_from([None, 1.0, 3600.0]),
    ),
)
STEPS = st.lists(
    st.tuples(ANY_READINGS, st.floats(0, 5000), st.floats(-1e8, 1e8), ORDERS),
    min_size=1,
    max_size=12,
)


@given(ANY_LIMITS, STEPS)
def test_every_state_is_told_whatever_happens(limits: Limits, steps: list[Any]) -> None:
    machine = Machine(limits)
    for readings, wait, jump, order in steps:
        machine.at += jump
        machine.readings = readings
        contribution = machine.after(wait)
        if order:
            contribution = machine.order(*order)
            assert contribution.mode == order[0]
        assert contribution.reason
        if contribution.state == "paused":
            assert contribution.cause in get_args(PauseCause)
            assert contribution.ends
            assert contribution.until is None or contribution.until > machine.at - 1
        else:
            assert (contribution.cause, contribution.until) == (None, None)
            assert contribution.seeding
        for text in (contribution.reason, contribution.ends, *contribution.unknown):
            assert "None" not in text
            assert "  " not in text


FLAPPING = st.lists(
    st.tuples(
        st.floats(0.1, 30),
        st.sampled_from(["mains", "battery", None]),
        st.sampled_from([True, False, None]),
        st.sampled_from([None, 0.0, 700.0]),
        st.sampled_from([None, 60.0, 80.0, 90.0]),
        st.sampled_from([None, 0.5e9, 1.05e9, 2e9]),
    ),
    max_size=60,
)


@given(FLAPPING)
def test_sensors_that_flap_never_start_training_twice_in_a_minute(steps: list[Any]) -> None:
    machine = Machine(Limits(idle_minutes=10, free_bytes=10**9))
    before, started = machine.look().state, -1e9
    for wait, power, metered, idle, celsius, free in steps:
        machine.readings = replace(
            FINE,
            power=power,
            metered=metered,
            idle_seconds=idle,
            gpu_celsius=celsius,
            free_bytes=free,
        )
        state = machine.after(wait).state
        if (before, state) == ("paused", "contributing"):
            assert machine.tick - started >= 60
            started = machine.tick
        before = state


@given(ANY_LIMITS, ANY_READINGS, STEPS)
def test_a_tripped_limit_pauses_at_once(
    limits: Limits, readings: Readings, steps: list[Any]
) -> None:
    machine = Machine(replace(limits, mode="auto", on_battery=False))
    for other, wait, _, _ in steps:
        machine.readings = other
        machine.after(wait)
    machine.readings = replace(readings, power="battery")
    assert machine.look().state == "paused"


@given(ANY_LIMITS, STEPS)
def test_a_machine_left_in_peace_contributes_in_the_end(limits: Limits, steps: list[Any]) -> None:
    machine = Machine(replace(limits, mode="auto"))
    for readings, wait, jump, order in steps:
        machine.readings = readings
        machine.at += jump
        machine.after(wait)
        if order and order[1] is not None:
            machine.order(*order)
    machine.readings = FINE
    machine.limits = replace(machine.limits, schedule=Schedule("00:00-24:00", "mon-sun"))
    machine.after(3601)
    assert machine.after(60).state == "contributing"


def test_limits_come_from_the_configuration() -> None:
    limits = Limits.of(Config())
    assert limits == Limits(free_bytes=10**9)
