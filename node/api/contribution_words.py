"""Whether a node contributes, in words."""

from protocol.control import Contribution, printable


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
