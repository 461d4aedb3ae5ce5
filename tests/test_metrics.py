"""The figures for Prometheus: their names, their values, and what they never tell."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families as families_in

from node.api.metrics import Figures, exposition
from node.home.paths import Paths
from protocol.control import MemoryUse, Status, Traffic
from tests.api_door import Door, opened
from tests.fake_node import (
    CHECKPOINT,
    CONTRIBUTING,
    HOSTILE,
    PAUSED,
    PEER,
    RUN,
    RUN_STATUS,
    FakeControls,
)

NAMES = {
    "talkoot_contributing",
    "talkoot_paused",
    "talkoot_peers",
    "talkoot_round",
    "talkoot_round_duration_seconds",
    "talkoot_loss",
    "talkoot_samples_contributed_total",
    "talkoot_samples_per_second",
    "talkoot_network_bytes_total",
    "talkoot_messages_rejected_total",
    "talkoot_gpu_memory_bytes",
    "talkoot_checkpoint_age_seconds",
    "talkoot_errors_total",
}
STATUS = replace(
    FakeControls().status(),
    runs=(replace(RUN_STATUS, round_seconds=8.5),),
    traffic=Traffic(up=1000, down=3000),
    memory=MemoryUse(device="cuda:0", used=1 << 30),
)
FIGURES = Figures(
    status=STATUS,
    contribution=CONTRIBUTING,
    peers={"training": 4, "paused": 1},
    checkpoints=[CHECKPOINT, replace(CHECKPOINT, saved_at=CHECKPOINT.saved_at - 100)],
    errors={"disk_full": 2},
    now=CHECKPOINT.saved_at + 30,
)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    paths = Paths.under(tmp_path)
    paths.create()
    async with opened(paths) as door:
        yield door


def values(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families_in(text.decode())
        for sample in family.samples
    }


def test_all_figures_have_the_names_that_are_documented() -> None:
    assert {name for name, *_ in values(exposition(FIGURES))} == NAMES


def test_figures_have_the_values_of_the_status() -> None:
    found = values(exposition(FIGURES))
    run = RUN[:12]
    assert found["talkoot_contributing",] == 1
    assert found["talkoot_peers", "training"] == 4
    assert found["talkoot_round", run] == 4
    assert found["talkoot_round_duration_seconds", run] == 8.5
    assert found["talkoot_loss", run] == 2.345
    assert found["talkoot_samples_contributed_total", run] == 640
    assert found["talkoot_samples_per_second", run] == 81.25
    assert found["talkoot_network_bytes_total", "up"] == 1000
    assert found["talkoot_network_bytes_total", "down"] == 3000
    assert found["talkoot_messages_rejected_total", "bad_signature"] == 2
    assert found["talkoot_gpu_memory_bytes",] == 1 << 30
    assert found["talkoot_checkpoint_age_seconds", run] == 30
    assert found["talkoot_errors_total", "disk_full"] == 2


def test_a_pause_is_told_with_its_reason_and_all_others_are_zero() -> None:
    paused = Figures(STATUS, PAUSED, {}, [], {}, 0.0)
    found = values(exposition(paused))
    assert found["talkoot_contributing",] == 0
    reasons = {key[1]: value for key, value in found.items() if key[0] == "talkoot_paused"}
    assert {reason for reason, value in reasons.items() if value} == {"battery"}
    assert {"asked", "volume", "temperature"} <= set(reasons)


def test_what_is_not_known_is_left_out() -> None:
    bare = Status(
        version="1", peer_id="x", name="x", pid=1, uptime_seconds=0, api="", network="alone"
    )
    found = values(exposition(Figures(bare, CONTRIBUTING, {}, [], {}, 0.0)))
    assert {name for name, *_ in found} == {"talkoot_contributing", "talkoot_paused"}


async def test_no_peer_and_nothing_that_a_peer_chose_is_in_the_figures(door: Door) -> None:
    door.controls.listed = replace(PEER, state=HOSTILE[:20], name="planted", device="planted")
    door.controls.known = [replace(RUN_STATUS, name="planted")]
    door.controls.others = [replace(PEER, id=f"planted{n}", state=f"st{n}") for n in range(100)]
    status, text = await door.text("/metrics")
    assert status == 200
    assert "planted" not in text
    assert PEER.id not in text
    assert values(text.encode())["talkoot_peers", "other"] == 101


async def test_refused_calls_are_counted_by_their_code(door: Door) -> None:
    for _ in range(3):
        await door.call(token="wrong-one")  # noqa: S106 - a wrong one
    _, text = await door.text("/metrics")
    assert values(text.encode())["talkoot_errors_total", "unauthorized"] == 3


async def test_the_content_type_is_prometheuss(door: Door) -> None:
    headers = {"Authorization": f"Bearer {door.read_token}"}
    async with door.session.get(door.url + "/metrics", headers=headers) as response:
        assert response.content_type == "text/plain"
        assert response.headers["Content-Type"].startswith("text/plain; version=")
