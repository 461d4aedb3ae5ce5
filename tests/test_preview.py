"""What a person sees before anything starts, and whether a run fits this machine."""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.virtual_time import run
from node.api.trust_words import check_trust, trust_in_words
from node.home.config import Config, StorageSection
from node.home.settings import SettingsError
from node.run.preview import preview_of, seen_of
from node.run.room import Room
from protocol.control import Preview
from protocol.manifest import Manifest, MethodSpec, RoundSpec, Scalar, TaskSpec, TrustSpec
from protocol.presence import Presence
from protocol.records import Record, RecordKey
from protocol.signing import seal
from tests.messages import RUN, identity, manifest, peer

ROOMY = Config(storage=StorageSection(min_free="0B"))
TASK = TaskSpec("text", 1, {}, b"d" * 32, 1000, 500)


ROOM = Room(free=1 << 40)
KEY = RecordKey(RUN, "presence")


async def leave_word(swarm: MemorySwarm, number: int, body: bytes) -> None:
    """Store what a peer says of itself."""
    expires = swarm.time() + 60
    record = Record(run=RUN, topic=KEY.topic, round=0, expires=expires, body=body)
    await swarm.store(KEY, seal(identity(number), RUN, record).envelope)


def preview(
    given: Manifest,
    config: Config = ROOMY,
    room: Room = ROOM,
    words: Sequence[bytes] = (b"here",),
) -> Preview:
    """Preview a run whose peers 2, 3, ... have left these words."""

    async def main() -> Preview:
        network = MemoryNetwork(seed=1)
        async with AsyncExitStack() as stack:
            me = await stack.enter_async_context(MemorySwarm(network, identity(90)))
            for number, word in enumerate(words, start=2):
                other = await stack.enter_async_context(MemorySwarm(network, identity(number)))
                await other.connect(await me.addresses())
                await leave_word(other, number, word)
            return await preview_of(given, await seen_of(me, RUN), config, room)

    return run(main())


def said(number: int, round_: int, state: str = "training") -> bytes:
    """Return what a peer says of where it stands."""
    presence = Presence(
        at=0.0,
        name="",
        round=round_,
        root=RUN,
        prev_root=RUN,
        samples=0,
        samples_per_second=0.0,
        capacity=0,
        addresses=(),
        state=state,
    )
    return seal(identity(number), RUN, presence).envelope


def test_a_run_whose_peers_are_done_is_shown_as_finished() -> None:
    done = manifest(
        task=TASK, round=RoundSpec(max_seconds=60.0, min_peers=1, local_steps=5, total=7)
    )
    shown = preview(done, words=[said(2, 7, "finished"), said(3, 7, "finished"), said(4, 1)])
    assert (shown.round, shown.rounds_total, shown.fits) == (7, 7, True)
    assert shown.reason == "the run is finished, 7 of 7 rounds: only its model is left to fetch"


def test_where_a_run_stands_is_what_most_say_and_nobody_elses_words() -> None:
    going = manifest(
        task=TASK, round=RoundSpec(max_seconds=60.0, min_peers=1, local_steps=5, total=7)
    )
    liar = said(2, 7, "finished")
    shown = preview(going, words=[liar, said(3, 3), said(4, 3)])
    assert (shown.round, shown.rounds_total, shown.reason) == (3, 7, "")
    nowhere_yet = [said(3, 0, "joining"), said(4, 9, "catching_up"), said(5, 9, "leaving")]
    assert preview(going, words=[b"", *nowhere_yet]).round is None
    assert preview(going, words=[b"", liar, liar, said(5, 2)]).round == 2


def test_a_run_is_described_with_what_it_costs_and_what_others_see() -> None:
    shown = preview(manifest(task=TASK))
    assert (shown.name, shown.licence, shown.host) == ("Plays", "CC0", peer(1))
    assert (shown.task, shown.method, shown.rule) == ("text", "local", "clip")
    assert (shown.parameters, shown.data_bytes, shown.download_bytes) == (500, 1000, 1000 + 4000)
    assert shown.peers == 1
    assert "your network address" in shown.what_others_see
    assert (shown.fits, shown.reason) == (True, "")


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (msgspec.structs.replace(TASK, kind="chess"), "the task kind 'chess' is not installed"),
        (msgspec.structs.replace(TASK, version=7), "needs version 7 of task 'text'"),
    ],
)
def test_a_task_that_is_not_installed_does_not_fit(task: TaskSpec, reason: str) -> None:
    shown = preview(manifest(task=task))
    assert not shown.fits
    assert reason in shown.reason


def test_a_run_above_the_configured_storage_does_not_fit() -> None:
    task = msgspec.structs.replace(TASK, data_bytes=21 * 10**9)
    shown = preview(manifest(task=task))
    assert not shown.fits
    assert "storage.max allows 20GB" in shown.reason


