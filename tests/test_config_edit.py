"""Single keys of the configuration file: changed, described, and followed while a node runs."""

import asyncio
import fcntl
import itertools
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.virtual_time import run
from node.home import config_edit
from node.home.config import Config, load_config
from node.home.config_edit import as_values, changed_text, get_value, set_value, set_values
from node.home.config_source import ConfigSource
from node.home.config_view import describe
from node.home.strict_toml import ConfigError, parse_toml

LAYOUTS = [
    "",
    "# nothing yet\n",
    '[contribute]\nmode = "auto" # mine\n',
    "[contribute.only]\non_battery = true\n",
    '[contribute]\nmode = "auto"\n\n[contribute.only]\nhours = "08:00-09:00"\n',
    '[contribute.only]\nhours = "08:00-09:00"\n[ui]\ntray = true\n[contribute]\nmode = "auto"\n',
    'contribute.only.hours = "08:00-09:00"\n[ui]\ntray = false\n',
    'contribute = { mode = "auto", only = { hours = "08:00-09:00" } }\n',
    'contribute = { mode = "auto" }\n[storage]\nmax = "2GB"\n',
    '[contribute]\nonly.hours = "08:00-09:00"\nmode = "never"\n',
    '[contribute]\nonly = { hours = "08:00-09:00" }\n',
    '["contribute"]\n"mode" = \'auto\'\n[storage]\nmax = """2GB"""\n',
]
CHANGES: dict[str, Any] = {
    "contribute.mode": "always",
    "contribute.only.hours": "22:00-07:00",
    "contribute.only.when_idle_minutes": 10,
    "contribute.duty_cycle": 50,
    "ui.notify": ["disk"],
    "network.up": "10Mbit",
    "node.name": 'a "b" \\ # c',
}


@given(
    st.sampled_from(LAYOUTS),
    st.dictionaries(st.sampled_from(sorted(CHANGES)), st.booleans(), min_size=1),
)
def test_a_change_does_what_it_says_in_every_layout_of_a_file(
    text: str, chosen: dict[str, bool]
) -> None:
    changes = {key: CHANGES[key] if keep else None for key, keep in chosen.items()}
    expected = as_values(parse_toml(text, Config, "x")) | {
        key: as_values(Config())[key] if value is None else value for key, value in changes.items()
    }
    assert as_values(parse_toml(changed_text(text, changes), Config, "x")) == expected


def test_a_key_of_a_nested_table_is_set_beside_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\n[contribute]\ncpu_threads = 2  # few\n\n[ui]\ntray = false\n")
    set_value(file, "contribute.only.hours", "22:00-07:00")
    assert "# mine" in file.read_text()
    assert "cpu_threads = 2  # few" in file.read_text()
    config = load_config(file)
    assert config.contribute.only.hours == "22:00-07:00"
    assert get_value(config, "contribute.only.hours") == "22:00-07:00"
    assert (config.contribute.cpu_threads, config.ui.tray) == (2, False)


def test_a_table_is_not_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        get_value(Config(), "contribute.only")
    assert "contribute.only.hours" in caught.value.hint


