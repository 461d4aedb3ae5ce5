"""Whether to contribute: a pure decision of readings, limits, an order and the time.

                       order never                     order always | auto
      contributing ───────────────────────► paused ◄───────────────────────┐
        │   ▲  │                             asked ────────────────────────┤
        │   │  │ a limit trips (at once)                                   │
        │   │  └────────────────────────► paused: battery, in_use,         │
        │   └──────────────────────────── schedule, temperature, disk,     │
        │     the limit is clear,         volume, metered ─────────────────┤
        │     some for a minute             (looked at in every mode)      │
        │ order finish                                                     │
        ▼                round over, or a limit trips                      │
      finishing ─────────────────────────► paused: finished ───────────────┘

An order that ends gives way to the configured mode. A limit that flaps pauses at once and resumes
only once it was clear for a minute (`node.governor.watches`), so that training isn't started over
and over. A limit that is taken out of the configuration holds nobody back.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from node.governor.limits import Limits
from node.governor.moment import Moment, until
from node.governor.orders import STEP_SECONDS, Order, in_force
from node.governor.readings import Readings, believable
from node.governor.watches import WATCHES, Scene, Watch
from protocol.control import Contribution, Mode, PauseCause


@dataclass(frozen=True, slots=True)
class Block:
    """A limit that tripped and has not been clear for long enough."""

    since: float
    """By `Moment.tick`, as `clear_since`."""
    by_unknown: bool
    clear_since: float | None = None
    clear_at: float | None = None
    """By `Moment.at`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to contribute, and what the next decision must know of this one."""

    contribution: Contribution
    blocks: dict[str, Block] = field(default_factory=dict)
    """By the names of their watches."""
    order: Order | None = None
    """The order as it now holds."""


@dataclass(frozen=True, slots=True)
class _Pause:
    """A limit's share in a pause."""

    cause: PauseCause
    reason: str
    resumes: str
    until: float | None


def decide(
    readings: Readings,
    limits: Limits,
    order: Order | None,
    now: Moment,
    previous: Decision | None = None,
) -> Decision:
    """Return whether to contribute now, given what was decided before."""
    scene = Scene(believable(readings), limits, now)
    blocks, unknown = _look(scene, previous.blocks if previous else {})
    order = in_force(order, limits.mode, now)
    mode: Mode = order.mode if order else limits.mode
    base = order.base if order and order.mode == "finish" else mode
    binding = [watch for watch in WATCHES if base == "auto" or watch.binds_always]
    pauses = [_pause(watch, blocks[watch.name], scene) for watch in binding if watch.name in blocks]
    if order and mode == "finish" and (pauses or base == "never"):
        order = msgspec.structs.replace(order, over=True)
    fitting = _contribution(mode, order, pauses, scene)
    starves = base != "always" and any(w.stops_seeding and w.name in blocks for w in WATCHES)
    seeds = fitting.state != "paused" or (limits.seed_while_paused and not starves)
    said = () if base == "never" else tuple(unknown[w.name] for w in binding if w.name in unknown)
    return Decision(msgspec.structs.replace(fitting, seeding=seeds, unknown=said), blocks, order)


def _look(scene: Scene, before: dict[str, Block]) -> tuple[dict[str, Block], dict[str, str]]:
    """Return the limits that trip or did lately, and what can't be told though one asks for it."""
    blocks: dict[str, Block] = {}
    unknown: dict[str, str] = {}
    for watch in WATCHES:
        if not watch.asked(scene):
            continue
        last = before.get(watch.name)
        trips = watch.trips(scene, last is not None)
        if trips is None:
            unknown[watch.name] = watch.unknown
        if block := _block(watch, last, trips, scene.now):
            blocks[watch.name] = block
    return blocks, unknown


def _block(watch: Watch, last: Block | None, trips: bool | None, now: Moment) -> Block | None:
    if trips or (trips is None and watch.unknown_reason):
        return Block(last.since if last else now.tick, by_unknown=trips is None)
    if last is None:
        return None
    clear_since = now.tick if last.clear_since is None else last.clear_since
    clear_seconds = now.tick - clear_since
    if clear_seconds >= watch.hold_seconds and now.tick - last.since >= watch.least_seconds:
        return None
    clear_at = now.at - clear_seconds
    if last.clear_at is not None and abs(last.clear_at - clear_at) < STEP_SECONDS:
        clear_at = last.clear_at
    return Block(last.since, last.by_unknown, clear_since, clear_at)


def _pause(watch: Watch, block: Block, scene: Scene) -> _Pause:
    if block.clear_at is not None:
        at = block.clear_at + watch.hold_seconds if watch.hold_seconds else None
        resumes = (watch.held or watch.resumes)(scene)
        return _Pause(watch.cause, _reason(watch, block, scene), resumes, at)
    if block.by_unknown:
        return _Pause(watch.cause, watch.unknown_reason, watch.unknown_resumes, None)
    return _Pause(watch.cause, watch.reason(scene), watch.resumes(scene), watch.until(scene))


def _reason(watch: Watch, block: Block, scene: Scene) -> str:
    return watch.unknown_reason if block.by_unknown else watch.reason(scene)


def _contribution(
    mode: Mode, order: Order | None, pauses: list[_Pause], scene: Scene
) -> Contribution:
    match mode:
        case "never":
            reason = "as you asked" if order else "contribute.mode is never"
            return _asked(order, "asked", reason, scene.now)
        case "finish" if order and order.over:
            return _asked(order, "finished", "the round is finished, as you asked", scene.now)
        case "finish":
            return Contribution(
                mode=mode,
                mode_until=order.until if order else None,
                state="finishing",
                reason="goes on to the end of the round, as you asked",
                ends="pauses when the round is over",
            )
        case "always" | "auto":
            return _limited(mode, order, pauses, scene)
        case _:
            assert_never(mode)


def _asked(order: Order | None, cause: PauseCause, reason: str, now: Moment) -> Contribution:
    end = order.until if order else None
    return Contribution(
        mode=order.mode if order else "never",
        mode_until=end,
        state="paused",
        cause=cause,
        reason=reason,
        ends="until you resume" if end is None else until(end, now),
        until=end,
    )


def _limited(mode: Mode, order: Order | None, pauses: list[_Pause], scene: Scene) -> Contribution:
    mode_until = order.until if order else None
    if not pauses:
        reason = "within your limits" if mode == "auto" else "whatever your limits say"
        return Contribution(
            mode=mode,
            mode_until=mode_until,
            state="contributing",
            reason=reason,
            ends=_closes(mode, mode_until, scene),
        )
    known = [pause.until for pause in pauses if pause.until is not None]
    return Contribution(
        mode=mode,
        mode_until=mode_until,
        state="paused",
        cause=pauses[0].cause,
        reason=" and ".join(_unique(pause.reason for pause in pauses)),
        ends="resumes " + " and ".join(_unique(pause.resumes for pause in pauses)),
        until=max(known) if len(known) == len(pauses) else None,
    )


def _closes(mode: Mode, mode_until: float | None, scene: Scene) -> str:
    """Return until when it goes on contributing, as far as a clock decides that."""
    closing = scene.limits.schedule.next_change(scene.now) if mode == "auto" else None
    ends = [at for at in (mode_until, closing) if at is not None]
    return until(min(ends), scene.now) if ends else ""


def _unique(words: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(words))
