"""Audits: who repeats whose work, who checks which chunk, and what is too far off to be honest.

The draws are functions of the agreed root and ledger, so everybody knows whose duty an audit was,
and nobody could foresee it before the state was known. (BTARD: Gorbunov et al., "Secure Distributed
Training at Scale", 2022, section 3.)
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from protocol.identity import PeerId
from protocol.ledger import Ledger, Standing
from protocol.manifest import TrustSpec
from trust.admission import electorate
from trust.aggregate import Rows, Vector, Weights, norm_of
from trust.measures import median
from trust.recheck import SHARE_MARGIN, Expected, ImpossibleClaimError, expect
from trust.score import SUSPECT_NOISE

WORK_LIMIT = 0.03
"""Relative error above which a committed update isn't the work it claims to be. Honest repetition
differs by 2e-4 for the wire's float16, and by some 1e-2 where a trainer computes in bfloat16;
flipped labels, stale weights or half of the samples make 5e-2 to 2."""
CERTAIN_WORK = WORK_LIMIT / 2
"""Below it an accusation is false; between the two it can be the hardware."""
SUSPECT_SCORE = 0.9
"""Of the median score of all who are present: while all are new, nobody is a suspect for it."""
SUSPECT_COPIED = 0.25

_DOMAIN = b"talkoot/1/audit\0"
_STATE_BYTES = 8
_UPDATE_BYTES = 2
_TRAFFIC = 0.75
_LARGEST_HALF = float(np.finfo(np.float16).max)
_HALF_ROUNDING = 2.0**-11
"""Relative error of a float16."""
_HALF_TINY = 2.0**-25
"""Absolute error of a float16 near 0."""
_CLAIMED = 1e-4
"""Norms and distances are sums of float32 products, whose order may be any."""
_FLOAT32 = 2.0**-22
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class WorkAudit:
    """The auditor repeats the target's work of the last round, in place of its own."""

    auditor: PeerId
    target: PeerId


class AuditVerdict(Enum):
    """Whether an accusation holds."""

    HOLDS = "holds"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ReceiptClaim:
    """What a reducer signed about n rows, in their order; None for one that it couldn't use."""

    shares: Sequence[float | None]
    distances: Sequence[float | None]
    norms: Sequence[float | None]
    norm: float


def draw_work_audits(
    root: bytes, ledger: Ledger, spec: TrustSpec, stewards: Set[PeerId]
) -> list[WorkAudit]:
    """Return who repeats whose work of the ledger's newest round, in order of the auditors.

    Every established member audits with probability `spec.audit_rate`, but fewer than half of them
    at once; half of the draws are among the suspects, if there are any.
    """
    present = [each for each in ledger.newest() if not each.banned]
    peers = [PeerId(each.peer) for each in present]
    trusted = electorate(peers, ledger, spec, stewards)
    usual = median([each.score for each in present] or [1.0])
    suspects = [PeerId(each.peer) for each in present if _is_suspect(each, trusted, usual)]
    audits = []
    for auditor in _draw_auditors(root, trusted, spec.audit_rate):
        others = [peer for peer in peers if peer != auditor]
        narrow = [peer for peer in suspects if peer != auditor]
        if narrow and _draw(root, "suspects", auditor) % 2:
            others = narrow
        if others:
            target = others[_draw(root, "target", auditor) % len(others)]
            audits.append(WorkAudit(auditor, target))
    return audits


def draw_chunk(root: bytes, auditor: PeerId, chunk_count: int, probability: float) -> int | None:
    """Return the chunk whose aggregate `auditor` is to check, or None."""
    if chunk_count == 0 or not _happens(root, "chunk", auditor, probability):
        return None
    return _draw(root, "which chunk", auditor) % chunk_count


def chunk_probability(members: int, sizes: Sequence[int]) -> float:
    """Return how likely a peer may check a chunk in a round, for all `members` and chunk `sizes`.

    It fetches every member's float16 inputs to that chunk, and spends at most 3/4 of the size of a
    state on it (8 bytes a parameter) in a round's mean.
    """
    if not members or not sizes:
        return 0.0
    allowed = _TRAFFIC * _STATE_BYTES * sum(sizes)
    return min(1.0, allowed / (_UPDATE_BYTES * members * max(sizes)))


def work_error(committed: NDArray[np.float32], repeated: NDArray[np.float32]) -> float:
    """Return ‖committed - repeated‖ / ‖repeated‖ in float64, infinite where it isn't a number."""
    first, second = committed.astype(np.float64), repeated.astype(np.float64)
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        return np.inf
    difference, norm = float(np.linalg.norm(first - second)), float(np.linalg.norm(second))
    if norm == 0:
        return np.inf if difference else 0.0
    return difference / norm


def judge_work(error: float) -> AuditVerdict:
    """Return whether it holds that work with this `work_error` was false."""
    if error > WORK_LIMIT:
        return AuditVerdict.HOLDS
    return AuditVerdict.FALSE if error < CERTAIN_WORK else AuditVerdict.UNKNOWN


