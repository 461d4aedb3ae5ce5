"""Join links, also those of invites, which carry a secret `k` and its end `x`.

    talkoot:?v=1&r=<run id>&n=<name>&p=<multiaddr>[&p=…][&k=<secret>][&x=<expiry>]&c=<checksum>

The checksum comes last, so that a paste that was cut short is caught and said.
"""

from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qsl, quote

from protocol.errors import LaterLinkError, LinkError, SignatureError
from protocol.identity import public_key_of
from protocol.invites import LATEST, InviteSecret

LINK_CHARACTERS = 8192
MAX_LINK_PEERS = 16
_ADDRESS_CHARACTERS = 300
_SCHEME = "talkoot:?"
_ASK_AGAIN = "Copy the whole link again, from talkoot: to the end."


@dataclass(frozen=True, slots=True)
class JoinLink:
    """A run and peers through which it can be reached."""

    run: bytes
    name: str
    peers: tuple[str, ...]
    """Multiaddrs ending in /p2p/<peer id>."""
    expires: int | None = None
    """DHT time in seconds after which the link is refused."""
    invite: InviteSecret | None = None
    """What lets its bearer into a private run."""

    def __str__(self) -> str:
        parts = [("v", "1"), ("r", self.run.hex()), ("n", self.name)]
        parts += [("p", peer) for peer in self.peers]
        if self.invite is not None:
            parts.append(("k", str(self.invite)))
        if self.expires is not None:
            parts.append(("x", str(self.expires)))
        body = _SCHEME + "&".join(f"{key}={quote(value, safe='/')}" for key, value in parts)
        return f"{body}&c={_checksum(body)}"


def parse_link(text: str, now: float) -> JoinLink:
    """Return the link in `text`.

    Args:
        text: what a person pasted; white space around it is ignored.
        now: DHT time in seconds.

    Raises:
        LinkError: not a link, truncated, altered, expired, or of a later version.
    """
    text = text.strip()
    if not text.startswith(_SCHEME):
        raise LinkError(
            "this is not a talkoot link: it doesn't start with talkoot:?", hint=_ASK_AGAIN
        )
    if len(text) > LINK_CHARACTERS or not text.isascii():
        raise LinkError(
            "the link was altered: it is too long, or holds characters that no link has",
            hint=_ASK_AGAIN,
        )
    body, found, checksum = text.rpartition("&c=")
    if not found:
        raise LinkError("the link is cut short: its checksum is missing", hint=_ASK_AGAIN)
    if checksum != _checksum(body):
        raise LinkError("the link was altered or cut short: its checksum differs", hint=_ASK_AGAIN)
    return _fields(body.removeprefix(_SCHEME), now)


def _fields(query: str, now: float) -> JoinLink:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True, max_num_fields=64)
    except ValueError as error:
        raise LinkError(f"the link can't be read: {error}", hint=_ASK_AGAIN) from error
    single = {key: value for key, value in pairs if key != "p"}
    peers = tuple(value for key, value in pairs if key == "p")
    if len(single) + len(peers) < len(pairs):
        raise LinkError("the link can't be read: a field comes twice", hint=_ASK_AGAIN)
    if single.get("v") != "1" or set(single) - {"v", "r", "n", "k", "x"}:
        raise LaterLinkError(
            "the link is of a later version", hint="Update talkoot, then try again."
        )
    try:
        run = bytes.fromhex(single.get("r", ""))
        expires = int(single["x"]) if "x" in single else None
        invite = InviteSecret.parse(single["k"]) if "k" in single else None
    except ValueError as error:
        raise LinkError(f"the link can't be read: {error}", hint=_ASK_AGAIN) from error
    if len(run) != 32 or not 1 <= len(peers) <= MAX_LINK_PEERS:
        raise LinkError(
            f"the link names no run, or not 1 to {MAX_LINK_PEERS} peers",
            hint="Ask the host for a new link.",
        )
    if not all(map(_is_address, peers)):
        raise LinkError(
            "the link names a peer by something that is no address",
            hint="Ask the host for a new link.",
        )
    if expires is not None and expires < now:
        raise LinkError("the link has expired", hint="Ask the host for a new link.")
    if expires is not None and expires > LATEST:
        raise LinkError("the link's end is no time", hint="Ask the host for a new link.")
    if invite is not None and expires is None:
        raise LinkError("the link's invite has no end", hint="Ask the host for a new link.")
    return JoinLink(run, single.get("n", "")[:80], peers, expires, invite)


def _is_address(text: str) -> bool:
    path, _, peer = text.rpartition("/p2p/")
    try:
        public_key_of(peer)
    except SignatureError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and path.startswith("/") and len(text) <= _ADDRESS_CHARACTERS


def _checksum(body: str) -> str:
    return sha256(body.encode()).hexdigest()[:8]
