"""Why the control API refuses a call before the node hears of it, or the node refuses it."""

from protocol.errors import TalkootError


class RefusedError(TalkootError):
    """A call that the API refuses before the node hears of it, with its HTTP status."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class NotPermittedError(TalkootError):
    """This node may not do that: a member acting as a host, for one."""

    code = "not_permitted"


class NoSuchCheckpointError(TalkootError):
    """There is no checkpoint of that id on this disk."""

    code = "no_such_checkpoint"


class BadPathError(TalkootError):
    """A path that can't be written to as it was asked: relative, a folder, or taken already."""

    code = "bad_path"