def check_aggregate(
    rule: str, rows: Rows, weights: Weights, data: Vector, claim: ReceiptClaim
) -> str | None:
    """Return None for an honest reducer, else what is wrong with its aggregate or receipt.

    It never calls an honest one wrong, on whatever machine it computed (trust.recheck). What it
    lets pass is the wire's rounding, and for `clip` besides 1e-4·τ and float32's rounding, less
    than 1e-3·τ together unless updates are more alike than different.

    Args:
        rule: the rule that the manifest names.
        rows: the inputs that its receipt counts, unpacked, in the order of the roll call.
        weights: the agreed weights of these rows.
        data: the unpacked aggregate.
        claim: what the receipt says of these rows; a row with None is left out of account. Its
            distances and norm are those of the aggregate as delivered (`data`), after packing.
    """
    if not len(claim.shares) == len(claim.distances) == len(claim.norms) == len(rows):
        return "the receipt speaks of another number of inputs"
    numbers = [_numbers(each) for each in (claim.shares, claim.distances, claim.norms)]
    used = ~np.isnan(numbers[0])
    if any((np.isnan(each) == used).any() for each in numbers[1:]):
        return "the receipt says only a part of what it has to say about an input"
    share, distances, norms = (each[used] for each in numbers)
    if not np.isfinite(rows[used]).all():
        return "an input counts that isn't finite"
    if not np.isfinite([*share, *distances, *norms, claim.norm]).all() or (share < 0).any():
        return "the receipt has numbers that no aggregate makes"
    try:
        expected = expect(rule, rows[used], weights[used], share)
    except ImpossibleClaimError as error:
        return str(error)
    return (
        _check_data(data, expected)
        or _check_shares(share, expected)
        or _check_distances(rows[used], data, distances)
        or _check_norms(rows[used], norms, claim.norm, data)
    )


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _check_data(data: Vector, expected: Expected) -> str | None:
    if data.shape != expected.values.shape or not np.isfinite(data).all():
        return "the aggregate isn't finite, or has another size"
    values = expected.values.clip(-_LARGEST_HALF, _LARGEST_HALF)
    allowed = expected.slack + _HALF_ROUNDING * (np.abs(values) + expected.slack) + _HALF_TINY
    wrong = np.abs(data - values) > allowed
    if not wrong.any():
        return None
    first = int(wrong.argmax())
    return (
        f"{np.count_nonzero(wrong)} values are wrong, the first at {first}: {data[first]:.6g} "
        f"instead of {values[first]:.6g}"
    )


def _check_shares(share: NDArray[np.float64], expected: Expected) -> str | None:
    wrong = np.abs(share - expected.shares) > SHARE_MARGIN
    return _first_wrong("share", wrong, share, expected.shares)


def _check_distances(rows: Rows, data: Vector, distances: NDArray[np.float64]) -> str | None:
    """Check the distances from the aggregate as it was delivered (node.exchange.reduction)."""
    true = np.array([norm_of(row - data) for row in rows])
    sizes = np.array([norm_of(row) for row in rows]) + norm_of(data)
    wrong = np.abs(distances - true) > _CLAIMED * true + _FLOAT32 * sizes + _TINY
    return _first_wrong("distance", wrong, distances, true)


def _check_norms(rows: Rows, norms: NDArray[np.float64], norm: float, data: Vector) -> str | None:
    true = np.array([norm_of(row) for row in rows])
    wrong = np.abs(norms - true) > _CLAIMED * true + _TINY
    own = norm_of(data)
    if abs(norm - own) > _CLAIMED * own + _TINY:
        return f"the aggregate's norm is {own:.6g}, not {norm:.6g}"
    return _first_wrong("norm", wrong, norms, true)


def _first_wrong(
    what: str, wrong: NDArray[np.bool_], found: NDArray[np.float64], right: NDArray[np.float64]
) -> str | None:
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    return f"row {row} has a {what} of {right[row]:.6g}, not {found[row]:.6g}"


def _draw_auditors(root: bytes, trusted: Set[PeerId], rate: float) -> list[PeerId]:
    """Return who audits, in order: each with probability `rate`, but fewer than half, or one alone.

    Who audits has time for a step of its own. If half did, one step would be the median that caps
    the weight of all others (trust.rules.cap_weights), and a lie about one step, as long as honest
    work of many, wouldn't be far from it.
    """
    drawn = [peer for peer in trusted if _happens(root, "work", peer, rate)]
    most = max(1, (len(trusted) - 1) // 2)
    return sorted(sorted(drawn, key=lambda peer: _draw(root, "work", peer))[:most])


def _is_suspect(standing: Standing, trusted: Set[PeerId], usual_score: float) -> bool:
    return (
        standing.peer not in trusted
        or standing.score < SUSPECT_SCORE * usual_score
        or standing.copied > SUSPECT_COPIED
        or (standing.noise or 0.0) > SUSPECT_NOISE
    )


def _happens(root: bytes, what: str, peer: PeerId, probability: float) -> bool:
    return _draw(root, what, peer) < probability * 2.0**64


def _draw(root: bytes, what: str, peer: PeerId) -> int:
    """Return one of 0..2⁶⁴-1, each as likely."""
    digest = sha256(_DOMAIN + what.encode() + b"\0" + root + peer.encode()).digest()
    return int.from_bytes(digest[:8], "big")
