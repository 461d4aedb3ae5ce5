import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from node.methods.local import LocalSettings
from node.tasks.image import ImageTask
from node.training.permit import Permit
from node.training.process import TrainerProcess
from node.training.trainer import (
    LoadedTask,
    Progress,
    Resources,
    TrainerError,
    TrainerTask,
    TrainPlan,
    TrainResult,
)
from node.training.trainer_link import TrainerLink
from protocol.manifest import Settings

ENDLESS = TrainPlan(round=0, seed=1, steps=1 << 20)
SHORT = TrainPlan(round=0, seed=1, steps=20)
GOOD = TrainPlan(
    round=0, seed=1, steps=100, settings=LocalSettings(learning_rate=3e-3, warmup_steps=10)
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Work:
    """A round that goes on until it is told otherwise."""

    def __init__(self, trainer: TrainerProcess, params: NDArray[np.float32]) -> None:
        self.trainer = trainer
        self.params = params
        self.stop = asyncio.Event()
        self.running = asyncio.Event()
        self.told: list[Progress] = []

    async def run(self) -> TrainResult:
        return await self.trainer.train(self.params, ENDLESS, self.stop, self.on_progress)

    def on_progress(self, progress: Progress) -> None:
        self.told.append(progress)
        self.running.set()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TrainerTask:
    path = tmp_path_factory.mktemp("data") / "digits"
    path.write_bytes(ImageTask.prepare({}, None))
    return TrainerTask("image", 1, {}, path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainer() -> AsyncIterator[TrainerProcess]:
    async with TrainerProcess() as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded(trainer: TrainerProcess, digits: TrainerTask) -> LoadedTask:
    return await trainer.load(digits)


async def train(
    trainer: TrainerProcess, params: NDArray[np.float32], plan: TrainPlan = SHORT
) -> TrainResult:
    return await trainer.train(params, plan, asyncio.Event(), lambda _: None)


def child_of(trainer: TrainerProcess) -> psutil.Process:
    assert trainer.pid is not None
    return psutil.Process(trainer.pid)


async def test_loading_gives_layout_and_parameters_at_the_start(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    assert loaded.layout == trainer.layout
    assert loaded.params.shape == (loaded.layout.size,)
    assert loaded.device == "cpu"
    assert 0 < float(np.abs(loaded.params).max()) <= 1


async def test_what_training_takes_of_the_memory_is_told(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    use = trainer.memory
    assert use is not None
    assert (use.device, use.limit) == ("cpu", None)
    assert 30e6 < use.used < 3e9


async def test_training_lowers_the_held_out_loss(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    result = await train(trainer, loaded.params, GOOD)
    assert (result.steps, result.samples) == (100, 3200)
    assert result.seconds > 0
    before = await trainer.evaluate(loaded.params)
    after = await trainer.evaluate(loaded.params - result.update)
    assert before.loss > 2.2
    assert after.loss < 0.3
    assert before.accuracy is not None
    assert after.accuracy is not None
    assert before.accuracy < 0.3
    assert after.accuracy > 0.9


async def test_same_plan_gives_the_same_bits(trainer: TrainerProcess, loaded: LoadedTask) -> None:
    first = await train(trainer, loaded.params)
    await train(trainer, loaded.params + 1)
    again = await train(trainer, loaded.params)
    assert first.update.tobytes() == again.update.tobytes()


async def test_stopping_returns_the_steps_done_so_far(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    work = Work(trainer, loaded.params)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work.run())
        await work.running.wait()
        work.stop.set()
    result = task.result()
    assert work.told[-1].steps <= result.steps < ENDLESS.steps
    assert result.samples == 32 * result.steps
    assert np.any(result.update)


async def test_stopping_before_the_start_still_makes_a_step(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    work = Work(trainer, loaded.params)
    work.stop.set()
    assert (await work.run()).steps >= 1
    assert (await train(trainer, loaded.params)).steps == SHORT.steps


async def test_progress_is_told_at_most_four_times_a_second(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    work = Work(trainer, loaded.params)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work.run())
        await work.running.wait()
        work.stop.set()
    assert 1 <= len(work.told) <= 4 * task.result().seconds + 1
    assert work.told[0].samples == 32 * work.told[0].steps
    assert work.told[0].samples_per_second > 0


async def test_cancelling_stops_the_childs_work_and_keeps_the_child(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    pid = trainer.pid
    work = Work(trainer, loaded.params)
    task = asyncio.create_task(work.run())
    await work.running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await train(trainer, loaded.params)).steps == SHORT.steps
    assert trainer.pid == pid


async def test_calls_wait_for_each_other(trainer: TrainerProcess, loaded: LoadedTask) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(train(trainer, loaded.params))
        loss = group.create_task(trainer.evaluate(loaded.params))
        second = group.create_task(train(trainer, loaded.params))
    assert first.result().update.tobytes() == second.result().update.tobytes()
    assert loss.result() == await trainer.evaluate(loaded.params)


async def test_divergence_is_an_error_of_the_round_alone(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    broken = np.full_like(loaded.params, np.nan)
    with pytest.raises(TrainerError, match="not a finite number") as caught:
        await train(trainer, broken)
    assert caught.value.code == "diverged"
    assert (await trainer.evaluate(broken)).loss == math.inf
    assert (await train(trainer, loaded.params)).steps == SHORT.steps


async def test_classifier_has_no_text_to_give(trainer: TrainerProcess, loaded: LoadedTask) -> None:
    assert await trainer.sample(loaded.params, 10) is None


async def test_child_runs_niced_in_its_own_session(
    trainer: TrainerProcess, loaded: LoadedTask
) -> None:
    child = child_of(trainer)
    assert os.getsid(child.pid) == child.pid
    assert child.nice() == min(os.nice(0) + 10, 19)


async def test_killed_child_is_an_error_and_the_next_call_starts_another(
    digits: TrainerTask,
) -> None:
    async with TrainerProcess() as trainer:
        params = (await trainer.load(digits)).params
        expected = await train(trainer, params)
        work = Work(trainer, params)
        task = asyncio.create_task(work.run())
        await work.running.wait()
        child_of(trainer).kill()
        with pytest.raises(TrainerError, match=r"signal 9 \(SIGKILL\)") as caught:
            await task
        assert caught.value.code == "trainer_died"
        assert "memory" in caught.value.hint
        again = await train(trainer, params)
        assert again.update.tobytes() == expected.update.tobytes()
        last = child_of(trainer)
    assert not last.is_running()


async def test_a_child_that_hangs_is_ended_and_one_that_dies_idle_is_replaced(
    digits: TrainerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.training.trainer_link.SILENT_LOOKS", 3)
    async with TrainerProcess() as trainer:
        params = (await trainer.load(digits)).params
        expected = await train(trainer, params)
        keeping = asyncio.create_task(trainer.keep())
        work = Work(trainer, params)
        task = asyncio.create_task(work.run())
        await work.running.wait()
        async with asyncio.timeout(10):
            child_of(trainer).suspend()
            with pytest.raises(TrainerError, match="no sign of life for 3 s") as caught:
                await task
        assert caught.value.code == "trainer_stalled"
        again = await train(trainer, params)
        assert again.update.tobytes() == expected.update.tobytes()
        idle = child_of(trainer)
        idle.kill()
        async with asyncio.timeout(10):
            while trainer.pid in {None, idle.pid}:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        keeping.cancel()


async def test_closing_the_permit_ends_the_process_at_once_and_opening_it_trains_the_same(
    digits: TrainerTask,
) -> None:
    permit = Permit()
    async with TrainerProcess(permit) as trainer:
        params = (await trainer.load(digits)).params
        expected = await train(trainer, params)
        obeying = asyncio.create_task(trainer.keep())
        for work in (Work(trainer, params), None):
            task = asyncio.create_task(work.run()) if work else None
            if work:
                await work.running.wait()
            child = child_of(trainer)
            async with asyncio.timeout(5):
                permit.close("on battery")
                if task:
                    with pytest.raises(TrainerError, match="paused") as caught:
                        await task
                    assert caught.value.code == "interrupted"
                await asyncio.to_thread(child.wait)
            assert trainer.pid is None
            with pytest.raises(TrainerError, match="paused"):
                await train(trainer, params)
            permit.open()
            again = await train(trainer, params)
            assert again.update.tobytes() == expected.update.tobytes()
        obeying.cancel()


async def test_other_resources_take_effect_at_once(digits: TrainerTask) -> None:
    permit = Permit(Resources(threads=1))
    async with TrainerProcess(permit) as trainer:
        params = (await trainer.load(digits)).params
        expected = await train(trainer, params)
        obeying = asyncio.create_task(trainer.keep())
        work = Work(trainer, params)
        task = asyncio.create_task(work.run())
        await work.running.wait()
        permit.use(Resources(threads=1, duty=0.2))
        with pytest.raises(TrainerError, match="paused"):
            await task
        slow = await train(trainer, params)
        assert slow.update.tobytes() == expected.update.tobytes()
        assert slow.seconds > 2 * expected.seconds
        obeying.cancel()


def permit_that(
    changes: Callable[[Permit], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[Permit, list[Resources]]:
    """Return a permit that changes while the second process starts, and what each was given."""
    permit, given, start = Permit(), list[Resources](), TrainerLink.start

    async def start_slowly(resources: Resources) -> TrainerLink:
        given.append(resources)
        link = await start(resources)
        if len(given) == 2:
            changes(permit)
        return link

    monkeypatch.setattr("node.training.process.TrainerLink.start", start_slowly)
    return permit, given


async def test_a_permit_that_closes_while_a_process_starts_is_obeyed(
    digits: TrainerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit, given = permit_that(lambda permit: permit.close("on battery"), monkeypatch)
    async with TrainerProcess(permit) as trainer:
        params = (await trainer.load(digits)).params
        child_of(trainer).kill()
        with pytest.raises(TrainerError, match="signal 9"):
            await train(trainer, params)
        with pytest.raises(TrainerError, match="paused"):
            await train(trainer, params)
        assert len(given) == 2
        assert trainer.pid is None


async def test_resources_that_change_while_a_process_starts_are_those_it_uses(
    digits: TrainerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Resources(duty=0.9)
    permit, given = permit_that(lambda permit: permit.use(wanted), monkeypatch)
    async with TrainerProcess(permit) as trainer:
        await trainer.load(digits)
        await trainer.load(digits)
        assert given[1:] == [Resources(), wanted]


async def test_while_the_permit_is_closed_no_process_is_started() -> None:
    permit = Permit()
    permit.close("on battery")
    async with TrainerProcess(permit) as trainer:
        assert trainer.pid is None


async def test_stalled_child_is_killed_when_stopped_or_cancelled(
    digits: TrainerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.training.trainer_link.STOP_SECONDS", 0.05)
    monkeypatch.setattr("node.training.process.CANCEL_SECONDS", 0.05)
    async with TrainerProcess() as trainer:
        params = (await trainer.load(digits)).params
        work = Work(trainer, params)
        task = asyncio.create_task(work.run())
        await work.running.wait()
        child_of(trainer).suspend()
        work.stop.set()
        with pytest.raises(TrainerError, match="did not stop") as caught:
            await task
        assert caught.value.code == "trainer_stalled"

        work = Work(trainer, params)
        task = asyncio.create_task(work.run())
        await work.running.wait()
        stalled = child_of(trainer)
        stalled.suspend()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not stalled.is_running()


async def test_load_that_fails_says_why_and_another_may_follow(
    digits: TrainerTask, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"to be or not to be, " * 50)
    small: Settings = {"layers": 1, "heads": 1, "width": 8, "context": 8, "batch": 2}
    async with TrainerProcess() as trainer:
        with pytest.raises(TrainerError, match="poetry") as caught:
            await trainer.load(TrainerTask("poetry", 1, {}, text))
        assert caught.value.code == "unknown_task"
        params = (await trainer.load(TrainerTask("text", 1, small, text))).params
        sample = await trainer.sample(params, 20, prompt="to be")
        assert sample is not None
        assert sample.startswith("to be")


async def test_device_that_is_not_there_is_named(digits: TrainerTask) -> None:
    async with TrainerProcess(Permit(Resources(device="cuda:99"))) as trainer:
        with pytest.raises(TrainerError, match="cuda:99") as caught:
            await trainer.load(digits)
        assert caught.value.code == "device_unavailable"


async def test_closing_before_anything_is_loaded_leaves_no_process() -> None:
    async with TrainerProcess() as trainer:
        child = child_of(trainer)
    assert not child.is_running()
