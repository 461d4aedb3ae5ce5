"""The control API of a real node, whose network alone is in this process."""

import asyncio
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from node.api.client import ApiError, NodeClient, connect
from node.api.server import serve_api
from node.app import Node
from node.home.config import load_config
from node.home.paths import Paths
from protocol.control import Mode
from protocol.machine import EVENT_KINDS, Activity, Snapshot
from tests.api_door import FREE_PORT
from tests.fake_node import LINK
from tests.node_scene import Scene, fake_training, spec_of


@dataclass
class Served:
    """A node, its home, and a client of its API."""

    node: Node
    paths: Paths
    client: NodeClient


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    fake_training(monkeypatch)
    scene = Scene(tmp_path)
    paths = scene.paths(0)
    async with (
        scene.node(0) as node,
        serve_api(node, paths, FREE_PORT),
        connect(paths) as client,
    ):
        yield Served(node, paths, client)


async def test_a_link_cut_short_anywhere_is_refused_with_what_to_do(served: Served) -> None:
    for length in range(1, len(LINK)):
        with pytest.raises(ApiError) as caught:
            await served.client.preview(LINK[:length])
        assert caught.value.code == "bad_link", LINK[:length]
        assert caught.value.message
        assert "Copy the whole link again" in caught.value.hint
    assert list(served.paths.runs.iterdir()) == []


async def test_two_clients_that_order_at_once_leave_one_order(served: Served) -> None:
    async def order(mode: Mode) -> None:
        async with connect(served.paths) as client:
            for _ in range(10):
                await client.contribute(mode)

    async with asyncio.TaskGroup() as tasks:
        for mode in ("never", "always", "auto"):
            tasks.create_task(order(mode))
    status = await served.client.status()
    assert status.contribution == served.node.contribution()
    assert (await served.client.contribute("never", 60.0)).mode == "never"


async def test_an_order_is_an_event_for_all_and_activity_too(
    served: Served,
) -> None:
    async with aclosing(served.client.events()) as stream:
        snapshot = msgspec.json.decode((await anext(stream)).data, type=Snapshot)
        assert snapshot.contribution.state == "contributing"
        await served.client.contribute("never")
        seen = [await anext(stream), await anext(stream)]
    kinds = {EVENT_KINDS[event.type] for event in seen}
    assert kinds == {type(served.node.contribution()), Activity}


async def test_a_key_that_is_set_is_in_the_file_and_counts_at_once(served: Served) -> None:
    view = await served.client.set_config({"contribute.cpu_threads": 1, "ui.theme": "dark"})
    values = {item.key: item.value for item in view.items}
    assert (values["contribute.cpu_threads"], values["ui.theme"]) == (1, "dark")
    assert load_config(served.paths.config_file).ui.theme == "dark"


@pytest.mark.parametrize(
    "changes",
    [
        {"contribute.cpu_treads": 1},
        {"contribute.cpu_threads": "many"},
        {"contribute.cpu_threads": 1, "ui.theme": "pink"},
        {"contribute": 1},
        {"": 1},
        {"contribute.only.hours": "25:00-26:00"},
    ],
)
async def test_a_change_with_a_mistake_changes_nothing(
    served: Served, changes: dict[str, int | str]
) -> None:
    before = await served.client.config()
    with pytest.raises(ApiError) as caught:
        await served.client.set_config(changes)
    assert caught.value.code == "bad_config"
    assert await served.client.config() == before
    assert not served.paths.config_file.exists()


async def test_a_file_with_a_mistake_is_told_and_not_overwritten(served: Served) -> None:
    served.paths.config_file.write_text("[contribute]\ncpu_threads = many\n")
    with pytest.raises(ApiError, match="line 2"):
        await served.client.set_config({"ui.theme": "dark"})
    assert "many" in served.paths.config_file.read_text()


async def test_checkpoints_of_a_run_are_listed_and_exported(served: Served, tmp_path: Path) -> None:
    await served.client.host(spec_of(tmp_path, total=2))
    async with asyncio.timeout(30):
        while (await served.client.runs())[0].state != "finished":  # noqa: ASYNC110 - another's work
            await asyncio.sleep(0.05)
    listed = await served.client.checkpoints()
    assert listed[0].name == "a run"
    target = tmp_path / "model.safetensors"
    done = await served.client.export_checkpoint(listed[0].id, str(target))
    assert done.size_bytes == target.stat().st_size
    with pytest.raises(ApiError) as caught:
        await served.client.export_checkpoint(listed[0].id, str(target))
    assert caught.value.code == "bad_path"
    with pytest.raises(ApiError) as caught:
        await served.client.export("a run", "model.safetensors")
    assert caught.value.code == "bad_path"


async def test_devices_are_told_and_one_is_chosen(served: Served) -> None:
    found = await served.client.devices()
    assert "cpu" in {device.id for device in found}
    assert sum(device.chosen for device in found) == 1


async def test_diagnostics_are_written_without_the_tokens(served: Served, tmp_path: Path) -> None:
    served.paths.log.write_text(f"Bearer {served.paths.token.read_text()}\n")
    target = tmp_path / "diagnostics.zip"
    await served.client.diagnostics(str(target))
    with zipfile.ZipFile(target) as file:
        everything = "".join(file.read(name).decode() for name in file.namelist())
    assert served.node.status().name in everything
    assert served.paths.token.read_text() not in everything
    with pytest.raises(ApiError) as caught:
        await served.client.diagnostics(str(tmp_path / "nowhere" / "diagnostics.zip"))
    assert caught.value.code == "bad_path"
