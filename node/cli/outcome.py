"""How a command ends: exit codes, and errors as people read them."""

import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from node.api.client import NodeNotRunningError
from node.cli.screen import console, plain
from node.home.spawn import NodeStartError
from node.home.strict_toml import ConfigError
from protocol.errors import TalkootError

OK, FAILED, USAGE, NOT_RUNNING, NOT_PERMITTED = range(5)
INTERRUPTED = 130
"""Ctrl-C, as shells count it: 128 + SIGINT."""

_NOT_PERMITTED_CODES = {
    *("unauthorized", "read_only_token", "not_permitted", "bad_host", "bad_origin"),
    *("not_host", "not_a_member", "invite_refused"),
}


class UsageError(TalkootError):
    """The command can't be done as it was given."""

    code = "usage"


def guarded(action: Callable[[], int], *, debug: bool) -> int:
    """Run `action` and return its exit code, or that of the error it ended by, having told it."""
    try:
        return action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort before the user's eyes
        if debug:
            traceback.print_exc()
        return tell(console(sys.stderr), error)


def tell(err: Console, error: BaseException) -> int:
    """Print what went wrong and what to do about it; return the exit code."""
    cause = _cause(error)
    if not isinstance(cause, TalkootError):
        kind = type(cause).__name__
        _print(err, f"an unexpected {kind}: {cause}", "Run it again with --debug and report it.")
        return FAILED
    _print(err, cause.message, cause.hint, _last_words(cause))
    return _exit_code(cause)


def _last_words(error: TalkootError) -> Sequence[str]:
    return error.last_words if isinstance(error, NodeStartError) else ()


def _exit_code(error: TalkootError) -> int:
    if isinstance(error, NodeNotRunningError):
        return NOT_RUNNING
    if isinstance(error, UsageError | ConfigError):
        return USAGE
    return NOT_PERMITTED if error.code in _NOT_PERMITTED_CODES else FAILED


def _print(err: Console, message: str, hint: str, said: Sequence[str] = ()) -> None:
    err.print(Text.assemble(("error: ", "bold red"), plain(message, 2000)), soft_wrap=True)
    for line in said:
        err.print(Text("  | " + plain(line, 500)), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint: ", "bold"), plain(hint, 2000)), soft_wrap=True)


def _cause(error: BaseException) -> BaseException:
    """Return what a group of errors is about: the first that was foreseen, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, TalkootError)), causes[0])
