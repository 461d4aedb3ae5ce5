"""A run's rules: what they mean for who joins, and which don't go together."""

from collections.abc import Iterator

from node.audit.proof import seconds_of
from node.home.settings import SettingsError
from node.methods.local import LocalSettings
from node.methods.spsa.settings import SpsaSettings
from protocol.blocks import MAX_HEIGHT
from protocol.manifest import MethodKind, MethodSpec, RoundSpec, TrustSpec


def trust_in_words(spec: TrustSpec, method: MethodKind = "local") -> tuple[str, ...]:
    """Return the rules in plain sentences."""
    return tuple(_sentences(spec, method))


def _sentences(spec: TrustSpec, method: MethodKind) -> Iterator[str]:
    if spec.audit_rate > 0 and method == "spsa":
        yield f"work is checked: others repeat {_one_ticket_in(spec.audit_rate)} of each peer"
    elif spec.audit_rate > 0:
        rounds = f"about {_one_in(spec.audit_rate)}"
        yield f"work is audited: in {rounds} an established peer repeats another's and compares"
    else:
        yield "work is not audited: who only pretends to train is noticed late or never"
    yield from _probation(spec)
    if spec.newcomer_share < 1 and method == "local":
        share = f"{100 * spec.newcomer_share:g} %"
        yield f"all who have just left probation together hold at most {share} of a round's weight"
    if spec.work_bits:
        cost = _time(seconds_of(spec.work_bits))
        yield f"joining costs {cost} of computing (proof of work)"
    yield "who is proved a liar is banned for good"


def _probation(spec: TrustSpec) -> Iterator[str]:
    needs = []
    if spec.probation_rounds:
        needs.append(f"{_count(spec.probation_rounds, 'round')} of work")
    if spec.probation_passes:
        needs.append(f"{_count(spec.probation_passes, 'passed audit')}")
    if needs:
        yield f"newcomers are on probation: their work counts only after {' and '.join(needs)}"
    else:
        yield "no probation: newcomers count from their first round"


def check_method(method: MethodSpec, round_: RoundSpec) -> None:
    """Check the method's settings, and that rounds are of the kind that it has.

    Raises:
        SettingsError: they aren't.
    """
    if method.kind == "local":
        LocalSettings.read(method.settings)
        return
    SpsaSettings.read(method.settings)
    if round_.local_steps is None or round_.local_steps > MAX_HEIGHT:
        raise SettingsError(
            f"a round of method spsa is a number of blocks, {MAX_HEIGHT:,} at most",
            hint="Set local_steps in [round], for example to 64, and no target_samples.",
        )


def check_trust(trust: TrustSpec, method: MethodSpec) -> None:
    """Check that the trust rules can be kept, and go with the method.

    Raises:
        SettingsError: they can't or don't.
    """
    if trust.probation_passes > 0 and trust.audit_rate == 0:
        raise SettingsError(
            f"newcomers must pass {_count(trust.probation_passes, 'audit')}, "
            "and without audits nobody ever does",
            hint="Set probation_passes = 0 in [trust], or an audit_rate above 0, such as 0.0625.",
        )
    if method.kind == "spsa":
        return
    momentum = LocalSettings.read(method.settings).worker_momentum
    if momentum > 0 and trust.audit_rate > 0:
        raise SettingsError(
            "with worker_momentum nobody can repeat a peer's work, so it can't be audited",
            hint="Set audit_rate = 0 in [trust], or leave worker_momentum out.",
        )


def _one_in(rate: float) -> str:
    return "every round" if rate > 0.75 else f"1 of {max(2, round(1 / rate)):,} rounds"


def _one_ticket_in(rate: float) -> str:
    return "every ticket" if rate > 0.75 else f"1 of {max(2, round(1 / rate)):,} tickets"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "minutes"), (172_800, 3600, "hours")):
        if seconds < limit:
            return f"about {seconds / divisor:.0f} {unit}"
    return f"about {seconds / 86_400:.0f} days"
