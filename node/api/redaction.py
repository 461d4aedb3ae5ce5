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
_NOBODYS = {"localhost", "talkoot", "node", "host", "linux", "cpu", "gpu"}
"""Names of machines that tell nothing, and are words of what is to be read."""

_PATTERNS = (
    (re.compile(r"(?is)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)"), HIDDEN),
    (re.compile(r"(?i)(\bBearer\s+)[^\s\"',]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(?i)((?:[?&]|&amp;|\\u0026|%26)k(?:=|%3D))[^&\s\"'\\]+"), rf"\g<1>{HIDDEN}"),
    (re.compile(r"(?i)(/dns(?:4|6|addr)?/)[^/\s\"']+"), r"\g<1>[host]"),
    (re.compile(r"(?i)((?:\b[A-Z]:\\+|/)(?:home|users)[\\/]+)[^\\/\s\"']+"), r"\g<1>~"),
)
_IP4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IP6_RUN = re.compile(r"[0-9A-Fa-f:]{2,}")
_IP6_CHARACTERS = 39
_WORD = re.compile(r"\w")
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
        told = sorted({name for name in names if name.lower() not in _NOBODYS}, key=len)
        words = "|".join(re.escape(name) for name in reversed(told) if len(name) > 1)
        self._names = re.compile(rf"(?i)(?<!\w)(?:{words})(?!\w)") if words else None
        self._numbers: dict[str, int] = {}

    def clean(self, text: str) -> str:
        """Return `text` without what is to be hidden."""
        for found, instead in self._replaced:
            text = text.replace(found, instead)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        if self._names:
            text = self._names.sub("[machine]", text)
        for pattern in (_IP4, _IP6_QUOTED):
            text = pattern.sub(lambda found: self._mask(found[0]) or found[0], text)
        return _IP6_RUN.sub(self._masked_within, text)

    def _masked_within(self, run: re.Match[str]) -> str:
        """Return a run of digits and colons without the addresses in it.

        A word before or a port behind may be joined to an address by one colon.
        """
        text, whole = run[0], run.string
        if text.count(":") < 2:
            return text
        single = [at for at in range(len(text)) if _is_single_colon(text, at)]
        starts = [at + 1 for at in single]
        if not _WORD.match(whole[max(run.start() - 1, 0) : run.start()]):
            starts.insert(0, 0)
        ends = single if _WORD.match(whole[run.end() : run.end() + 1]) else [*single, len(text)]
        masked, done = "", 0
        for start in starts:
            near = [end for end in ends if start < end <= start + _IP6_CHARACTERS]
            for end in reversed(near if start >= done else []):
                if mask := self._mask(text[start:end]):
                    masked, done = masked + text[done:start] + mask, end
                    break
        return masked + text[done:]

    def _mask(self, text: str) -> str:
        """Return what is written for an address; "" where it is none, or names nobody."""
        try:
            address = ipaddress.ip_address(unquote(text))
        except ValueError:
            return ""
        if address.is_loopback or address.is_unspecified:
            return ""
        number = self._numbers.setdefault(str(address), len(self._numbers) + 1)
        return f"[{'lan' if address.is_private else 'ip'}-{number}]"


def _is_single_colon(text: str, at: int) -> bool:
    return text[at] == ":" and ":" not in {text[max(at - 1, 0) : at], text[at + 1 : at + 2]}


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
