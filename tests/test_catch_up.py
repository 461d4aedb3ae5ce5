"""Fetching the state that most stand on: it must be what was said, and grow from the genesis."""

import asyncio
import dataclasses
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from dht.memory import MemoryNetwork, MemorySwarm
from dht.virtual_time import run
from node.run.setting import RunSetting
from node.store.state import State
from node.transfer.catch_up import fetch_head
from node.transfer.sources import FetchError
from node.transfer.tree_server import TreeServer, TreeShelf
from protocol.errors import ChunkError, TalkootError
from protocol.presence import Head
from tests.swarm_run import LAYOUT, RunOptions, SwarmRun


def fetched(folder: Path, claim: str, max_state_bytes: int = 1 << 30) -> State | TalkootError:
    """Return what a newcomer makes of a peer that holds a state and claims it as `claim`."""

    async def main() -> State | TalkootError:
        async with AsyncExitStack() as stack:
            scene = SwarmRun(folder, MemoryNetwork(1), RunOptions())
            await stack.enter_async_context(scene)
            host = await scene.start(0)
            assert host.worker is not None
            assert host.swarm is not None
            genesis, setting = host.worker.state, host.worker._set
            assert genesis is not None
            state, head = _claimed(genesis, claim)
            shelf = TreeShelf()
            shelf.put(state)
            liar = await stack.enter_async_context(MemorySwarm(scene.network, scene._identity(8)))
            await liar.connect(await host.swarm.addresses())
            await stack.enter_async_context(TreeServer(liar, scene.run, shelf))
            return await _fetch(setting, head, liar, max_state_bytes)

    return run(main(), limit_seconds=200)


async def _fetch(
    setting: RunSetting, head: Head, holder: MemorySwarm, max_state_bytes: int
) -> State | TalkootError:
    limited = dataclasses.replace(setting, max_state_bytes=max_state_bytes)
    try:
        async with asyncio.timeout(100):
            return await fetch_head(limited, head, (holder.peer_id,), None)
    except TalkootError as error:
        return error


def _claimed(genesis: State, claim: str) -> tuple[State, Head]:
    zeros = np.zeros(LAYOUT.size, np.float32)
    ones = np.ones(LAYOUT.size, np.float32)
    match claim:
        case "genesis":
            return genesis, genesis.head
        case "first":
            state = genesis.next(ones, zeros)
            return state, state.head
        case "made-up genesis":
            state = State.genesis(genesis.run, LAYOUT, ones)
            return state, state.head
        case "child of a made-up genesis":
            state = State.genesis(genesis.run, LAYOUT, ones).next(zeros, zeros)
            return state, state.head
        case "another round":
            state = genesis.next(ones, zeros)
            return state, Head(7, state.root, state.header.prev_root)
        case "another parent":
            state = genesis.next(ones, zeros).next(ones, ones)
            return state, Head(2, state.root, bytes(32))
    raise LookupError(claim)


@pytest.mark.parametrize("claim", ["genesis", "first"])
def test_a_state_of_the_run_is_fetched(tmp_path: Path, claim: str) -> None:
    found = fetched(tmp_path, claim)
    assert isinstance(found, State)
    assert found.round == (0 if claim == "genesis" else 1)


@pytest.mark.parametrize("claim", ["made-up genesis", "child of a made-up genesis"])
def test_a_state_of_another_genesis_is_refused(tmp_path: Path, claim: str) -> None:
    found = fetched(tmp_path, claim)
    assert isinstance(found, ChunkError)
    assert "genesis" in found.message


@pytest.mark.parametrize("claim", ["another round", "another parent"])
def test_a_state_that_is_not_what_was_said_is_refused(tmp_path: Path, claim: str) -> None:
    found = fetched(tmp_path, claim)
    assert isinstance(found, ChunkError)
    assert "not what its holders said" in found.message


def test_a_state_too_large_for_this_machine_is_not_asked_for(tmp_path: Path) -> None:
    found = fetched(tmp_path, "first", max_state_bytes=1000)
    assert isinstance(found, FetchError)
    assert "limit of 1,000" in found.message
