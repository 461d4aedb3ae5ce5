"""One thing that the doctor looked at."""

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, and what is to be done about it."""

    what: str
    state: Literal["ok", "warn", "fail"]
    """warn: it works, or would with other settings, but not as well as it could."""
    found: str
    hint: str = ""
