"""A volunteer's first evening, from an empty home: every step by the window, all processes real.

The pictures are kept under `artefacts/`, which git ignores.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtTest import QTest

from gui.client import Place
from gui.window import Window
from gui.wizard import LIMITS, PREVIEW
from node.governor.simulated import VARIABLE
from node.home.paths import HOME_VARIABLE
from tests.real_nodes import SPEC, RealNode
from tests.test_gui_wizard import first_run, paste
from tests.window_scene import click, opened, play

ARTEFACTS = Path(__file__).resolve().parent.parent / "artefacts"
HOST_ALONE = SPEC.replace("min_peers = 2", "min_peers = 1").format(steps=20)
TALKOOT = "import sys; from node.cli import main; sys.exit(main(['up', '-d']))"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RealNode]:
    node = RealNode(tmp_path / "host", tmp_path / "host-tmp").prepare()
    (tmp_path / "text.txt").write_text(Path(__file__).read_text() * 10)
    (tmp_path / "spec.toml").write_text(HOST_ALONE)
    try:
        node.up()
        yield node
    finally:
        node.clear()


class Laptop:
    """An empty home, and sensors that tell what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.node = RealNode(folder / "laptop", folder / "laptop-tmp")
        self.node.temporary.mkdir()
        self.sensors = folder / "sensors.json"
        self.power("mains")

    def power(self, source: str) -> None:
        """Plug in or unplug."""
        figures = {"power": source, "metered": False, "cpu_celsius": 40}
        written = self.sensors.with_suffix(".new")
        written.write_text(json.dumps(figures))
        written.replace(self.sensors)

    @property
    def start(self) -> list[str]:
        """Return the command by which the window starts a node."""
        home, temporary = self.node.home, self.node.temporary
        variables = {HOME_VARIABLE: home, VARIABLE: self.sensors, "TMPDIR": temporary}
        set_up = [f"{name}={value}" for name, value in variables.items()]
        return ["env", *set_up, sys.executable, "-P", "-c", TALKOOT]


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    made = Laptop(tmp_path)
    yield made
    made.node.clear()


async def seen(holds: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait until the window shows it."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not seen in {seconds:.0f} s: {what}"
        await asyncio.sleep(0.05)


def picture(window: Window, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    shown = window.wizard or window
    assert shown.grab().save(str(ARTEFACTS / f"volunteer-{name}.png"))


def accepted(laptop: Laptop, window: Window) -> int:
    """Return how many samples the window knows to have counted."""
    status = window._desk.store.status
    return sum(run.samples_accepted for run in status.runs) if status else 0


async def take_part(window: Window, link: str) -> None:
    """Go through the wizard, from paste to Contribute."""
    await seen(lambda: window.wizard is not None, "the wizard")
    wizard = await first_run(window)
    paste(wizard, link)
    picture(window, "1-paste")
    click(wizard.next)

    await seen(lambda: wizard.page == PREVIEW, "the preview")
    assert wizard.preview.name.text() == "tiny"
    picture(window, "2-preview")
    click(wizard.next)

    await seen(lambda: wizard.page == LIMITS, "the limits")
    form = wizard.limits.form
    assert form is not None
    upload = form.fields["network.up"].editor
    upload.setFocus()
    QTest.keyClicks(upload, "80Mbit")
    picture(window, "3-limits")
    click(wizard.next)


def test_from_an_empty_home_to_contributing_pausing_on_battery_and_resuming(
    host: RealNode, laptop: Laptop, tmp_path: Path
) -> None:
    link = host.must("host", "start", str(tmp_path / "spec.toml")).strip()

    async def evening() -> None:
        place = Place(node_file=laptop.node.paths.node_file)
        async with opened(place, start=laptop.start) as window:
            headline = window.header.headline

            await take_part(window, link)
            await seen(lambda: window.wizard is None, "the wizard's end")
            await seen(lambda: headline.text() == "Contributing", "contributing")
            await seen(lambda: accepted(laptop, window) > 0, "the first accepted contribution")
            await asyncio.sleep(2)
            picture(window, "4-contributing")

            laptop.power("battery")
            await seen(lambda: "on battery" in headline.text(), "the pause", 15)
            assert headline.text() == "Paused: on battery, resumes on mains power"
            node = laptop.node
            await seen(lambda: node.child("node.training.trainer_child") is None, "freed", 5)
            await asyncio.sleep(2)
            picture(window, "5-on-battery")
            counted = accepted(laptop, window)

            laptop.power("mains")
            await seen(lambda: headline.text() == "Contributing", "the end of the pause")
            await seen(lambda: accepted(laptop, window) > counted, "another contribution")
            picture(window, "6-resumed")

    play(evening)
    assert 'up = "80Mbit"' in laptop.node.paths.config_file.read_text()
    laptop.node.contributes()  # the window's end is not the node's
    laptop.node.end(signal.SIGTERM, seconds=10)
