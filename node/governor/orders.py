"""What a person ordered: contribute or don't, for some time or until told otherwise.

An order without an end holds until the next one, or until `contribute.mode` is changed in the
configuration: who spoke last is heard.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from node.governor.limits import ConfiguredMode
from node.governor.moment import Moment
from protocol.control import LONGEST_FOR_S, Mode

STEP_SECONDS = 1.0
"""By how much clocks are set back all the time."""

Duration = Annotated[float, Meta(gt=0, le=LONGEST_FOR_S)]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last order, as it is kept on disk."""

    mode: Mode
    configured: ConfiguredMode
    """What the configuration said at the time."""
    base: ConfiguredMode
    """Of finish: by which mode the round goes on until it is over."""
    for_s: Duration | None = None
    until: float | None = None
    """When it ends, by a clock that may jump."""
    over: bool = False
    """Of finish: whether the round is."""


def new_order(
    mode: Mode, for_s: float | None, previous: Order | None, configured: ConfiguredMode, at: float
) -> Order | None:
    """Return the order that takes the place of `previous`; None if it asks for nothing special."""
    if mode == configured and for_s is None:
        return None
    base, over = (previous.mode if previous else configured), False
    if base == "finish" and previous:
        base, over = previous.base, previous.over
    return Order(
        mode=mode,
        configured=configured,
        base=configured if base == "finish" else base,
        for_s=for_s,
        until=None if for_s is None else at + for_s,
        over=over and mode == "finish",
    )


def in_force(order: Order | None, configured: ConfiguredMode, now: Moment) -> Order | None:
    """Return the order as it holds now; None if it ended.

    A clock that was set back doesn't make it longer than it was ordered for.
    """
    if order is None or order.configured != configured:
        return None
    if order.until is None or order.for_s is None:
        return msgspec.structs.replace(order, until=None, for_s=None)
    if now.at >= order.until:
        return None
    if order.until > now.at + order.for_s + STEP_SECONDS:
        return msgspec.structs.replace(order, until=now.at + order.for_s)
    return order
