"""What a classifier is trained for, and how right it is."""

# ruff: noqa: PLC0415  # torch is imported where it is used: see node.tasks

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Objective: TypeAlias = Literal["cross_entropy", "accuracy"]
"""`accuracy` minimises the error rate: no gradient leads there, only function values do."""


def objective_loss(objective: Objective, logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Return the cross-entropy in nats, or the error rate, of logits (batch, labels)."""
    from torch.nn import functional

    if objective == "cross_entropy":
        return functional.cross_entropy(logits, labels)
    return (logits.argmax(1) != labels).float().mean()