def test_a_key_that_is_taken_out_has_its_default_again(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[storage]\n# little\nmax = "2GB"\nmin_free = "3GB"\n')
    assert set_values(file, {"storage.max": None, "ui.theme": None}).storage.max == "20GB"
    assert tomllib.loads(file.read_text()) == {"storage": {"min_free": "3GB"}}


def test_one_wrong_value_of_several_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[storage]\nmax = "2GB"\n')
    with pytest.raises(ConfigError, match=r"^contribute\.only\.days: expected days"):
        set_values(file, {"storage.max": "3GB", "contribute.only.days": "funday"})
    assert file.read_text() == '[storage]\nmax = "2GB"\n'


@pytest.mark.parametrize("value", [{"a": 1}, [1], "\x00", 10**30, True, float("nan")])
def test_any_wrong_value_is_refused_in_words(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError):
        set_values(tmp_path / "config.toml", {"contribute.cpu_threads": value})
    assert not (tmp_path / "config.toml").exists()


def test_an_empty_list_can_be_typed(tmp_path: Path) -> None:
    assert set_value(tmp_path / "config.toml", "ui.notify", "") == []
    assert load_config(tmp_path / "config.toml").ui.notify == ()


# What programs are told of the keys.


def test_every_key_is_described_in_a_sentence() -> None:
    items = describe(Config())
    assert [item.key for item in items] == list(as_values(Config()))
    for item in items:
        assert item.about.endswith("."), item.key
        assert item.about[0].isupper(), item.key
        assert item.value == item.default


def test_a_description_says_what_a_key_can_be() -> None:
    items = {item.key: item for item in describe(Config())}
    mode, hours = items["contribute.mode"], items["contribute.only.hours"]
    assert (mode.kind, mode.choices, mode.restart) == ("choice", ("always", "auto", "never"), False)
    assert (hours.kind, hours.choices, hours.value) == ("text", (), "00:00-24:00")
    duty = items["contribute.duty_cycle"]
    assert (duty.kind, duty.least, duty.most) == ("int", 5, 100)
    notify = items["ui.notify"]
    assert (notify.kind, notify.choices[0], len(notify.choices)) == ("list", "stopped", 5)
    assert (items["node.name"].value, items["node.name"].restart) == (None, True)
    assert items["ui.tray"].kind == "bool"


# The configuration of a running node.


def followed(path: Path) -> tuple[ConfigSource, list[Config]]:
    seconds = itertools.count()
    source = ConfigSource(path, load_config(path), clock=lambda: float(next(seconds)))
    told: list[Config] = []
    source.observe(told.append)
    return source, told


def settle(source: ConfigSource) -> None:
    for _ in range(2):
        source.refresh()


def test_looking_often_makes_no_edit_settle_sooner(tmp_path: Path) -> None:
    file, seconds = tmp_path / "config.toml", [0.0]
    source = ConfigSource(file, clock=lambda: seconds[0])
    file.write_text("[ui]\ntray = false\n")
    for _ in range(9):
        source.refresh()
        seconds[0] += 0.1
    assert source.config.ui.tray
    seconds[0] += 0.2
    source.refresh()
    assert not source.config.ui.tray


def test_an_edit_by_hand_comes_into_force_and_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    source, told = followed(file)
    settle(source)
    assert told == []
    file.write_text("[ui]\ntray = false\n")
    for _ in range(5):
        source.refresh()
    assert [config.ui.tray for config in told] == [False]
    file.unlink()
    settle(source)
    assert source.config == Config() == told[-1]


def test_an_edit_counts_only_when_the_file_holds_still(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[contribute]\nmode = "never"\n')
    source, told = followed(file)
    settle(source)
    file.unlink()
    source.refresh()
    file.write_text("[contribute]\n")
    source.refresh()
    file.write_text('[contribute]\nmode = "never"\nduty_cycle = 50\n')
    settle(source)
    assert [config.contribute.mode for config in told] == ["never"]
    assert source.config.contribute.duty_cycle == 50


def test_a_mistake_in_an_edit_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[ui]\ntray = false\n")
    source, told = followed(file)
    file.write_text("[ui]\n\ntrai = true\n")
    settle(source)
    assert "line 3: unknown key 'trai'" in source.trouble
    assert "Did you mean tray?" in source.view.trouble
    assert (source.config.ui.tray, told) == (False, [])
    file.write_text("[ui]\n\ntray = true\n")
    settle(source)
    assert (source.config.ui.tray, source.trouble) == (True, "")


def test_a_file_that_became_unreadable_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    source, _ = followed(file)
    file.mkdir()
    settle(source)
    assert "can't read" in source.trouble


async def test_a_change_is_in_force_at_once_and_keeps_an_edit_not_yet_seen(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[ui]\ntray = true\n")
    source, told = followed(file)
    file.write_text("# by hand\n[ui]\ntray = false\n")
    await source.change({"ui.theme": "dark"})
    assert (source.config.ui.theme, source.config.ui.tray) == ("dark", False)
    assert "# by hand" in file.read_text()
    settle(source)
    assert told == [source.config]


async def test_what_counts_at_a_start_stays_as_it_was_while_the_node_runs(tmp_path: Path) -> None:
    source = ConfigSource(tmp_path / "config.toml")
    seen: list[Config] = []
    source.observe(seen.append)
    await source.change({"storage.keep_checkpoints": 9, "node.name": "new"})
    assert (source.config.storage.keep_checkpoints, source.config.node.name) == (3, None)
    assert seen == []
    items = {item.key: item.value for item in source.view.items}
    assert (items["storage.keep_checkpoints"], items["node.name"]) == (9, "new")
    await source.change({"storage.min_free": "2GB"})
    assert source.config.storage.min_free == "2GB"
    assert source.config.storage.keep_checkpoints == 3
    assert ConfigSource(tmp_path / "config.toml", seen[0]).config.storage.min_free == "2GB"


async def test_a_change_of_a_file_with_a_mistake_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    source, told = followed(file)
    file.write_text("[ui]\ntrai = true\n")
    with pytest.raises(ConfigError, match="line 2"):
        await source.change({"ui.theme": "dark"})
    assert (file.read_text(), told) == ("[ui]\ntrai = true\n", [])


async def test_changes_from_many_sides_at_once_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    first, second = ConfigSource(file), ConfigSource(file)
    keys = ["contribute.duty_cycle", "contribute.cpu_threads", "storage.keep_checkpoints"]
    async with asyncio.TaskGroup() as tasks:
        for source, key in zip([first, second, first], keys, strict=True):
            tasks.create_task(source.change({key: 7}))
    values = as_values(load_config(file))
    assert [values[key] for key in keys] == [7, 7, 7]


async def test_one_observer_can_end_its_watch(tmp_path: Path) -> None:
    source, told = followed(tmp_path / "config.toml")
    more: list[Config] = []
    end = source.observe(more.append)
    await source.change({"ui.tray": False})
    end()
    await source.change({"ui.tray": True})
    assert (len(told), len(more)) == (2, 1)


async def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    source = ConfigSource(tmp_path / "gone" / "config.toml")
    with pytest.raises(ConfigError, match="can't open the folder"):
        await source.change({"ui.tray": False})


def test_an_edit_that_keeps_the_size_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[ui]\ntheme = "dark"\n')
    source, _ = followed(file)
    settle(source)
    file.write_text('[ui]\ntheme = "auto"\n')
    os.utime(file, ns=(1, 1))
    settle(source)
    assert source.config.ui.theme == "auto"


def test_an_edit_by_hand_in_the_same_moment_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[ui]\ntray = true\n")
    edits = iter(["[ui]\ntray = false\n", "[ui]\ntray = false # now\n"])

    def slowly(text: str, changes: Any) -> str:  # noqa: ANN401
        if edit := next(edits, ""):
            file.write_text(edit)
        return changed_text(text, changes)

    monkeypatch.setattr(config_edit, "changed_text", slowly)
    set_values(file, {"ui.theme": "dark"})
    assert file.read_text() == '[ui]\ntray = false # now\ntheme = "dark"\n'


def test_a_file_that_somebody_holds_is_told_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_edit, "_ATTEMPT_SECONDS", 0.0)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another program keeps changing"):
            set_values(tmp_path / "config.toml", {"ui.theme": "dark"})
    finally:
        os.close(handle)
    assert not (tmp_path / "config.toml").exists()


def test_edits_by_hand_are_followed_while_the_node_runs(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    async def main() -> bool:
        source = ConfigSource(file, clock=asyncio.get_running_loop().time)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(source.follow())
            await asyncio.sleep(10)
            file.write_text("[ui]\ntray = false\n")
            await asyncio.sleep(2.1)
            task.cancel()
        return source.config.ui.tray

    assert not run(main())


@pytest.mark.parametrize("key", ["network.up", "network.monthly"])
def test_a_figure_without_its_unit_is_told_what_is_missing(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r'expected a (rate|size) such as "'):
        set_value(tmp_path / "config.toml", key, "10")


def test_a_name_of_figures_needs_no_quotes(tmp_path: Path) -> None:
    assert set_value(tmp_path / "config.toml", "node.name", "42") == "42"
