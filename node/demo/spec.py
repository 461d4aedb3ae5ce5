"""The runs that the demonstration founds."""

from dataclasses import dataclass

from node.demo.options import DemoOptions
from protocol.control import HostSpec, TaskSource
from protocol.manifest import MethodSpec, RoundSpec, Scalar, TrustSpec

AUDIT_RATE = 0.34
"""High, so that liars are found out within a few rounds; a run of days needs far less."""
CHECK_RATE = 1 / 16


@dataclass(frozen=True, slots=True)
class DemoRun:
    """What a mode of the demonstration trains, and for how long."""

    task: str
    config: dict[str, Scalar]
    settings: dict[str, Scalar]
    """Of the method."""
    rounds: int
    local_steps: int
    max_seconds: float
    audit_rate: float


RUNS = {
    "local": DemoRun("text", {"batch": 8}, {}, 12, 50, 120.0, AUDIT_RATE),
    "spsa": DemoRun("image", {}, {"probes": 16}, 16, 32, 120.0, CHECK_RATE),
}


def run_spec(options: DemoOptions) -> HostSpec:
    """Return the run that the demonstration founds."""
    run = RUNS[options.mode]
    return HostSpec(
        name="demo",
        description="A demonstration on one machine",
        licence="MIT",
        task=TaskSource(
            kind=run.task, data=str(options.data) if options.data else None, config=run.config
        ),
        method=MethodSpec(kind=options.mode, settings=run.settings),
        round=RoundSpec(
            local_steps=run.local_steps,
            max_seconds=run.max_seconds,
            min_peers=options.peers - options.attackers,
            total=options.rounds or run.rounds,
        ),
        trust=trust_of(options),
    )


def trust_of(options: DemoOptions) -> TrustSpec:
    """Return whom the demonstration's run believes: under a plain mean anybody, to show why not."""
    if options.aggregator == "mean":
        return TrustSpec(
            rule="mean",
            audit_rate=0,
            probation_rounds=0,
            probation_passes=0,
            newcomer_share=1,
            work_bits=0,
        )
    return TrustSpec(
        rule=options.aggregator,
        audit_rate=RUNS[options.mode].audit_rate,
        probation_rounds=0,
        probation_passes=0,
        newcomer_share=1,
        work_bits=10,
    )
