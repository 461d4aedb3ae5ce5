"""A run's peers as people see them: put together anew only where something has changed."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from msgspec.structs import replace

from dht.virtual_time import run
from node.api.accounts import Standings
from node.exchange.outcome import MemberReport
from node.run.roster import MAX_NAMES, SEEN_STEP_SECONDS, Roster
from node.run.setting import Tally
from node.run.worker import Worker
from protocol.control import Peer
from protocol.electorate import Electorate
from protocol.identity import PeerId
from protocol.ledger import NO_LEDGER, Ledger, Standing
from protocol.presence import LivePeers
from tests.messages import RUN, manifest, peer, presence

ME = Peer(id=peer(1), name="me", run=RUN.hex(), me=True)


@dataclass
class Watched:
    """A run with peers, and its roster."""

    latencies: dict[PeerId, float] = field(default_factory=dict)
    ledger: Ledger = NO_LEDGER

    def __post_init__(self) -> None:
        self.tally = Tally()
        self.live = LivePeers(peer(1), Electorate(frozenset()), 1000.0)
        self.roster = Roster(RUN.hex(), self.latencies.get)
        self._standings = Standings(self.ledger, manifest())

    def hear(self, number: int, at: float, **changes: object) -> None:
        said = replace(presence(at=at), **changes)
        self.live.hear(peer(number), said, asyncio.get_running_loop().time())

    def agree(self, ledger: Ledger) -> None:
        self._standings = Standings(ledger, manifest())

    def look(self) -> list[Peer]:
        worker = SimpleNamespace(tally=self.tally, machine=SimpleNamespace(live=self.live))
        return self.roster.peers(cast("Worker", worker), ME, self._standings)

    def other(self) -> Peer:
        _, found = self.look()
        return found


def play(scenario: Callable[[Watched], None]) -> None:
    async def main() -> None:
        scenario(Watched())

    run(main())


def test_who_said_nothing_new_is_the_same_object_again() -> None:
    def scenario(watched: Watched) -> None:
        watched.hear(2, 1.0)
        assert watched.other() is watched.other()

    play(scenario)


def test_whatever_is_new_is_shown() -> None:
    def scenario(watched: Watched) -> None:
        watched.hear(2, 1.0)
        first = watched.other()
        watched.hear(2, 2.0, state="exchanging")
        assert watched.other().state == "exchanging"
        watched.tally.reports = {peer(2): MemberReport(0.0, 0.25, 1.0)}
        assert watched.other().dropped
        watched.latencies[peer(2)] = 0.123456
        assert watched.other().latency_seconds == 0.12
        watched.agree(Ledger((Standing(peer=peer(2), joined=1, seen=2, score=0.8, samples=7),)))
        found = watched.other()
        assert (found.reputation, found.accepted_samples) == (0.8, 7)
        assert first.reputation is None

    play(scenario)


def test_the_last_word_is_aged_in_steps() -> None:
    async def main() -> None:
        watched = Watched()
        watched.hear(2, 1.0)
        seen = []
        for _ in range(40):
            await asyncio.sleep(1.0)
            seen.append(watched.other().last_seen_seconds)
        assert set(seen) == {0.0, SEEN_STEP_SECONDS, 2 * SEEN_STEP_SECONDS}

    run(main())


def test_nearly_the_same_speed_is_no_news() -> None:
    def scenario(watched: Watched) -> None:
        watched.hear(2, 1.0, samples_per_second=100.0)
        first = watched.other()
        watched.hear(2, 2.0, samples_per_second=104.0)
        assert watched.other() == first
        watched.hear(2, 3.0, samples_per_second=106.0)
        assert watched.other().samples_per_second == 106.0
        watched.hear(2, 4.0, samples_per_second=0.0)
        assert watched.other().samples_per_second == 0.0

    play(scenario)


def test_who_is_banned_and_gone_is_listed_by_the_name_it_had() -> None:
    def scenario(watched: Watched) -> None:
        watched.hear(2, 1.0, name="grey-fox")
        watched.look()
        banned = Standing(peer=peer(2), joined=1, seen=2, banned=b"e" * 32)
        watched.agree(Ledger((banned,)))
        watched.live.believe(Electorate(frozenset(), None, frozenset({peer(2)})))
        found = watched.other()
        assert (found.name, found.standing, found.state) == ("grey-fox", "banned", "")

    play(scenario)


def test_i_am_shown_first_as_i_describe_myself() -> None:
    def scenario(watched: Watched) -> None:
        watched.hear(2, 1.0)
        first, _ = watched.look()
        assert first == replace(ME, standing=first.standing)
        assert first.standing == "established"  # the manifest's steward

    play(scenario)


def test_names_are_kept_of_so_many_only() -> None:
    def scenario(watched: Watched) -> None:
        for number in range(MAX_NAMES + 50):
            watched.roster._names[PeerId(f"gone {number}")] = "gone"
        watched.hear(2, 1.0, name="here")
        watched.look()
        assert len(watched.roster.names()) <= MAX_NAMES
        assert watched.roster.names()[peer(2)] == "here"

    play(scenario)
