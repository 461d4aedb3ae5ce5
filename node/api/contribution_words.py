"""Whether a node contributes, in words."""

from collections.abc import Sequence

from protocol.control import Contribution, RunStatus, printable

_OVER = {"finished", "stopped"}


def contribution_words(contribution: Contribution) -> str:
    """Return such as "Contributing" or "Paused: on battery, resumes on mains power".

    Contributing against the limits is told, and until when it goes on where a clock decides that.
    """
    match contribution.state:
        case "contributing":
            reason = f" {printable(contribution.reason)}" if contribution.mode == "always" else ""
            return ", ".join(filter(None, (f"Contributing{reason}", printable(contribution.ends))))
        case "finishing":
            return "Finishing the round, then pausing"
        case "paused":
            words = (printable(contribution.reason), printable(contribution.ends))
            return ": ".join(filter(None, ("Paused", ", ".join(filter(None, words)))))


def node_words(contribution: Contribution, runs: Sequence[RunStatus]) -> str:
    """Return whether the node contributes; where no run has work for it, that instead."""
    if contribution.state != "contributing" or any(run.state not in _OVER for run in runs):
        return contribution_words(contribution)
    if not runs:
        return "Ready: join a run to contribute"
    states = {run.state for run in runs}
    over = "are finished" if states == {"finished"} else "have ended"
    if len(runs) == 1:
        over = "is finished" if states == {"finished"} else "has stopped"
    return f"Nothing to do: {'the run' if len(runs) == 1 else 'all runs'} {over}"
