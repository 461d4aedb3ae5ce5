"""What a person types for a run or a peer, and which one is meant."""

from collections.abc import Collection, Mapping, Sequence

from protocol.control import RunStatus, printable
from protocol.errors import TalkootError


class NoSuchRunError(TalkootError):
    """No run of this node goes by that id or name."""

    code = "no_such_run"


class AmbiguousRunError(TalkootError):
    """More than one run goes by that id prefix or name."""

    code = "ambiguous_run"


class NoSuchPeerError(TalkootError):
    """No peer of the run goes by that id or name."""

    code = "no_such_peer"


class AmbiguousPeerError(TalkootError):
    """More than one peer goes by that part of an id or name."""

    code = "ambiguous_peer"


class UnknownInviteError(TalkootError):
    """This node made no invite of that id, or several begin with it."""

    code = "unknown_invite"


class NoSuchEvidenceError(TalkootError):
    """No evidence here begins with that root, or more than one does."""

    code = "no_such_evidence"


def find_run(runs: Sequence[RunStatus], reference: str) -> RunStatus:
    """Return the run that a person means by its name, or the start of its id or of its name.

    Raises:
        NoSuchRunError: none.
        AmbiguousRunError: several; a full id never is.
    """
    for status in runs:
        if status.run == reference:
            return status
    found = [
        status
        for status in runs
        if reference and (status.name == reference or status.run.startswith(reference.lower()))
    ]
    if not found and reference:
        found = [status for status in runs if status.name.startswith(reference)]
    if not found:
        raise NoSuchRunError(
            f"no run here is called {printable(reference, 64)!r}",
            hint="Show them with: talkoot runs",
        )
    if len(found) > 1:
        raise AmbiguousRunError(
            f"{printable(reference, 64)!r} can mean {len(found)} runs",
            hint="Give more of the run's id; show them with: talkoot runs",
        )
    return found[0]


def only_run(runs: Sequence[RunStatus], reference: str | None) -> RunStatus:
    """Return the run that a person means (see `find_run`), or the only one if none is named.

    Raises:
        NoSuchRunError: none.
        AmbiguousRunError: several, or none is named and there are several.
    """
    if reference is not None:
        return find_run(runs, reference)
    if not runs:
        raise NoSuchRunError("there is no run here", hint="Join one with: talkoot join LINK")
    if len(runs) > 1:
        raise AmbiguousRunError(
            f"there are {len(runs)} runs here: name the one you mean",
            hint="Show them with: talkoot runs",
        )
    return runs[0]


def hosted_run(
    runs: Sequence[RunStatus], reference: str | None, *, private: bool = False
) -> RunStatus:
    """Return the run that a person means, or the only one that this node hosts if none is named.

    Args:
        runs: of this node.
        reference: see `find_run`.
        private: whether only runs by invite count where none is named.

    Raises:
        NoSuchRunError: none.
        AmbiguousRunError: several.
    """
    if reference is not None:
        return find_run(runs, reference)
    found = [
        status
        for status in runs
        if status.role == "host" and (status.admission == "invite" or not private)
    ]
    kind = "private run" if private else "run"
    if not found:
        option = "--private " if private else ""
        raise NoSuchRunError(
            f"this node hosts no {kind}",
            hint=f"Start one: talkoot host init {option}SPEC.toml, then talkoot host start",
        )
    if len(found) > 1:
        raise AmbiguousRunError(
            f"this node hosts {len(found)} {kind}s: name the one you mean",
            hint="Show them with: talkoot runs",
        )
    return found[0]


def find_invite(ids: Collection[str], reference: str) -> str:
    """Return the id of the invite that a person means by it, or by the start of it.

    Raises:
        UnknownInviteError: none, or several.
    """
    if reference in ids:
        return reference
    found = [each for each in ids if reference and each.startswith(reference)]
    if len(found) == 1:
        return found[0]
    shown = repr(printable(reference, 64))
    raise UnknownInviteError(
        f"{shown} can mean {len(found)} invites" if found else f"there is no invite {shown} here",
        hint="Show them with: talkoot invite ls",
    )


def find_peer(names: Mapping[str, str], reference: str) -> str:
    """Return the PeerID that a person means: it, its start or end, or the peer's name.

    Args:
        names: every peer of the run by PeerID; "" where the name isn't known.
        reference: an ellipsis before it, as listings print it, doesn't count.

    Raises:
        NoSuchPeerError: none.
        AmbiguousPeerError: several; a full PeerID never is. Names are the peers' own choice.
    """
    if reference in names:
        return reference
    part = reference.strip().removeprefix("…")
    found = [
        peer
        for peer, name in names.items()
        if part and (name == reference or peer.startswith(part) or peer.endswith(part))
    ]
    shown = repr(printable(reference, 64))
    hint = "Show them with: talkoot peers"
    if not found:
        raise NoSuchPeerError(f"no peer of this run is called {shown}", hint=hint)
    if len(found) > 1:
        hint = f"Give more of the PeerID. {hint}"
        raise AmbiguousPeerError(f"{shown} can mean {len(found)} peers", hint=hint)
    return found[0]
