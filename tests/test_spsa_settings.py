import math

import pytest

from node.home.settings import SettingsError
from node.methods.spsa.settings import Rates, SpsaSettings, default_rates
from protocol.layout import Layout, TensorSpec

NAMES = ("embed.weight", "block.lora_a.weight", "block.bias", "head.weight", "head.bias")
LAYOUT = Layout(tuple(TensorSpec(name=name, shape=(3,)) for name in NAMES))


def trained(patterns: str) -> set[str]:
    return set(SpsaSettings(trainable=patterns).trained(LAYOUT))


def test_the_defaults_are_settings_too() -> None:
    assert SpsaSettings.read({}) == SpsaSettings()
    assert SpsaSettings().scale is None


@pytest.mark.parametrize(
    "values",
    [
        {"epsilon": 0.0},
        {"epsilon": 0.5},
        {"epsilon": 1e-8},
        {"learning_rate": -1e-3},
        {"max_rate": 0},
        {"probes": 0},
        {"probes": 65},
        {"probes": 1.5},
        {"block_seconds": 0},
        {"depth": 0},
        {"scale": 0.0},
        {"scale": 1e30},
        {"weight_decay": -0.1},
        {"trainable": ""},
        {"trainable": 3},
    ],
)
def test_a_setting_out_of_bounds_or_of_another_type_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        SpsaSettings.read(values)


def test_an_unknown_setting_is_answered_with_what_was_meant() -> None:
    with pytest.raises(SettingsError, match="probe") as caught:
        SpsaSettings.read({"probe": 4})
    assert "probes" in caught.value.hint


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("*", set(NAMES)),
        ("*.bias", {"block.bias", "head.bias"}),
        ("*lora*,head.*", {"block.lora_a.weight", "head.weight", "head.bias"}),
        (" *lora* , head.bias ", {"block.lora_a.weight", "head.bias"}),
        ("[be]*.weight", {"embed.weight", "block.lora_a.weight"}),
    ],
)
def test_patterns_choose_the_trainable_tensors(patterns: str, names: set[str]) -> None:
    assert trained(patterns) == names


@pytest.mark.parametrize("patterns", ["lora*", "*.bias,adapter.*", "*.BIAS", "*,", ","])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(patterns: str) -> None:
    with pytest.raises(SettingsError, match="trainable") as caught:
        trained(patterns)
    assert "embed.weight" in caught.value.hint


def test_of_many_names_the_hint_lists_the_first_ones() -> None:
    layout = Layout(tuple(TensorSpec(name=f"layer{i}", shape=(1,)) for i in range(300)))
    with pytest.raises(SettingsError) as caught:
        SpsaSettings(trainable="x").trained(layout)
    assert caught.value.hint.endswith("and 288 more.")


def test_rates_that_are_set_are_taken_and_the_others_follow_from_the_parameters() -> None:
    assert SpsaSettings(learning_rate=0.1, max_rate=0.2).rates(9000) == Rates(0.1, 0.2)
    assert SpsaSettings(max_rate=0.2).rates(9000) == Rates(default_rates(9000, 4).probe, 0.2)


def test_default_rates_fall_with_the_cube_root_of_parameters_and_with_the_delay() -> None:
    assert default_rates(8000, 4).probe == 8 * default_rates(8000 * 512, 4).probe
    assert default_rates(8970, 4) == Rates(0.0125 / 21, 0.27 / 9)
    assert default_rates(8970, 8).block < default_rates(8970, 4).block
    assert default_rates(1, 1).probe == 0.0125


def test_the_default_rate_has_the_same_bits_whatever_the_last_bit_of_the_cube_root() -> None:
    for parameters in (1, 2, 3, 19_683, 19_684, 10_600_000, 2**31 - 1):
        root = parameters ** (1 / 3)
        near = {round(root), round(math.nextafter(root, 0)), round(math.nextafter(root, 1e9))}
        assert len(near) == 1
