"""Questions to other programs over D-Bus, from a thread that may wait."""

import asyncio
from typing import Any

from dbus_fast import BusType, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusError, InvalidAddressError

from node.governor.questions import BusName, Question

_TYPES = {"session": BusType.SESSION, "system": BusType.SYSTEM}
_CALL_SECONDS = 1.0


class Buses:
    """The session's and the system's bus, for one thread; `close` is for that thread too."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._open: dict[BusName, MessageBus] = {}

    def ask(self, question: Question) -> Any:  # noqa: ANN401
        """Return the first value of the answer, or None if nobody answers within a second.

        No program is started for it.
        """
        try:
            return self._runner.run(self._ask(question))
        except (OSError, EOFError, DBusError, InvalidAddressError, AuthError, TimeoutError):
            self._drop(question.bus)
            return None

    def close(self) -> None:
        """Leave the buses."""
        for name in tuple(self._open):
            self._drop(name)
        self._runner.close()

    async def _ask(self, question: Question) -> Any:  # noqa: ANN401
        async with asyncio.timeout(_CALL_SECONDS):
            bus = await self._bus(question.bus)
            reply = await bus.call(
                Message(
                    destination=question.destination,
                    path=question.path,
                    interface=question.interface,
                    member=question.member,
                    signature=question.signature,
                    body=list(question.body),
                    flags=MessageFlag.NO_AUTOSTART,
                )
            )
        if reply.message_type is not MessageType.METHOD_RETURN or not reply.body:
            return None
        value = reply.body[0]
        return value.value if reply.signature == "v" else value

    async def _bus(self, name: BusName) -> MessageBus:
        bus = self._open.get(name)
        if bus is None or not bus.connected:
            bus = self._open[name] = await MessageBus(bus_type=_TYPES[name]).connect()
        return bus

    def _drop(self, name: BusName) -> None:
        if bus := self._open.pop(name, None):
            self._runner.run(_disconnect(bus))


async def _disconnect(bus: MessageBus) -> None:
    bus.disconnect()
    await asyncio.sleep(0)
