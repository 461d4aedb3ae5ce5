"""A limit that is low gives a slow transfer or a reason, never timeouts without end."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from dht.budget import Budget
from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import Traffic
from node.home.config import Config, NetworkSection, StorageSection
from node.run.line import AMPLE, HOPELESS, exchange_rate, obstacle, offered, remark, state_rate
from node.transfer.line import SlowLineError, check_line, in_megabits, transfers_at_once
from node.transfer.sources import FetchError
from node.transfer.tree_client import fetch_chunks
from protocol.identity import Identity
from protocol.manifest import Manifest, MethodSpec
from protocol.trees import MAX_CHUNK_BYTES
from tests.memory_peers import now
from tests.messages import manifest
from tests.swarm_run import PeerOptions, SwarmRun
from tests.swarm_run import play as play_run
from tests.test_preview import preview
from tests.tree_scene import MemoryTree, Scene, play

MEGABIT = 125_000
LARGE = MemoryTree([bytes([number]) * MAX_CHUNK_BYTES for number in range(12)])


def with_parameters(count: int, method: Literal["local", "spsa"] = "local") -> Manifest:
    task = msgspec.structs.replace(manifest().task, parameters=count, kind="text")
    return manifest(task=task, method=MethodSpec(method, {}))


async def fetched(scene: Scene, tree: MemoryTree, fetcher: MemorySwarm | None = None) -> float:
    """Fetch all of `tree` from the sources of a scene; return when it was in."""
    found: dict[int, bytes] = {}
    sources = replace(scene.sources, swarm=fetcher) if fetcher else scene.sources
    wanted = range(len(tree.leaves))
    await fetch_chunks(sources, tree.root, tree.leaves, wanted, found.__setitem__)
    assert found == dict(enumerate(tree.chunks))
    assert scene.faults == {}
    return now()


def test_a_receiver_of_one_megabit_fetches_from_many_sources_and_blames_none() -> None:
    async def story(scene: Scene) -> None:
        scene.me.process.budget.limit(up=None, down=MEGABIT)
        for number in range(8):
            await scene.honest(number, LARGE)
        least = len(LARGE.chunks) * MAX_CHUNK_BYTES / MEGABIT - 1
        assert await fetched(scene, LARGE) >= least

    play(8, story)


def test_a_source_of_one_megabit_serves_several_one_after_the_other() -> None:
    async def story(scene: Scene) -> None:
        tree = MemoryTree(LARGE.chunks[:3])
        await scene.honest(0, tree)
        source, *fetchers = scene.others
        source.process.budget.limit(up=MEGABIT, down=None)
        scene.others[1:] = []
        async with asyncio.TaskGroup() as tasks:
            for fetcher in fetchers:
                tasks.create_task(fetched(scene, tree, fetcher))
        assert now() >= 3 * 3 * MAX_CHUNK_BYTES / MEGABIT - 1

    play(4, story)


def test_a_source_that_is_too_slow_for_a_chunk_says_that_it_is_busy() -> None:
    async def story(scene: Scene) -> None:
        await scene.honest(0, LARGE)
        scene.others[0].process.budget.limit(up=8_000, down=None)
        with pytest.raises(FetchError, match="no free upload slot"):
            await fetched(scene, LARGE)
        assert scene.faults == {}
        assert scene.others[0].traffic.up < 10_000

    play(1, story)


def test_what_can_not_be_received_in_time_is_refused_with_the_limit_that_it_takes() -> None:
    check_line(None, 1 << 40)
    check_line(MEGABIT, 10 * MEGABIT)
    with pytest.raises(SlowLineError, match=r"network.down is 1Mbit.*at least 4Mbit") as caught:
        check_line(MEGABIT, 40 * MEGABIT)
    assert "network.down" in caught.value.hint


def test_as_many_transfers_run_at_once_as_keep_their_deadlines() -> None:
    assert transfers_at_once(None, 8) == 8
    assert transfers_at_once(1e9, 8) == 8
    assert transfers_at_once(10 * MEGABIT, 32) == 11
    assert transfers_at_once(MEGABIT, 32) == transfers_at_once(8_000, 32) == 1


@pytest.mark.parametrize(
    ("rate", "text"),
    [(8_000, "0.064Mbit"), (125_000, "1Mbit"), (287_500, "2.3Mbit"), (5e6, "40Mbit")],
)
def test_rates_are_shown_as_the_configuration_has_them(rate: float, text: str) -> None:
    assert in_megabits(rate) == text


@pytest.mark.parametrize(
    ("parameters", "exchange", "state"),
    [(10**5, 0.308, 0.094), (10**6, 2.29, 0.457), (10**7, 6.4, 0.744), (10**8, 7.8, 0.794)],
)
def test_the_least_rates_of_a_run_are_those_told(
    parameters: int, exchange: float, state: float
) -> None:
    given = with_parameters(parameters)
    assert exchange_rate(given) * 8 / 1e6 == pytest.approx(exchange, rel=0.01)
    assert state_rate(given) * 8 / 1e6 == pytest.approx(state, rel=0.01)


@pytest.mark.parametrize("key", ["up", "down"])
def test_a_limit_is_no_matter_a_remark_or_an_obstacle(key: str) -> None:
    given = with_parameters(10**6)
    other = {"up": "down", "down": "up"}[key]
    least = exchange_rate(given)
    for factor, remarked, hopeless in (
        (1.01, False, False),
        (0.9, True, False),
        (0.39, True, True),
    ):
        limits = {key: factor * least, other: None}
        for told, expected in ((remark, remarked), (obstacle, hopeless)):
            text = told(given, **limits)
            assert bool(text) == expected
            if expected:
                assert f"network.{key} is" in text
                assert f"needs {in_megabits(AMPLE * least)}" in text
    assert obstacle(given, None, None) == remark(given, None, None) == ""
    assert HOPELESS < 1


def test_method_spsa_asks_only_for_the_state() -> None:
    given = with_parameters(10**6, "spsa")
    assert obstacle(given, 8_000, state_rate(given)) == remark(given, 8_000, 8_000) == ""
    assert "network.down" in obstacle(given, None, 0.9 * state_rate(given))


def test_a_preview_tells_of_limits_that_are_too_low() -> None:
    def shown(up: str) -> tuple[bool, str]:
        config = Config(storage=StorageSection(min_free="0B"), network=NetworkSection(up=up))
        given = preview(with_parameters(10**6), config)
        return given.fits, given.reason

    assert shown("") == shown("3Mbit") == (True, "")
    assert shown("2Mbit") == (True, "network.up is 2Mbit, and this run needs 2.51Mbit")
    assert shown("0.5Mbit") == (False, "network.up is 0.5Mbit, and this run needs 2.51Mbit")


def test_a_reducer_offers_no_more_than_its_limits() -> None:
    assert offered(10_000_000, Traffic()) == 10_000_000
    assert offered(10_000_000, Traffic(up_limit=125_000.5)) == 125_000
    assert offered(10_000_000, Traffic(up_limit=300_000, down_limit=200_000)) == 200_000
    assert offered(0, Traffic(up_limit=300_000)) == 0


class SlowUp(MemorySwarm):
    """Sends at the least rate that can be set."""

    def __init__(self, network: MemoryNetwork, who: Identity) -> None:
        super().__init__(network, who, budget=Budget(up=8_000))


class SlowDown(MemorySwarm):
    """Receives at the least rate that can be set."""

    def __init__(self, network: MemoryNetwork, who: Identity) -> None:
        super().__init__(network, who, budget=Budget(down=8_000))


def test_a_peer_that_can_not_send_its_update_says_so_until_the_limit_is_raised(
    tmp_path: Path,
) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        slow = await swarm.start(1, PeerOptions(network=SlowUp))
        await swarm.until(lambda: swarm.tally(1).reason.startswith("network.up is 0.064Mbit"))
        assert swarm.tally(1).paused
        begun = swarm.peers[0].round
        await swarm.reach(begun + 3, [0, 1])  # it follows the others, who don't wait for it
        assert swarm.tally(1).reason.startswith("network.up is 0.064Mbit")
        assert slow.id not in swarm.tally(0).reports
        assert slow.swarm is not None
        slow.swarm.process.budget.limit(up=None, down=None)
        await swarm.until(lambda: slow.id in swarm.tally(0).reports)
        assert swarm.tally(1).reason == ""

    play_run(tmp_path, scenario)


def test_a_peer_that_can_not_fetch_the_state_says_so_and_fetches_none_of_it(
    tmp_path: Path,
) -> None:
    async def scenario(swarm: SwarmRun) -> None:
        await swarm.start(0)
        slow = await swarm.start(1, PeerOptions(network=SlowDown))
        await swarm.until(lambda: "network.down is 0.064Mbit" in swarm.tally(1).reason)
        assert slow.swarm is not None
        before = slow.swarm.traffic.down
        await asyncio.sleep(60)
        assert "network.down is 0.064Mbit" in swarm.tally(1).reason
        assert slow.swarm.traffic.down - before < 60 * 8_000 / 2
        slow.swarm.process.budget.limit(up=None, down=None)
        await swarm.until(lambda: slow.id in swarm.tally(0).reports)

    play_run(tmp_path, scenario)
