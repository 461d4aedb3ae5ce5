"""A terminal's keys, one at a time."""

import asyncio
import codecs
import os
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1b[1~": "home",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
}
_READ_BYTES = 1024
_OFF = b"\0"


@contextmanager
def keyboard(press: Callable[[str], None]) -> Iterator[None]:
    """Call `press` with each key of the terminal while the context lasts.

    Ctrl-C interrupts as ever. Ctrl-Z does nothing: nobody would put the screen back.
    """
    terminal = sys.stdin.fileno()
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    loop = asyncio.get_running_loop()

    def read() -> None:
        data = os.read(terminal, _READ_BYTES)
        if not data:  # the terminal is gone
            loop.remove_reader(terminal)
        for key in keys_of(decoder.decode(data)):
            press(key)

    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    changed[6][termios.VSUSP] = _OFF
    termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
    try:
        loop.add_reader(terminal, read)
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def keys_of(text: str) -> Iterator[str]:
    """Yield what was pressed: characters, and names for other keys; unknown ones are left out."""
    while text:
        key = _sequence(text)
        text = text[len(key) :]
        if key in _NAMES:
            yield _NAMES[key]
        elif len(key) == 1 and key.isprintable():
            yield key


def _sequence(text: str) -> str:
    """Return the characters of the first key: of an escape sequence, all up to its last letter."""
    if not text.startswith(("\x1b[", "\x1bO")):
        return text[0]
    for end in range(2, len(text)):
        if "@" <= text[end] <= "~":
            return text[: end + 1]
    return text
