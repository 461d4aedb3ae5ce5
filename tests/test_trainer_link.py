"""When a training process counts as hung though it says that it lives."""

import asyncio
import io
from collections.abc import AsyncIterator

import pytest

from node.methods.local import TrainPlan
from node.training.trainer_link import (
    FIRST_LOOKS,
    SILENT_LOOKS,
    STILL_FACTOR,
    STILL_LOOKS,
    TrainerLink,
    _Answers,
)
from node.training.trainer_messages import Alive, Answer, Command, Evaluate, Train, frame

WORK = Command(Train(TrainPlan(round=0, seed=1, steps=1 << 20)))


class FakeProcess:
    """A process that can be killed."""

    returncode: int | None = None

    def kill(self) -> None:
        self.returncode = -9


class FakeTransport(asyncio.WriteTransport):
    """A connection on which nothing arrives."""

    closed = False

    def write(self, data: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Scene:
    """A link, and what its process says."""

    def __init__(self) -> None:
        self.answers, self.process = _Answers(), FakeProcess()
        self.link = TrainerLink(self.process, FakeTransport(), self.answers, io.BytesIO())  # type: ignore[arg-type]
        self.steps = 0

    def say(self, steps: int = 0) -> None:
        """Say that the process lives, and has made so many more steps."""
        self.steps += steps
        self.answers.data_received(frame(Answer(Alive(self.steps))))

    def look(self, looks: int) -> int:
        """Look so often at a process that lives and makes no step; return when it was ended."""
        for number in range(1, looks + 1):
            self.say()
            self.link.look()
            if not self.link.alive:
                return number
        return 0


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """Somebody waits for training to end."""
    scene = Scene()
    asking = asyncio.create_task(scene.link.ask(WORK))
    await asyncio.sleep(0)
    yield scene
    asking.cancel()
    await asyncio.wait({asking})


async def test_a_process_that_says_nothing_is_ended_sooner_once_it_has_spoken() -> None:
    silent = Scene()
    for _ in range(FIRST_LOOKS):
        silent.link.look()
    assert silent.link.alive
    silent.say()
    for _ in range(SILENT_LOOKS):
        silent.link.look()
    assert silent.link.alive
    silent.link.look()
    assert silent.process.returncode == -9


async def test_a_first_step_may_take_long(scene: Scene) -> None:
    assert scene.look(FIRST_LOOKS) == 0
    assert scene.look(1) == 1


async def test_a_step_is_measured_by_those_before(scene: Scene) -> None:
    scene.say(1)
    scene.link.look()
    assert scene.look(STILL_LOOKS) == 0
    scene.say(1)
    scene.link.look()
    assert scene.look(STILL_FACTOR * STILL_LOOKS) == 0
    assert scene.look(1) == 1


async def test_quick_steps_that_stop_are_noticed_within_ten_seconds(scene: Scene) -> None:
    for _ in range(20):
        scene.say(50)
        scene.link.look()
    assert 0 < scene.look(100) < 10


async def test_what_has_no_steps_is_not_measured_by_them() -> None:
    scene = Scene()
    scene.say(1)
    asking = asyncio.create_task(scene.link.ask(Command(Evaluate())))
    await asyncio.sleep(0)
    assert scene.look(STILL_FACTOR * FIRST_LOOKS) == 0
    asking.cancel()
    await asyncio.wait({asking})
