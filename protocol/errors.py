"""Errors that a person or a peer can be told about.

    TalkootError                  code, message, hint: what the CLI and the API show
    ├── ProtocolError             a peer broke a rule: refused, counted under its code
    │   ├── CodecError         !  bytes that are not the canonical form of the expected message
    │   │   └── UnknownWordError  well enveloped, but nothing that this version knows
    │   ├── FrameError            a frame above its limit, or cut short
    │   │   └── LongFrameError !  another peer announced a frame above its limit
    │   ├── SignatureError     !  not signed by whom it claims, or for another run or kind
    │   ├── ChunkError            a chunk or leaf list that doesn't match its Merkle root
    │   ├── RecordError           a DHT record outside its owner's place, size or lifetime
    │   ├── RoundError            a message for another round, state or roll call
    │   └── AdmissionError        a peer that has not paid, or not been let in, to take part
    ├── LinkError                 a join link that is truncated or altered
    │   └── LaterLinkError        ... of a later version of talkoot
    ├── ManifestError             a manifest that its host did not sign or that makes no sense
    │   └── LaterManifestError    ... of a later version of the protocol
    ├── NotHostError              only the run's host may do that
    ├── NotPrivateError           the run is open: it has no invites
    ├── NotMemberError            the run is by invite, and this node was not let in
    └── InviteError               nobody is let in by this invite (any more)
        ├── InviteExpiredError    its time is over
        └── InviteUsedUpError     as many as it is for have joined by it

`!`: a violation, which no honest peer commits: who sent it isn't listened to for a while.
Other packages add their own subclasses of `TalkootError` beside the code that raises them.
"""


class TalkootError(Exception):
    """Base of all errors with a stable `code`, a message that says why, and a hint what to do."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ProtocolError(TalkootError):
    """A peer sent something that the protocol does not allow."""

    code = "protocol_error"
    violation = False
    """Whether no honest peer can have sent it: not one of another version, with a wrong clock, or
    deceived by others."""


class CodecError(ProtocolError):
    """Bytes that are not the canonical encoding of the expected message."""

    code = "malformed_message"
    violation = True


class UnknownWordError(CodecError):
    """An envelope's content that this version can't read; a later one may."""

    code = "unknown_word"
    violation = False


class FrameError(ProtocolError):
    """A frame above the size limit or cut short."""

    code = "bad_frame"


class LongFrameError(FrameError):
    """A frame that another peer announced above the size limit."""

    violation = True


class SignatureError(ProtocolError):
    """A signature that doesn't verify for this signer, run and kind."""

    code = "bad_signature"
    violation = True


class ChunkError(ProtocolError):
    """A chunk or leaf list that doesn't match its Merkle root."""

    code = "chunk_mismatch"


class RecordError(ProtocolError):
    """A DHT record outside its owner's place, size or lifetime."""

    code = "bad_record"


class RoundError(ProtocolError):
    """A message that belongs to another round, state or roll call."""

    code = "wrong_round"


class AdmissionError(ProtocolError):
    """A message of a peer that has not paid, or not been let in, to take part."""

    code = "not_admitted"


class LinkError(TalkootError):
    """A join link that can't be used."""

    code = "bad_link"


class LaterLinkError(LinkError):
    """A join link of a later version of talkoot."""

    code = "update_required"


class ManifestError(TalkootError):
    """A manifest that can't be trusted or understood."""

    code = "bad_manifest"


class LaterManifestError(ManifestError):
    """A manifest of a later version of the protocol."""

    code = "update_required"


class NotHostError(TalkootError):
    """A node that doesn't host a run does what only its host may."""

    code = "not_host"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"only the host of the run may {what}",
            hint="Ask the host, or do it on the host's machine: talkoot runs shows your role.",
        )


class NotPrivateError(TalkootError):
    """Invites are asked for in a run that whoever has its link can join."""

    code = "not_private"

    def __init__(self) -> None:
        super().__init__(
            "the run is open: whoever has its link can join, and no invite is needed",
            hint='A run by invite is a new one, with admission = "invite" in its spec: '
            "talkoot host init --private SPEC.toml",
        )


class NotMemberError(TalkootError):
    """This node was not let into a run by invite, or is not a member of it any more."""

    code = "not_a_member"

    def __init__(
        self, why: str = "the run is private, and this node is not a member of it"
    ) -> None:
        super().__init__(why, hint="Ask the host for an invite.")


class InviteError(TalkootError):
    """The host lets nobody in by this invite: it was revoked, is not its own, or it banned us."""

    code = "invite_refused"

    def __init__(self, why: str = "the run does not let this node in by that invite") -> None:
        super().__init__(why, hint="Ask the host for a new invite.")


class InviteExpiredError(InviteError):
    """An invite whose time is over."""

    code = "invite_expired"

    def __init__(self) -> None:
        super().__init__("the invite has expired")


class InviteUsedUpError(InviteError):
    """An invite by which as many have joined as it is for."""

    code = "invite_used_up"

    def __init__(self) -> None:
        super().__init__("the invite is used up: as many as it is for have joined by it")


UPDATE_CODES = frozenset({"update_required", "unknown_task"})
"""Of errors that end when another version of talkoot, or a package beside it, is installed."""
