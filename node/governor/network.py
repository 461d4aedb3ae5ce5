"""Whether the connection is paid by volume: NetworkManager knows, elsewhere it is unknown."""

from node.governor.questions import Answerer, property_of

_NAME = "org.freedesktop.NetworkManager"
_ANSWERS = {1: True, 2: False, 3: True, 4: False}
"""NMMetered: yes, no, guessed yes, guessed no; 0 = unknown."""


def metered(answer: object) -> bool | None:
    """Return what NetworkManager's property Metered means."""
    return _ANSWERS.get(answer) if isinstance(answer, int) else None


class MeteredProbe:
    """Reads it, over a connection that stays."""

    def __init__(self, buses: Answerer) -> None:
        self._buses = buses

    def read(self) -> dict[str, bool]:
        """Return the figure. Raises LookupError: nothing tells."""
        path = "/" + _NAME.replace(".", "/")
        found = metered(self._buses.ask(property_of("system", _NAME, path, _NAME, "Metered")))
        if found is None:
            raise LookupError("no network service tells")
        return {"metered": found}

    def close(self) -> None:
        """End the connection."""
        self._buses.close()
