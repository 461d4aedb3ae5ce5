"""What the window says, as plain text: headlines, figures, times. No Qt, no clock of its own.

Text that strangers chose (names, devices, descriptions) is cleaned here before anything shows it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from protocol.control import (
    Contribution,
    ContributionRequest,
    MemoryUse,
    Mode,
    Peer,
    RunStatus,
    Status,
    Traffic,
    printable,
)

NOTHING = "-"
NAME_CHARACTERS = 48
_MARKS = re.compile(
    r"(?<=[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{2})"
    r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+"
)
"""Accents beyond two on one letter: they would grow over the rows above and below."""
MORNING_HOUR = 8
_PAUSED_BY_PERSON = {"asked", "finished"}
_STATE_WORDS = {
    "": "",
    "agreeing": "averaging",
    "catching_up": "catching up",
    "committed": "averaging",
    "exchanging": "averaging",
    "grouped": "averaging",
}
_OPEN_TO = {
    "open": "whoever has the link",
    "invite": "nobody but those whom its host invited: the run is private",
}
LINK_WORDS = {"direct": "direct", "relayed": "relay", "local": "local", "unknown": NOTHING}


def clean(text: str, limit: int = NAME_CHARACTERS) -> str:
    """Return a stranger's text on one line, without control or direction characters."""
    return _clean(text[: 8 * limit], limit)


@lru_cache(maxsize=16_384)
def _clean(text: str, limit: int) -> str:
    return _MARKS.sub("", printable(text, limit))


def unmarked(text: str) -> str:
    """Return text for a tooltip or a notification, which would read markup in it."""
    return text.replace("<", "(")


def peer_name(peer: Peer) -> str:
    """Return what a peer is called, or the end of its PeerID where its name shows nothing."""
    name = clean(peer.name) or f"…{clean(peer.id)[-8:]}"
    return f"{name} (you)" if peer.me else name


def state_word(state: str) -> str:
    """Return what a peer or a run does, in a word or two."""
    return _STATE_WORDS.get(state) or clean(state, 20).replace("_", " ")


def peer_state(peer: Peer) -> str:
    """Return whether a peer is shut out, or what it does, in a word or two."""
    if peer.host_banned or peer.standing == "banned":
        return "banned"
    return "blocked" if peer.blocked else state_word(peer.state)


def open_to(admission: str) -> str:
    """Return who can join a run."""
    return _OPEN_TO.get(admission) or clean(admission, 40)


# Numbers.


def short_count(value: float | None) -> str:
    """Return a count in three figures: "813", "38.9 k", "2.7 M"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    size, unit = float(value), ""
    for larger in (" k", " M", " G", " T"):
        if abs(size) < 999.5:
            break
        size, unit = size / 1000, larger
    digits = 0 if not unit and size == int(size) else max(0, 2 - _whole_digits(size) + 1)
    return f"{size:.{min(digits, 2)}f}{unit}"


def _whole_digits(size: float) -> int:
    return 1 if abs(size) < 1 else int(math.log10(abs(size))) + 1


def rate(samples_per_second: float) -> str:
    """Return a throughput: "2,872 /s"."""
    return f"{_pace(samples_per_second)} /s"


def _pace(value: float | None) -> str:
    return number(value, 0 if value is not None and abs(value) >= 99.95 else 1)


def number(value: float | None, digits: int) -> str:
    """Return a number with so many digits behind the point, or a dash."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def axis_number(value: float) -> str:
    """Return a number beside a chart in two or three figures."""
    if abs(value) >= 1000 or value == 0:
        return short_count(value)
    digits = 0 if abs(value) >= 9.95 else 1 if abs(value) >= 0.995 else 2
    return f"{value:.{digits}f}"


def percent(part: float | None) -> str:
    """Return a part of one as per cent."""
    if part is None or not math.isfinite(part):
        return NOTHING
    return f"{100 * part:.1f} %" if 0 < part < 0.0995 else f"{100 * part:.0f} %"


