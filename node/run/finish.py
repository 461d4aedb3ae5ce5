"""Contribution that ends with the round in progress (mode finish)."""

import asyncio
from collections.abc import Callable

from node.governor.governor import Governor

POLL_SECONDS = 0.2


async def watch_finish(governor: Governor, in_progress: Callable[[], set[tuple[str, int]]]) -> None:
    """Tell the governor when the rounds that are to be finished are over, for ever.

    Args:
        governor: it says when rounds are to be finished.
        in_progress: returns run and round of all that this node has a part in now.
    """
    while True:
        while governor.contribution.state != "finishing":
            await governor.changed(governor.contribution)
        begun = in_progress()
        while begun & in_progress() and governor.contribution.state == "finishing":  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        governor.note_round_over()
