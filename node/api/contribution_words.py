"""Whether a node contributes, in words."""

from protocol.control import Contribution, printable


def contribution_words(contribution: Contribution) -> str:
    """Return such as "Contributing" or "Paused: on battery, resumes on mains power"."""
    match contribution.state:
        case "contributing":
            return "Contributing"
        case "finishing":
            return "Finishing the round, then pausing"
        case "paused":
            words = (printable(contribution.reason), printable(contribution.ends))
            return ": ".join(filter(None, ("Paused", ", ".join(filter(None, words)))))