def size(count: float | None) -> str:
    """Return a number of bytes: "1.2 GB"."""
    if count is None or not math.isfinite(count):
        return NOTHING
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def of_both(first: float, second: float | None, unit_of: str = "B") -> str:
    """Return two amounts in the unit of the larger: "5.1 / 8.0 GB", "11 / 15 Mb/s"."""
    most = max(first, second or 0)
    divisor, prefix = 1.0, ""
    for larger in ("k", "M", "G", "T"):
        if most / divisor < 999.5:
            break
        divisor, prefix = divisor * 1000, larger
    figures = [_figure(value / divisor) for value in (first, second) if value is not None]
    return f"{' / '.join(figures)} {prefix}{unit_of}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


def milliseconds(seconds: float | None) -> str:
    """Return a latency: "81 ms"."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    return f"{1000 * seconds:,.0f} ms"


def duration(seconds: float | None) -> str:
    """Return a time as people say it: "40 s", "3 min", "2.1 h"."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / divisor
            return f"{value:.{1 if unit == 'h' and value < 9.95 else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def clock(at: float) -> str:
    """Return the time of day, here, of a moment: "17:12:40"."""
    then = _local(at)
    return NOTHING if then is None else f"{then:%H:%M:%S}"


def moment(at: float) -> str:
    """Return day and time, here, of a moment: "2026-03-01 14:05"."""
    then = _local(at)
    return NOTHING if then is None else f"{then:%Y-%m-%d %H:%M}"