def test_a_run_must_fit_beside_the_others() -> None:
    task = msgspec.structs.replace(TASK, data_bytes=15 * 10**9)
    assert preview(manifest(task=task), room=Room(1 << 40, 4 * 10**9)).fits
    shown = preview(manifest(task=task), room=Room(1 << 40, 6 * 10**9))
    assert not shown.fits
    assert "beside the 6,000,000,000 of other runs; storage.max allows 20GB" in shown.reason


@pytest.mark.parametrize(
    ("min_free", "free_bytes", "fits"),
    [
        ("0B", 17_000, True),
        ("0B", 16_999, False),
        ("1000B", 17_999, False),
        ("1000B", 18_000, True),
    ],
)
def test_a_run_that_the_disk_has_no_room_for_does_not_fit(
    min_free: str, free_bytes: int, fits: bool
) -> None:
    config = Config(storage=StorageSection(min_free=min_free))
    shown = preview(manifest(task=TASK), config, Room(free_bytes))
    assert shown.fits == fits
    assert fits or f"it needs 17,000 bytes on disk; {free_bytes:,} are free" in shown.reason


PUBLIC = TrustSpec("clip")


def test_a_public_runs_trust_rules_are_told_in_words() -> None:
    shown = preview(manifest(trust=PUBLIC))
    assert shown.trust == (
        "work is audited: in about 1 of 16 rounds an established peer repeats another's and "
        "compares",
        "newcomers are on probation: their work counts only after 50 rounds of work and 3 passed "
        "audits",
        "all who have just left probation together hold at most 10 % of a round's weight",
        "joining costs about 3 s of computing (proof of work)",
        "who is proved a liar is banned for good",
    )
    assert "audited" in shown.what_others_see[-1]


def test_a_run_among_friends_says_what_it_does_without() -> None:
    shown = preview(manifest())
    assert shown.trust == (
        "work is not audited: who only pretends to train is noticed late or never",
        "no probation: newcomers count from their first round",
        "who is proved a liar is banned for good",
    )
    assert not any("audited" in line for line in shown.what_others_see)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audit_rate": 1.0}, "every round"),
        ({"audit_rate": 0.5}, "1 of 2 rounds"),
        ({"audit_rate": 1e-4}, "1 of 10,000 rounds"),
        ({"probation_passes": 0, "probation_rounds": 1}, "only after 1 round of work"),
        ({"probation_passes": 1, "probation_rounds": 0}, "only after 1 passed audit"),
        ({"newcomer_share": 0.125}, "at most 12.5 %"),
        ({"work_bits": 1}, "joining costs less than a second"),
        ({"work_bits": 30}, "about 7 minutes"),
        ({"work_bits": 36}, "about 8 hours"),
        ({"work_bits": 40}, "about 5 days"),
    ],
)
def test_each_trust_rule_shows_its_size(changes: dict[str, float], words: str) -> None:
    assert words in "; ".join(trust_in_words(msgspec.structs.replace(PUBLIC, **changes)))


def test_the_rules_of_method_spsa_speak_of_tickets() -> None:
    rules = trust_in_words(PUBLIC, "spsa")
    assert rules[0] == "work is checked: others repeat 1 of 16 tickets of each peer"
    assert not any("of a round's weight" in rule for rule in rules)
    always = msgspec.structs.replace(PUBLIC, audit_rate=1.0)
    assert "every ticket" in trust_in_words(always, "spsa")[0]
    never = msgspec.structs.replace(PUBLIC, audit_rate=0.0)
    assert "not audited" in trust_in_words(never, "spsa")[0]


FRIENDS = msgspec.structs.replace(PUBLIC, audit_rate=0.0, probation_passes=0)


@pytest.mark.parametrize(
    ("trust", "settings", "message"),
    [
        (msgspec.structs.replace(PUBLIC, audit_rate=0.0), {}, "must pass 3 audits"),
        (msgspec.structs.replace(FRIENDS, probation_passes=1), {}, "must pass 1 audit, "),
        (PUBLIC, {"worker_momentum": 0.9}, "worker_momentum"),
        (PUBLIC, {"no_such": 1}, "no setting"),
    ],
)
def test_trust_rules_that_cannot_be_kept_are_refused(
    trust: TrustSpec, settings: dict[str, Scalar], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        check_trust(trust, MethodSpec("local", settings))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("trust", "settings"),
    [(PUBLIC, {}), (FRIENDS, {}), (FRIENDS, {"worker_momentum": 0.9})],
)
def test_trust_rules_that_go_together_are_taken(
    trust: TrustSpec, settings: dict[str, Scalar]
) -> None:
    check_trust(trust, MethodSpec("local", settings))
