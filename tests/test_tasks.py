import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from node.home.settings import SettingsError
from node.methods.flat import FlatModel, as_array, layout_of
from node.tasks import (
    LaterTaskError,
    OlderTaskError,
    Task,
    TaskDataError,
    UnknownTaskError,
    load_task,
    task_class,
)
from node.tasks.image import ImageTask
from node.tasks.initial import uniform
from node.tasks.text import TextTask

SMALL = {"layers": 1, "heads": 2, "width": 16, "context": 16, "batch": 4}
TEXT = b"the quick brown fox jumps over the lazy dog; " * 40


def text_task() -> Task:
    return load_task("text", 1, SMALL, TEXT)


def params_of(task: Task) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return as_array(FlatModel(task.build_model(), torch.device("cpu")).params)


def first_batches(task: Task, seed: int) -> list[torch.Tensor]:
    return [inputs for (inputs, _), _ in zip(task.batches(seed), range(3), strict=False)]


@pytest.fixture(scope="module")
def digits() -> bytes:
    return ImageTask.prepare({}, None)


def test_unknown_kind_is_refused_with_the_installed_ones() -> None:
    with pytest.raises(UnknownTaskError, match="poetry") as caught:
        load_task("poetry", 1, {}, b"")
    assert caught.value.code == "unknown_task"
    assert "image, text" in caught.value.hint


def test_another_version_of_a_kind_is_refused() -> None:
    with pytest.raises(LaterTaskError, match="version 2") as caught:
        task_class("text", 2)
    assert (caught.value.code, caught.value.hint) == ("update_required", "Update talkoot.")
    with pytest.raises(OlderTaskError, match="version 0") as caught_too:
        task_class("text", 0)
    assert caught_too.value.code == "task_outdated"


def test_preparing_data_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(TEXT)
    prepare = (
        "import sys; from pathlib import Path; import node.app; from node.tasks import task_class;"
        "task_class('image'); assert task_class('text').prepare({}, Path(sys.argv[1]));"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", prepare, path], check=False)
    assert ended.returncode == 0


def test_misspelt_setting_is_named_with_its_neighbour() -> None:
    with pytest.raises(SettingsError, match="'layer'") as caught:
        load_task("text", 1, {"layer": 2}, TEXT)
    assert "'layers'" in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "value"),
    [("layers", "four"), ("layers", 0), ("batch", True), ("width", 130), ("context", 1 << 40)],
)
def test_wrong_setting_is_named(setting: str, value: str | int) -> None:
    with pytest.raises(SettingsError, match=setting):
        load_task("text", 1, {setting: value}, TEXT)


def test_setting_that_is_not_finite_is_refused() -> None:
    with pytest.raises(SettingsError, match="not a finite"):
        load_task("text", 1, {"layers": float("nan")}, TEXT)


def test_text_too_small_for_its_context_is_refused() -> None:
    with pytest.raises(TaskDataError, match="too few") as caught:
        load_task("text", 1, SMALL, b"x" * 33)
    assert caught.value.hint
    assert load_task("text", 1, SMALL, b"x" * 34).evaluate(text_task().build_model()) > 0


def test_text_above_the_runs_limit_is_refused() -> None:
    with pytest.raises(TaskDataError, match="more than the run's 1024"):
        load_task("text", 1, {**SMALL, "max_bytes": 1024}, TEXT)


@pytest.mark.parametrize("content", [None, b""])
def test_data_file_that_is_missing_or_empty_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "data"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskDataError, match="can't be read"):
        load_task("text", 1, SMALL, path)


def test_mapped_file_gives_the_same_batches_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(TEXT)
    mapped = first_batches(load_task("text", 1, SMALL, path), 7)
    assert all(map(torch.equal, mapped, first_batches(text_task(), 7)))


def test_batches_are_a_function_of_the_seed() -> None:
    first, again, other = (first_batches(text_task(), seed) for seed in (7, 7, 8))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_batches_of_a_seed_are_the_same_on_every_machine() -> None:
    counting = bytes(range(256)) * 4
    inputs, targets = next(load_task("text", 1, SMALL, counting).batches(1))
    assert inputs[:, 0].tolist() == [51, 165, 47, 158]
    assert torch.equal((inputs + 1) % 256, targets)


def test_largest_seed_is_accepted() -> None:
    assert first_batches(text_task(), (1 << 63) - 1)


def test_initial_noise_is_exact() -> None:
    noise = uniform(np.random.Philox(key=3), 1000)
    assert np.array_equal(noise * 2**23, np.round(noise * 2**23))
    assert -1 <= noise.min() < -0.99 < 0.99 < noise.max() < 1