def _local(at: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(at).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


# The headline and the button.


def headline(
    status: Status | None, contribution: Contribution | None, run: RunStatus | None
) -> str:
    """Return the state of it all, and the reason."""
    if status is None:
        return "Starting"
    if contribution is not None and contribution.state != "contributing":
        return pause_words(contribution)
    if run is None:
        return "Ready: join a run to contribute"
    words = _run_words(run)
    return words if words != "Contributing" or contribution is None else _until_when(contribution)


def _until_when(contribution: Contribution) -> str:
    reason = f" {clean(contribution.reason, 120)}" if contribution.mode == "always" else ""
    return ", ".join(filter(None, (f"Contributing{reason}", clean(contribution.ends, 120))))


def pause_words(contribution: Contribution) -> str:
    """Return a pause with its reason and its end: "Paused: on battery, resumes on mains power"."""
    if contribution.state == "finishing":
        return "Finishing this round, then paused"
    reason = clean(contribution.reason, 120)
    parts = [part for part in (reason, clean(contribution.ends, 120)) if part]
    return f"Paused: {', '.join(parts)}" if parts else "Paused"


def _run_words(run: RunStatus) -> str:
    reason = clean(run.reason, 160)
    if run.host_paused and run.state not in {"finished", "stopped"}:
        return f"Paused for everybody, by {'you' if run.role == 'host' else 'the host of the run'}"
    match run.state:
        case "training" | "exchanging":
            return "Contributing"
        case "starting":
            return f"Starting: {reason}" if reason else "Starting"
        case "catching_up":
            return f"Catching up, {percent(run.progress)}: {reason or 'fetching the model'}"
        case _:
            word = run.state.replace("_", " ").capitalize()
            return f"{word}: {reason}" if reason else word


def subtitle(status: Status | None, run: RunStatus | None) -> str:
    """Return which run, which round, which node."""
    if status is None:
        return "looking for the node"
    parts = [] if run is None else [clean(run.name), f"round {run.round:,}"]
    parts += [f"node {status.api.removeprefix('http://')}", f"v{clean(status.version, 20)}"]
    if status.network != "online":
        reason = clean(status.network_reason, 100)
        parts.append(f"network {status.network}" + (f" ({reason})" if reason else ""))
    return " · ".join(parts)


def notices(contribution: Contribution | None, run: RunStatus | None) -> list[str]:
    """Return what a person should know though nothing is wrong, in sentences."""
    found = [clean(each, 200) for each in (contribution.unknown if contribution else ())]
    if run is not None:
        if run.standing in {"probation", "suspended"}:
            found.append(f"this machine is {_STANDING[run.standing]}: its work doesn't count yet")
        found += [clean(each, 200) for each in run.warnings]
    return found


_STANDING = {"probation": "on probation", "suspended": "suspended"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Something to press, and what it asks the node for."""

    text: str
    request: ContributionRequest


@dataclass(frozen=True, slots=True)
class Offer:
    """What the big button says and does, and its menu."""

    main: Choice
    menu: tuple[Choice, ...]
    finish: bool
    """Whether finishing the round makes sense now."""


def offer(contribution: Contribution | None, now: float) -> Offer:
    """Return what can be asked for now.

    Who paused it resumes within the limits; what a limit paused can be overruled, for an hour
    unless told otherwise.
    """
    if contribution is None or contribution.state != "paused":
        return _pause_offer(contribution, now)
    always = [
        Choice("Contribute for 1 hour, whatever the limits say", _ask("always", 3600.0)),
        Choice(f"Contribute until {_morning(now)}", _ask("always", until_tomorrow(now))),
        Choice("Contribute until I pause", _ask("always")),
    ]
    automatic = Choice("Contribute", _ask("auto"))
    if contribution.cause is None or contribution.cause in _PAUSED_BY_PERSON:
        return Offer(automatic, (Choice("Within my limits", _ask("auto")), *always), finish=False)
    overrule = Choice("Contribute now", always[0].request)
    stay = Choice("Stay paused until I resume", _ask("never"))
    return Offer(overrule, (*always, stay), finish=False)


def _pause_offer(contribution: Contribution | None, now: float) -> Offer:
    menu = [
        Choice("Pause for 1 hour", _ask("never", 3600.0)),
        Choice(f"Pause until {_morning(now)}", _ask("never", until_tomorrow(now))),
        Choice("Pause until I resume", _ask("never")),
    ]
    if contribution is not None and contribution.mode == "always":
        menu.append(Choice("Contribute within my limits again", _ask("auto")))
    finishing = contribution is not None and contribution.state == "finishing"
    if finishing:
        menu.append(Choice("Go on after this round", _ask("auto")))
    return Offer(Choice("Pause", _ask("never")), tuple(menu), finish=not finishing)


def _ask(mode: Mode, for_s: float | None = None) -> ContributionRequest:
    return ContributionRequest(mode=mode, for_s=for_s)


def until_tomorrow(now: float) -> float:
    """Return the seconds until the next day's morning, here."""
    return max(60.0, _next_morning(now).timestamp() - now)


def _next_morning(now: float) -> datetime:
    today = datetime.fromtimestamp(now).astimezone()
    tomorrow = (today + timedelta(days=1)).replace(tzinfo=None)
    return tomorrow.replace(hour=MORNING_HOUR, minute=0, second=0, microsecond=0).astimezone()


def _morning(now: float) -> str:
    return f"tomorrow, {_next_morning(now):%H:%M}"


# Tiles.


@dataclass(frozen=True, slots=True)
class Figure:
    """One tile."""

    value: str
    label: str
    more: str = ""
    """For a tooltip."""


def figures(status: Status | None, run: RunStatus | None, peers: int) -> Sequence[Figure]:
    """Return the tiles, always the same six in the same order."""
    return (
        Figure(_pace(run.samples_per_second if run else None), "my samples per second"),
        Figure(
            short_count(run.samples_accepted if run else None),
            "samples contributed",
            _accepted(run) if run else "",
        ),
        Figure(f"{run.peers if run else peers:,}", "peers"),
        Figure(number(run.loss if run else None, 3), "loss"),
        _memory_figure(status.memory if status else None),
        _traffic_figure(status.traffic if status else None),
    )


def _accepted(run: RunStatus) -> str:
    of_all = f"{run.samples_accepted:,} accepted of {run.samples_mine:,} trained"
    return f"{of_all} since this machine joined; what came of them: Contributions"


def _memory_figure(memory: MemoryUse | None) -> Figure:
    if memory is None:
        return Figure(NOTHING, "memory")
    label = "memory" if memory.device == "cpu" else "GPU memory"
    return Figure(of_both(memory.used, memory.limit), label, clean(memory.device))


def _traffic_figure(traffic: Traffic | None) -> Figure:
    label = "network up / down"
    if traffic is None:
        return Figure(NOTHING, label)
    value = of_both(8 * traffic.up_per_second, 8 * traffic.down_per_second, "b/s")
    limit = "" if traffic.month_limit is None else f" of {size(traffic.month_limit)}"
    return Figure(value, label, f"{size(traffic.month)}{limit} this month")
