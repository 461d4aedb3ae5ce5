"""`talkoot top`: the window's view for terminals."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from time import time
from typing import Never

from rich.live import Live

from node.api.client import ApiError, NodeClient, NodeNotRunningError, NodeTimeoutError
from node.cli.context import Commands, Context
from node.cli.keyboard import keyboard
from node.cli.outcome import OK, UsageError
from node.cli.top_model import LostEventsError, TopModel
from node.cli.top_view import TopView
from protocol.codec import UNREADABLE
from protocol.errors import TalkootError

AGAIN_SECONDS = 1.0
DRAW_SECONDS = 0.1
"""The least time between two drawings."""
LOSS_SECONDS = 20.0
LOSS_SPAN_SECONDS = 86_400.0
_LOSS_POINTS = 120
_LOST = (NodeNotRunningError, NodeTimeoutError, ApiError)


def add(commands: Commands) -> None:
    """Add the command."""
    top = commands.add_parser("top", help="node, runs and peers as they change; q quits")
    top.set_defaults(command=_top, endless=lambda _: True)


async def _top(context: Context, _: argparse.Namespace) -> int:
    if not (context.out.is_terminal and sys.stdin.isatty()):
        raise UsageError("top needs a terminal", hint="For programs: talkoot status --json")
    async with context.node() as client:
        await client.health()
    await _Top(context).run()
    return OK


@dataclass(slots=True)
class _Top:
    """The screen, what fills it, and who types."""

    context: Context
    model: TopModel = field(default_factory=TopModel)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    quit: asyncio.Event = field(default_factory=asyncio.Event)
    asks: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    client: NodeClient | None = None

    async def run(self) -> None:
        """Show everything until it is told to quit."""
        out = self.context.out
        view = TopView(self.model, is_ascii=not out.encoding.startswith("utf"))
        with (
            Live(view, console=out, screen=True, auto_refresh=False) as live,
            keyboard(self._press),
            _signals(self.quit, self.changed),
        ):
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(self._draw(live), name="screen"),
                    tasks.create_task(self._follow(), name="events"),
                    tasks.create_task(self._answer(), name="answers"),
                    tasks.create_task(self._learn(), name="loss"),
                ]
                await self.quit.wait()
                for task in working:
                    task.cancel()

    def _press(self, key: str) -> None:
        match self.model.press(key):
            case "quit":
                self.quit.set()
            case "contribution":
                self.asks.put_nowait(None)
        self.changed.set()

    async def _draw(self, live: Live) -> Never:
        while True:
            self.changed.clear()
            live.refresh()
            await asyncio.sleep(DRAW_SECONDS)
            await self.changed.wait()

    async def _follow(self) -> Never:
        """Keep the model as the node's events have it, through any number of nodes."""
        while True:
            try:
                async with self.context.node() as self.client:
                    await self._hear(self.client)
            except LostEventsError:
                continue
            except _LOST as error:
                self.model.lose(error.message)
            except UNREADABLE as error:
                self.model.lose(f"what the node tells can't be read: {error}")
            finally:
                self.client = None
            self.changed.set()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hear(self, client: NodeClient) -> None:
        async with aclosing(client.events()) as events:
            async for event in events:
                self.model.apply(event)
                self.changed.set()

    async def _answer(self) -> Never:
        """Ask the node for what "p" stands for."""
        while True:
            await self.asks.get()
            if self.client is None:
                continue
            wanted = self.model.next_contribution
            try:
                self.model.contribution = await self.client.contribute(wanted.mode, wanted.for_s)
                self.model.message = ""
            except TalkootError as error:
                self.model.message = error.message
            self.changed.set()

    async def _learn(self) -> Never:
        """Keep the loss curve."""
        while True:
            if self.client is not None and (run := self.model.run) is not None:
                try:
                    since = time() - LOSS_SPAN_SECONDS
                    found = await self.client.series("loss", run.run, since, _LOSS_POINTS)
                except TalkootError:
                    found = None  # told by the event stream, if it lasts
                self.model.losses = found or self.model.losses
                self.changed.set()
                await asyncio.sleep(LOSS_SECONDS)
            else:
                await asyncio.sleep(AGAIN_SECONDS)


@contextmanager
def _signals(quit_: asyncio.Event, changed: asyncio.Event) -> Iterator[None]:
    """Draw anew when the terminal's size changes; leave it as it was when told to end."""
    loop = asyncio.get_running_loop()
    ends = (signal.SIGTERM, signal.SIGHUP)
    for number in ends:
        loop.add_signal_handler(number, quit_.set)
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        yield
    finally:
        for number in (*ends, signal.SIGWINCH):
            loop.remove_signal_handler(number)
