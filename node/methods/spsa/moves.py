"""What a block does to the master, as a message to the training process."""

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from node.methods.spsa.quantiser import Application
from protocol.blocks import MAX_TICKETS
from protocol.codec import Message
from protocol.signing import Bytes32, PeerIdField
from protocol.tickets import MAX_PROBES

Weight = Annotated[int, Meta(ge=-1024, le=1024)]


class TicketWeights(Message, frozen=True):
    """How much each probe of a ticket counts; 0 = not at all."""

    peer: PeerIdField
    seq: Annotated[int, Meta(ge=0, lt=1 << 32)]
    weights: Annotated[tuple[Weight, ...], Meta(max_length=MAX_PROBES)]


class Move(Message, frozen=True):
    """M += mult·Σ weight·s over the probes of tickets: exactly undone by `inverse`."""

    root: Bytes32
    """Of the state that the round of these tickets grows from."""
    exponent: int
    limit: int
    rate: float
    tickets: Annotated[tuple[TicketWeights, ...], Meta(max_length=MAX_TICKETS)]

    @property
    def application(self) -> Application:
        """How weights become steps."""
        return Application(self.exponent, self.limit, self.rate)

    def inverse(self) -> "Move":
        """Return the move that undoes this one."""
        return replace(
            self,
            tickets=tuple(
                replace(ticket, weights=tuple(-weight for weight in ticket.weights))
                for ticket in self.tickets
            ),
        )
