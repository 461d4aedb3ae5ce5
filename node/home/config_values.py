"""What the texts in `config.toml` mean: sizes, rates, shares, times of the day, addresses.

Every `parse_…` and `check_…` raises ValueError, whose text says what would have been right.
"""

import ipaddress
import re

from protocol.control import printable

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
MIN_STORAGE_BYTES = 100 * 10**6
MIN_RATE_BYTES = 8000
MIN_MONTHLY_BYTES = 10**6
MIN_DEVICE_BYTES = 100 * 10**6
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60


def parse_size(text: str) -> int:
    """Return the number of bytes written as "20GB" or "512MiB"."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]?i?)B", text)
    if not found or found[2] not in _UNITS:
        raise ValueError('expected a size such as "20GB" or "512MB"')
    return int(float(found[1]) * _UNITS[found[2]])


def parse_rate(text: str) -> int | None:
    """Return the bytes per second of "10Mbit" or "1.5MB/s"; None of "", which sets no limit."""
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMG]?)(bit(?:/s)?|B/s)", text)
    if not found:
        raise ValueError('expected a rate such as "10Mbit" or "1.5MB/s", or "" for no limit')
    rate = int(float(found[1]) * _UNITS[found[2]] / (1 if found[3] == "B/s" else 8))
    if rate < MIN_RATE_BYTES:
        raise ValueError(f"{text} is less than any run can do with: at least 64Kbit")
    return rate


def parse_volume(text: str) -> int | None:
    """Return the bytes of a month's volume such as "100GB"; None of "", which sets no limit."""
    if not text:
        return None
    volume = parse_size(text)
    if volume < MIN_MONTHLY_BYTES:
        raise ValueError(f"{text} is less than any run needs: at least 1MB")
    return volume


def size_words(count: float) -> str:
    """Return a size much as it is written: "6 GB", "2.5 GB", "300 MB"."""
    return f"{count / 10**9:.3g} GB" if count >= 10**9 else f"{count / 10**6:.3g} MB"


def parse_share(text: str) -> float:
    """Return the part of a device's memory written as "80%" or "6GB": up to 1, or bytes."""
    if found := re.fullmatch(r"([0-9]{1,3}) ?%", text):
        if not 5 <= int(found[1]) <= 100:
            raise ValueError("expected 5% to 100%")
        return int(found[1]) / 100
    try:
        size = parse_size(text)
    except ValueError:
        raise ValueError('expected a share such as "80%", or a size such as "6GB"') from None
    if size < MIN_DEVICE_BYTES:
        raise ValueError(f"{text} is less than any run needs: at least 100MB")
    return float(size)


def parse_hours(text: str) -> tuple[tuple[int, int], ...]:
    """Return the windows of "22:00-07:00,12:00-13:00" as minutes since the day's midnight.

    The end of a window over midnight lies beyond `DAY_MINUTES`.
    """
    return tuple(_window(part.strip()) for part in text.split(","))


def parse_days(text: str) -> frozenset[int]:
    """Return the days of "mon-fri,sun" with Monday as 0; "sat-mon" goes over the week's end."""
    found: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError('expected days such as "mon-fri,sun"')
        start, end = DAYS.index(first), DAYS.index(last if dash else first)
        found |= {day % 7 for day in range(start, end + 1 + (7 if end < start else 0))}
    return frozenset(found)


def parse_api(text: str) -> tuple[str, int]:
    """Return address and port (0 = any free one) of "127.0.0.1:7717"."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError('expected "127.0.0.1:PORT"')
    try:
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError("the control API is for this machine only: 127.0.0.1:PORT")
    return host, _port(port)


def check_storage(text: str) -> None:
    """Accept a size that some run fits in."""
    if parse_size(text) < MIN_STORAGE_BYTES:
        raise ValueError(f"{text} is less than any run needs: at least 100MB")


def check_name(text: str) -> None:
    """Accept a name that can be shown."""
    if not 1 <= len(text) <= 40 or printable(text) != text:
        raise ValueError("expected a name of 1 to 40 visible characters")


def check_listen(text: str) -> None:
    """Accept a TCP multiaddr to listen on."""
    parts = text.split("/")
    if len(parts) != 5 or parts[1] not in {"ip4", "ip6"} or parts[3] != "tcp":
        raise ValueError('expected a TCP multiaddr such as "/ip4/0.0.0.0/tcp/0"')
    _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
    _port(parts[4])


def check_announce(text: str) -> None:
    """Accept a TCP multiaddr that others can dial."""
    parts = text.split("/")
    if len(parts) != 5 or parts[1] not in {"ip4", "ip6", "dns4", "dns6"} or parts[3] != "tcp":
        raise ValueError('expected a TCP multiaddr such as "/ip4/203.0.113.7/tcp/4001"')
    if parts[1].startswith("ip"):
        _check_ip(parts[2], 4 if parts[1] == "ip4" else 6)
    elif not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", parts[2]):
        raise ValueError(f"{printable(parts[2], 60)!r} is not a host name")
    if _port(parts[4]) == 0:
        raise ValueError("an announced address needs its port")


def check_device(text: str) -> None:
    """Accept a device in torch's words, or "auto"."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,2})?", text):
        raise ValueError('expected "auto", "cpu", "cuda", "cuda:NUMBER" or "mps"')


def _window(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})", text)
    if not found:
        raise ValueError('expected hours such as "22:00-07:00"')
    start, end = (_minute(found[at], found[at + 1]) for at in (1, 3))
    if start == DAY_MINUTES:
        raise ValueError("a window begins at 23:59 at the latest")
    if start == end:
        raise ValueError(f"{text} is no time at all: the whole day is 00:00-24:00")
    return start, end if end > start else end + DAY_MINUTES


def _minute(hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > DAY_MINUTES:
        raise ValueError(f"{hours}:{minutes} is no time of the day (00:00 to 24:00)")
    return minute


def _check_ip(text: str, version: int) -> None:
    try:
        right = ipaddress.ip_address(text).version == version
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"{printable(text, 60)!r} is not an IPv{version} address")


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise ValueError(f"{printable(text, 20)!r} is not a port (0 to 65535)")
    return int(text)
