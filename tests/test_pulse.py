"""When p2pd counts as dead though its process lives."""

import asyncio
from collections.abc import Callable, Collection

import pytest

from dht import pulse
from dht.daemon import DaemonRefusedError
from dht.pulse import DEAF_BEATS, HUNG_BEATS, MOST_RESIDENT_BYTES, Pulse
from protocol.identity import PeerId
from tests.fenced_peers import identity

PEERS = tuple(identity(number).peer_id for number in range(1, 5))


class FakeNetwork:
    """A p2pd and the peers behind it; `script` says at each beat who answers, None = p2pd hangs."""

    def __init__(self, script: list[Collection[PeerId] | None], peers: Collection[PeerId]) -> None:
        self.script = script
        self.peers = peers
        self.asked: list[list[PeerId]] = []
        self.over = asyncio.Event()
        self.resident_bytes = 0

    async def identify(self) -> None:
        if len(self.asked) == len(self.script):
            self.over.set()
            await asyncio.Event().wait()
        self.asked.append([])
        if self.script[len(self.asked) - 1] is None:
            raise DaemonRefusedError("the libp2p daemon does not answer")

    async def connected(self) -> Collection[PeerId]:
        return self.peers

    async def ping(self, peer: PeerId) -> bool:
        self.asked[-1].append(peer)
        return peer in (self.script[len(self.asked) - 1] or ())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_SECONDS", 0.0)


async def end(network: FakeNetwork) -> str | None:
    """Return how the pulse ends, or None if the script is over before."""
    feeling = asyncio.create_task(Pulse(network, network.connected, network.ping).end())  # type: ignore[arg-type]
    over = asyncio.create_task(network.over.wait())
    await asyncio.wait({feeling, over}, return_when=asyncio.FIRST_COMPLETED)
    for task in (feeling, over):
        task.cancel()
    await asyncio.wait({feeling, over})
    return None if feeling.cancelled() else feeling.result()


async def test_a_daemon_that_does_not_answer_is_given_up() -> None:
    assert await end(FakeNetwork([PEERS, *[None] * HUNG_BEATS], PEERS)) == "it does not answer"


async def test_a_daemon_that_strangers_fill_is_given_up() -> None:
    network = FakeNetwork([PEERS, PEERS], PEERS)
    network.resident_bytes = MOST_RESIDENT_BYTES + (1 << 20)
    assert await end(network) == "it takes 513 MiB"


async def test_one_beat_that_fails_as_after_a_sleep_is_no_end() -> None:
    network = FakeNetwork([None, PEERS, None, PEERS, None, PEERS], PEERS)
    assert await end(network) is None


async def test_a_daemon_through_which_nobody_answers_any_more_is_given_up() -> None:
    network = FakeNetwork([PEERS, *[()] * DEAF_BEATS], PEERS)
    assert await end(network) == "none of 4 connected peers can be reached through it"


@pytest.mark.parametrize(
    ("peers", "script"),
    [
        (PEERS, lambda: [()] * 9),  # it may have foreign peers alone
        ((), lambda: [()] * 9),
        (PEERS, lambda: [PEERS[1:]] * 20),  # one of four is stopped
        (PEERS, lambda: [PEERS, *[()] * (DEAF_BEATS - 1)] * 4),
    ],
)
async def test_peers_that_do_not_answer_are_not_the_daemons_fault(
    peers: tuple[PeerId, ...], script: Callable[[], list[Collection[PeerId] | None]]
) -> None:
    assert await end(FakeNetwork(script(), peers)) is None


async def test_each_peer_has_its_turn_and_more_are_asked_after_a_failure() -> None:
    network = FakeNetwork([PEERS, PEERS, (), PEERS, PEERS], PEERS)
    await end(network)
    assert [len(asked) for asked in network.asked] == [1, 1, 1, 3, 1]
    assert {peer for asked in network.asked for peer in asked} == set(PEERS)
