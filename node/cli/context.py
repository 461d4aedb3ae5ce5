"""What every command is given."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich.console import Console
from rich.text import Text

from node.api.client import NodeClient, NodeNotRunningError, connect
from node.cli.outcome import UsageError
from node.cli.screen import console, say
from node.home.paths import Paths
from node.home.spawn import start_node

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name


@dataclass(frozen=True, slots=True)
class Context:
    """The home, where to print, and whether someone sits at the terminal."""

    paths: Paths
    out: Console
    """Results, and nothing else: other programs may read it."""
    err: Console
    """Errors, questions and progress."""
    debug: bool

    @classmethod
    def of_process(cls, *, debug: bool) -> "Context":
        """Return the context of this process."""
        return cls(Paths.from_environment(), console(sys.stdout), console(sys.stderr), debug)

    async def ask(self, question: str, otherwise: str) -> bool:
        """Return whether the person at the terminal says yes.

        Raises:
            UsageError: nobody is there to ask; the hint is `otherwise`.
        """
        if not sys.stdin.isatty():
            raise UsageError("this needs a yes, and nobody can be asked here", hint=otherwise)
        self.err.print(Text(f"{question} [y/N] ", "bold"), end="")
        return (await _line_of_terminal()).strip().lower() in {"y", "yes"}

    @asynccontextmanager
    async def node(self, *, start: bool = False) -> AsyncIterator[NodeClient]:
        """Give a client of the running node; with `start`, of one started now if none runs.

        Raises:
            NodeNotRunningError: none runs.
            NodeStartError: it could not be started.
        """
        if start:
            await self._start_if_none()
        async with connect(self.paths) as client:
            yield client

    async def _start_if_none(self) -> None:
        try:
            async with connect(self.paths) as client:
                await client.health()
        except NodeNotRunningError:
            say(self.err, "No node runs here yet: starting one in the background…")
            with self.err.status("starting"):
                pid = await start_node(self.paths, debug=self.debug)
            say(self.err, f"The node runs (process {pid}). End it with: talkoot down")


async def _line_of_terminal() -> str:
    """Return the next line; unlike input(), it lets Ctrl-C end the event loop at once."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()


def allow_debug(commands: Commands) -> None:
    """Let --debug stand behind the commands too, not only before them."""
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


Command: TypeAlias = Callable[[Context, argparse.Namespace], int | Coroutine[Any, Any, int]]
