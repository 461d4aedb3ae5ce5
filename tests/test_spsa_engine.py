"""The engine of method spsa: probes and moves on a real model, in the training process too."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch

from node.methods.spsa.engine import Engine
from node.methods.spsa.moves import Move, TicketWeights
from node.methods.spsa.quantiser import Application, Report
from node.methods.spsa.settings import SpsaSettings
from node.tasks.image import ImageTask
from node.training.process import TrainerProcess
from node.training.trainer import LoadedTask, TrainerError, TrainerTask
from protocol.manifest import MethodSpec
from protocol.noise import keystream, noise_key
from tests.messages import peer

RUN, ROOT = b"r" * 32, b"s" * 32
DATA = ImageTask.prepare({}, None)
SETTINGS = SpsaSettings()
SCALE = 0.5


def engine(settings: SpsaSettings = SETTINGS) -> Engine:
    task = ImageTask({"width": 16}, DATA)
    size = sum(parameter.numel() for parameter in task.build_model().parameters())
    if settings.trainable != "*":
        size = 16 * 64
    vectors = np.empty(size, np.float32), np.empty(size, np.float32)
    made = Engine(task, task.build_model(), settings, vectors, torch.device("cpu"))
    made.begin(RUN, ROOT)
    return made


def move(seq: int, weights: tuple[int, ...], root: bytes = ROOT) -> Move:
    application = Application.of([Report((1,), -6)], SCALE, 1e-3)
    return move_of(application, TicketWeights(peer=peer(1), seq=seq, weights=weights), root)


def move_of(application: Application, ticket: TicketWeights, root: bytes = ROOT) -> Move:
    return Move(root, application.exponent, application.limit, application.rate, (ticket,))


def bits(of: Engine) -> bytes:
    of.freeze()
    found = b"".join(part.tobytes() for part in of.vectors)
    of.begin(RUN, ROOT)
    return found


def test_moves_commute_and_are_undone_exactly() -> None:
    one, other = engine(), engine()
    start = bits(one)
    first, second = move(1, (5, -100, 37)), move(2, (-127, 3))
    one.apply([first, second])
    other.apply([second])
    other.apply([first])
    assert bits(one) == bits(other) != start
    one.apply([second.inverse(), first.inverse()])
    assert bits(one) == start


def test_a_move_goes_along_the_noise_of_its_ticket() -> None:
    made = engine()
    made.freeze()
    before = made.vectors[0].astype(np.float64) + made.vectors[1]
    made.begin(RUN, ROOT)
    made.apply([move(1, (0, 100))])
    made.freeze()
    moved = made.vectors[0].astype(np.float64) + made.vectors[1] - before
    stream = np.frombuffer(noise(1), np.uint8)
    signs = np.unpackbits(stream, bitorder="little")[: moved.size].astype(np.int64) * 2 - 1
    assert np.unique(moved * signs).size == 1
    assert moved[0] * signs[0] < 0


def noise(probe: int) -> bytes:
    return keystream(noise_key(RUN, ROOT, peer(1), 1, probe), 1 << 12)


def test_a_probe_leaves_the_master_as_it_was() -> None:
    made = engine()
    before = bits(made)
    made.probe(peer(1), 7, 3)
    assert bits(made) == before


def test_a_probe_on_earlier_weights_is_the_probe_that_was_made_there() -> None:
    made = engine()
    then = made.probe(peer(2), 1, 4)
    moves = [move(1, (100, 20)), move(2, (-90,))]
    made.apply(moves)
    now = made.probe(peer(2), 1, 4)
    made.apply([each.inverse() for each in moves])
    again = made.probe(peer(2), 1, 4)
    assert again == then != now


def test_a_ticket_that_is_stopped_has_the_probes_made_so_far() -> None:
    made = engine()
    whole = made.probe(peer(2), 1, 4)
    answers = iter([False, True])
    part = made.probe(peer(2), 1, 4, lambda: next(answers))
    assert part.projections == whole.projections[:2]


def test_only_what_the_pattern_names_is_trained() -> None:
    made = engine(SpsaSettings(trainable="0.weight"))
    assert [tensor.name for tensor in made.layout.tensors] == ["0.weight"]
    made.apply([move(1, (100,))])
    assert np.isfinite(made.probe(peer(1), 2, 2).loss)


def held_out_loss(of: Engine) -> float:
    of.freeze()
    theta, rest = (part.copy() for part in of.vectors)
    loss, _ = of.evaluate()
    for part, kept in zip(of.vectors, (theta, rest), strict=True):
        part[:] = kept
    of.begin(RUN, ROOT)
    return loss


def test_projections_descend() -> None:
    made = engine()
    first = held_out_loss(made)
    application = Application(-6, 200, 1e-2)
    for seq in range(100):
        found = made.probe(peer(1), seq, 8)
        weights = tuple(max(-200, min(200, round(64 * each))) for each in found.projections)
        ticket = TicketWeights(peer=peer(1), seq=seq, weights=weights)
        made.apply([move_of(application, ticket)])
    assert held_out_loss(made) < first - 0.3


@pytest.fixture
async def trainer() -> AsyncIterator[TrainerProcess]:
    async with TrainerProcess() as found:
        yield found


async def load(trainer: TrainerProcess, folder: Path, **settings: str | float) -> LoadedTask:
    data = folder / "digits"
    data.write_bytes(DATA)
    method = MethodSpec(kind="spsa", settings=dict(settings))
    return await trainer.load(TrainerTask("image", 1, {"width": 16}, data, method))


async def test_the_training_process_gives_the_same_bits(
    trainer: TrainerProcess, tmp_path: Path
) -> None:
    loaded = await load(trainer, tmp_path)
    rest = np.zeros_like(loaded.params)
    await trainer.begin(RUN, ROOT, (loaded.params, rest))
    await trainer.apply([move(1, (5, -100, 37))])
    found = await trainer.probe(peer(2), 1, 4)
    theta, rest = await trainer.freeze()
    alone = engine()
    alone.apply([move(1, (5, -100, 37))])
    assert tuple(alone.probe(peer(2), 1, 4).projections) == pytest.approx(
        found.projections, abs=1e-4
    )
    assert bits(alone) == theta.tobytes() + rest.tobytes()
    assert (await trainer.evaluate(theta)).accuracy is not None


async def test_a_pattern_that_names_nothing_is_refused(
    trainer: TrainerProcess, tmp_path: Path
) -> None:
    with pytest.raises(TrainerError, match="no tensor of the model matches 'lora"):
        await load(trainer, tmp_path, trainable="lora*")


async def test_a_method_does_not_do_the_work_of_another(
    trainer: TrainerProcess, tmp_path: Path
) -> None:
    data = tmp_path / "digits"
    data.write_bytes(DATA)
    await trainer.load(TrainerTask("image", 1, {"width": 16}, data))
    with pytest.raises(TrainerError, match="method local has no Probe"):
        await trainer.probe(peer(1), 0, 1)
