"""Takes out of a text what nobody else should read: secrets, addresses, and whose machine it is.

Left in are PeerIDs, names that peers gave themselves and this node's own name: all of them are told
to every peer of a run anyway, and without them a fault between peers can't be followed.
"""

import ipaddress
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

HIDDEN = "[hidden]"
_SEED_BYTES = slice(4, 36)
"""Of the private key, in libp2p's form."""
_LEAST_SECRET = 8
"""What is shorter would be found everywhere."""

_PATTERNS = (
    (re.compile(r"(?is)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)"), HIDDEN),
    (re.compile(r"(?i)(\bBearer\s+)[^\s\"',]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(?i)((?:[?&]|&amp;|\\u0026|%26)k(?:=|%3D))[^&\s\"'\\]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(?i)(/dns(?:4|6|addr)?/)[^/\s\"']+"), r"\g<1>[host]"),
    (re.compile(r"(?i)((?:\b[A-Z]:\\+|/)(?:home|users)[\\/]+)[^\\/\s\"']+"), r"\g<1>~"),
)
_IP4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IP6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_IP6_QUOTED = re.compile(r"(?i)(?<![\w%.])[0-9a-f]{0,4}(?:%3a[0-9a-f]{0,4}){2,7}(?![\w%])")


class Redactor:
    """Hides the same things in each text; an address has the same number in all of them.

    Args:
        secrets: texts that may not appear.
        folders: the user's home folder and such, written as "~".
        names: of this machine.
    """

    def __init__(
        self, secrets: Iterable[str], folders: Iterable[Path] = (), names: Iterable[str] = ()
    ) -> None:
        self._replaced = [(secret, HIDDEN) for secret in secrets if len(secret) >= _LEAST_SECRET]
        self._replaced += [(str(folder), "~") for folder in folders if len(folder.parts) > 1]
        self._replaced.sort(key=lambda pair: -len(pair[0]))  # the whole before its parts
        words = "|".join(re.escape(name) for name in names if len(name) > 3)
        self._names = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
        self._numbers: dict[str, int] = {}

    def clean(self, text: str) -> str:
        """Return `text` without what is to be hidden."""
        for found, instead in self._replaced:
            text = text.replace(found, instead)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        if self._names:
            text = self._names.sub("[machine]", text)
        for pattern in (_IP4, _IP6_QUOTED, _IP6):
            text = pattern.sub(self._masked, text)
        return text

    def _masked(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(unquote(found[0]))
        except ValueError:
            return found[0]
        if address.is_loopback or address.is_unspecified:
            return found[0]
        number = self._numbers.setdefault(str(address), len(self._numbers) + 1)
        return f"[{'lan' if address.is_private else 'ip'}-{number}]"


def forms_of_key(key: bytes) -> list[str]:
    """Return the texts in which the private key of an identity file could appear."""
    parts = (key, key[_SEED_BYTES], key[4:])
    return [
        form
        for part in parts
        if part
        for form in (
            part.hex(),
            part.hex().upper(),
            *(encode(part).decode().rstrip("=") for encode in (b64encode, urlsafe_b64encode)),
            str(part)[2:-1],
        )
    ]