def test_model_at_its_start_depends_on_the_configured_seed_alone() -> None:
    torch.manual_seed(1)
    first = params_of(load_task("text", 1, SMALL, TEXT))
    torch.manual_seed(2)
    again = params_of(load_task("text", 1, SMALL, TEXT))
    other = params_of(load_task("text", 1, {**SMALL, "seed": 1}, TEXT))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_default_text_model_has_its_stated_size_and_starts_near_uniform_odds() -> None:
    task = load_task("text", 1, {}, TEXT * 4)
    model = task.build_model()
    assert layout_of(model).size == 842_496
    with torch.no_grad():
        assert float(task.loss(model, next(task.batches(0)))) == pytest.approx(np.log(256), abs=0.3)


def test_a_byte_is_predicted_from_earlier_ones_only() -> None:
    model = text_task().build_model()
    symbols = torch.arange(16).unsqueeze(0)
    changed = symbols.clone()
    changed[0, 9:] = 99
    with torch.no_grad():
        difference = (model(symbols) - model(changed)).abs().amax(dim=2)[0]
    assert difference[:9].max() < 1e-6 < difference[9:].min()


def test_held_out_text_is_never_trained_on() -> None:
    text = b"a" * 1900 + b"z" * 100
    task = load_task("text", 1, {**SMALL, "batch": 512}, text)
    inputs, targets = next(task.batches(0))
    assert bool((inputs == ord("a")).all())
    assert bool((targets == ord("a")).all())


def test_sample_continues_the_prompt_and_repeats_by_seed() -> None:
    task = text_task()
    model = task.build_model()
    first, again, other = (task.sample(model, "the", 40, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first is not None
    assert first.startswith("the")


def test_standard_library_is_prepared_as_capped_source() -> None:
    text = TextTask.prepare({"max_bytes": 200_000}, None)
    assert len(text) == 200_000
    assert text.count(b"self") > 50
    assert TextTask.prepare({"max_bytes": 200_000}, None) == text


def test_folder_is_prepared_from_its_plain_text_files_alone(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "one.txt").write_text("one.")
    (folder / "sub" / "two.txt").write_text("two.")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "image").write_bytes(b"bin\0ary")
    (folder / "link").symlink_to(secret)
    text = TextTask.prepare({}, folder)
    assert sorted(text.split(b".")) == [b"", b"one", b"two"]


def test_file_is_prepared_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"x" * 3000)
    assert TextTask.prepare({"max_bytes": 2000}, path) == b"x" * 2000


@pytest.mark.parametrize("name", ["missing", "."])
def test_preparing_from_nothing_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskDataError):
        TextTask.prepare({}, tmp_path / name)


def test_digits_need_no_more_than_their_bytes(digits: bytes, tmp_path: Path) -> None:
    assert len(digits) == 1797 * 65
    task = load_task("image", 1, {}, digits)
    images, labels = next(task.batches(0))
    assert images.shape == (32, 64)
    assert images.max() == 1
    assert set(labels.tolist()) <= set(range(10))
    path = tmp_path / "digits"
    path.write_bytes(digits)
    assert ImageTask.prepare({}, path) == digits


@pytest.mark.parametrize(
    "data", [b"", bytes(65 * 10 + 1), bytes(65 * 9), bytes([17]) * 650, bytes([16]) * 650]
)
def test_bytes_that_are_no_digits_are_refused(data: bytes) -> None:
    with pytest.raises(TaskDataError):
        load_task("image", 1, {}, data)


def test_classifier_generates_nothing(digits: bytes) -> None:
    task = load_task("image", 1, {}, digits)
    assert task.sample(task.build_model(), "", 10, 0) is None


def test_accuracy_is_the_part_of_held_out_digits_told_right(digits: bytes) -> None:
    task = load_task("image", 1, {"objective": "accuracy"}, digits)
    model = task.build_model()
    accuracy = task.accuracy(model)
    assert accuracy is not None
    assert 0 < accuracy < 0.3
    assert task.evaluate(model) == pytest.approx(1 - accuracy)
    assert load_task("image", 1, {}, digits).accuracy(model) == accuracy
    with torch.no_grad():
        images, labels = batch = next(task.batches(0))
        wrong = int((model(images).argmax(1) != labels).sum())
        assert float(task.loss(model, batch)) == pytest.approx(wrong / 32)


def test_only_an_error_rate_has_no_gradient(digits: bytes) -> None:
    assert ImageTask.differentiable({})
    assert TextTask.differentiable({})
    assert not ImageTask.differentiable({"objective": "accuracy"})
    task = load_task("image", 1, {"objective": "accuracy"}, digits)
    assert not task.loss(task.build_model(), next(task.batches(0))).requires_grad
    with pytest.raises(SettingsError, match="objective"):
        ImageTask.differentiable({"objective": "wit"})


def test_text_has_no_accuracy() -> None:
    task = text_task()
    assert task.accuracy(task.build_model()) is None
