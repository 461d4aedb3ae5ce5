"""The strict TOML reader and the node's configuration."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.home.config import DEFAULT_API, Config, load_config
from node.home.config_edit import as_tables, get_value, set_value
from node.home.config_values import (
    parse_days,
    parse_hours,
    parse_rate,
    parse_share,
    parse_size,
)
from node.home.strict_toml import MAX_TOML_BYTES, ConfigError, line_of, parse_toml, read_toml
from protocol.control import HostSpec

SPEC = """\
name = "x"
[task]
kind = "text"
[method]
kind = "local"
[method.settings]
learning_rate = 1
{settings}
[round]
{round}
max_seconds = 60
min_peers = 1
[trust]
rule = "{rule}"
"""


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, Config, "config.toml")
    return caught.value


def test_a_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    config = load_config(tmp_path / "config.toml")
    assert config == Config()
    assert config.node.listen == ("/ip4/0.0.0.0/tcp/0",)
    assert (config.storage.max_bytes, config.storage.min_free_bytes) == (20 * 10**9, 10**9)


def test_every_key_of_a_file_arrives(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        """\
[node]
name = "amber-otter"
listen = ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/0"]
announce = ["/dns4/example.org/tcp/4001"]
api = "127.0.0.1:9000"
[contribute]
cpu_threads = 3
device = "cuda:1"
[network]
client_mode = true
[storage]
keep_checkpoints = 5
max = "1.5GB"
min_free = "512MiB"
"""
    )
    config = load_config(file)
    assert config.node.name == "amber-otter"
    assert config.node.listen == ("/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/0")
    assert config.node.announce == ("/dns4/example.org/tcp/4001",)
    assert config.node.api == "127.0.0.1:9000"
    assert (config.contribute.cpu_threads, config.contribute.device) == (3, "cuda:1")
    assert config.network.client_mode
    assert config.storage.keep_checkpoints == 5
    assert config.storage.max_bytes == 1_500_000_000
    assert config.storage.min_free_bytes == 512 << 20


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_choice() -> None:
    error = refusal('# mine\n[node]\nnmae = "x"\n')
    assert error.message == "config.toml, line 3: unknown key 'nmae' in [node]"
    assert error.hint == "Did you mean name? Valid here: name, listen, announce, api."


def test_an_unknown_table_is_told_with_its_line() -> None:
    error = refusal('[node]\nname = "x"\n\n[storrage]\nmax = "3GB"\n')
    assert error.message.startswith("config.toml, line 4: unknown key 'storrage'")
    assert "Did you mean storage?" in error.hint


@pytest.mark.parametrize(
    ("table", "entry", "message"),
    [
        ("contribute", 'cpu_threads = "2"', "expected a whole number, got text in quotes"),
        ("contribute", "cpu_threads = 0", "expected a whole number >= 1"),
        ("contribute", "cpu_threads = 2.0", "expected a whole number, got a number"),
        ("contribute", 'device = "tpu"', 'expected "auto", "cpu"'),
        ("network", "client_mode = 1", "expected true or false, got a whole number"),
        ("storage", "max = 20", "expected text in quotes, got a whole number"),
        ("storage", 'max = "1MB"', "1MB is less than any run needs: at least 100MB"),
        ("storage", 'max = "20 apples"', "expected a size"),
        ("storage", 'max = "1kB"', "expected a size"),
        ("storage", "keep_checkpoints = nan", "nan is not a number"),
        ("node", 'api = "0.0.0.0:7717"', "the control API is for this machine only"),
        ("node", 'api = "localhost"', 'expected "127.0.0.1:PORT"'),
        ("node", 'api = "127.0.0.1:70000"', "'70000' is not a port"),
        ("node", "listen = []", "expected a list in [ ] of length >= 1"),
        ("node", 'listen = "/ip4/0.0.0.0/tcp/1"', "expected a list in [ ], got text in quotes"),
        ("node", 'name = "a\\u0007b"', "expected a name of 1 to 40 visible characters"),
    ],
)
def test_a_wrong_value_is_told_with_its_line(table: str, entry: str, message: str) -> None:
    key = entry.partition(" ")[0]
    error = refusal(f"# mine\n[{table}]\n\n{entry}\n")
    assert error.message.startswith(f"config.toml, line 4: {table}.{key}: {message}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('listen = ["/ip4/0.0.0.0/udp/1"]', "node.listen[0]: expected a TCP multiaddr"),
        ('listen = [\n"/ip4/::1/tcp/1"]', "node.listen[0]: '::1' is not an IPv4 address"),
        ('announce = ["/ip4/1.2.3.4/tcp/0"]', "node.announce[0]: an announced address needs"),
        ('announce = ["/dns4/a b/tcp/1"]', "node.announce[0]: 'a b' is not a host name"),
    ],
)
def test_a_wrong_item_of_a_list_is_told_with_its_line(entry: str, message: str) -> None:
    assert refusal(f"[node]\n{entry}\n").message.startswith(f"config.toml, line 2: {message}")


def test_a_value_in_place_of_a_table_is_told() -> None:
    error = refusal("\nnode = 3")
    assert error.message == "config.toml, line 2: node: expected a table, got a whole number"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[node]\nname = oops", 2),
        ('[node]\nname = "a"\nname = "b"', 3),
        ('[node]\n\nname = """x', 3),
        ("[node", 1),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, line: int) -> None:
    assert refusal(text).message.startswith(f"config.toml, line {line}: ")


def test_a_line_is_right_in_every_way_of_writing_a_key() -> None:
    text = (
        '"a".b = 1\n[c]\nd = """\na.z = 2\n"""\n'
        "e = [\n  1,\n  2,\n]\n[c.f]\ng.h = 3\n[[k]]\nm = 1\n"
    )
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("c", "d")) == 3
    assert line_of(text, ("c", "e", 1)) == 6
    assert line_of(text, ("c", "f", "g", "h")) == 11
    assert line_of(text, ("k", 0, "m")) == 13
    assert line_of(text, ("a", "z")) is None


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_line_counts_what_stands_before(blank: int, comments: int) -> None:
    text = "\n" * blank + "# x = 1\n" * comments + "x = 1\n"
    assert line_of(text, ("x",)) == blank + comments + 1


@given(st.text(max_size=300))
def test_any_text_gives_a_configuration_or_an_explained_refusal(text: str) -> None:
    try:
        config = parse_toml(text, Config, "config.toml")
    except ConfigError as error:
        found = error.message
    else:
        found = f"config.toml says {config}"
    assert found.startswith("config.toml")


@pytest.mark.parametrize("value", ["[" * 20_000, "9" * 5000, "{a=" * 5000])
def test_what_no_parser_can_take_is_refused(value: str) -> None:
    assert refusal(f"[contribute]\ncpu_threads = {value}").message.startswith("config.toml: ")


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b'[node]\nname = "\xff\xfe"\n')
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        read_toml(file, Config)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"#" * (MAX_TOML_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 64 KiB"):
        read_toml(file, Config)


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        load_config(tmp_path)


# A host's spec goes through the same reader.


def test_a_spec_is_read_whole() -> None:
    text = SPEC.format(settings="warmup_steps = 3", round="local_steps = 50", rule="clip")
    spec = parse_toml(text, HostSpec, "spec.toml")
    assert spec.method.settings == {"learning_rate": 1, "warmup_steps": 3}
    assert (spec.round.local_steps, spec.round.total, spec.trust.rule) == (50, None, "clip")


@pytest.mark.parametrize(
    ("settings", "when", "rule", "message"),
    [
        ("", "local_step = 1", "clip", "line 10: unknown key 'local_step' in [round]"),
        ("", "local_steps = 1", "clap", "line 14: trust.rule: 'clap' is not a valid choice"),
        ("b = [1]", "local_steps = 1", "clip", "line 8: method.settings.b: expected"),
        ("A-b = 1", "local_steps = 1", "clip", "line 8: method.settings.A-b can't be a key"),
        ("", "local_steps = 1\ntarget_samples = 2", "clip", "give one of them"),
        ("", "", "clip", "give one of them"),
    ],
)
def test_a_mistake_in_a_spec_is_told_with_its_line(
    settings: str, when: str, rule: str, message: str
) -> None:
    text = SPEC.format(settings=settings, round=when, rule=rule)
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, HostSpec, "spec.toml")
    assert message in caught.value.message


def test_the_valid_choices_of_a_rule_are_listed() -> None:
    text = SPEC.format(settings="", round="local_steps = 1", rule="clap")
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, HostSpec, "spec.toml")
    assert caught.value.hint == "Valid here: clip, mean, median, trimmed_mean, krum, flag."


def test_a_missing_table_of_a_spec_is_named() -> None:
    with pytest.raises(ConfigError, match=r"spec\.toml: the key task is missing"):
        parse_toml('name = "x"', HostSpec, "spec.toml")


# Changing the file.


def test_setting_a_value_keeps_comments_and_the_other_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('# mine\n[node]\nname = "a"  # me\n\n[storage]\n# little\nmax = "2GB"\n')
    set_value(file, "storage.max", "30GB")
    assert file.read_text() == (
        '# mine\n[node]\nname = "a"  # me\n\n[storage]\n# little\nmax = "30GB"\n'
    )


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("node.name", "42", "42"),
        ("node.name", "a,b", "a,b"),
        ("node.name", 'say "hi"', 'say "hi"'),
        ("network.client_mode", "true", True),
        ("contribute.cpu_threads", "3", 3),
        ("storage.max", "30GB", "30GB"),
        ("storage.max", '"30GB"', "30GB"),
        ("node.listen", "/ip4/0.0.0.0/tcp/1", ["/ip4/0.0.0.0/tcp/1"]),
        (
            "node.listen",
            "/ip4/0.0.0.0/tcp/1,/ip6/::/tcp/1",
            ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"],
        ),
        ("node.listen", '["/ip4/0.0.0.0/tcp/1"]', ["/ip4/0.0.0.0/tcp/1"]),
    ],
)
def test_a_value_can_be_written_as_people_type_it(
    tmp_path: Path, key: str, raw: str, value: object
) -> None:
    file = tmp_path / "config.toml"
    set_value(file, key, raw)
    assert get_value(load_config(file), key) == value


def test_a_value_that_the_key_refuses_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[node]\nname = "a"\n')
    with pytest.raises(ConfigError, match=r"^contribute.cpu_threads: expected a whole number"):
        set_value(file, "contribute.cpu_threads", "many")
    assert file.read_text() == '[node]\nname = "a"\n'


def test_a_file_with_a_mistake_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[node]\nnmae = "a"\n')
    with pytest.raises(ConfigError, match="line 2"):
        set_value(file, "contribute.cpu_threads", "2")
    assert file.read_text() == '[node]\nnmae = "a"\n'


def test_an_unknown_key_can_be_neither_read_nor_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        get_value(Config(), "node.nmae")
    assert "Did you mean node.name?" in caught.value.hint
    with pytest.raises(ConfigError, match="there is no key"):
        set_value(tmp_path / "config.toml", "nodes", "x")


def test_all_keys_can_be_shown_as_toml_has_them() -> None:
    tables = as_tables(Config())
    assert tables["storage"] == {"keep_checkpoints": 3, "max": "20GB", "min_free": "1GB"}
    assert list(tables["node"]) == ["name", "listen", "announce", "api"]
    assert DEFAULT_API == "127.0.0.1:7717"


@pytest.mark.parametrize(
    ("text", "count"),
    [("0B", 0), ("1.5KB", 1500), ("2 MB", 2 * 10**6), ("3GiB", 3 << 30), ("1TB", 10**12)],
)
def test_a_size_has_a_number_and_a_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


def test_values_are_plain_so_that_any_encoder_takes_them() -> None:
    text = '[node]\nname = "a"\n[contribute]\ndevice = "cpu"\n'
    config = parse_toml(text, Config, "config.toml")
    assert type(config.node.name) is type(config.contribute.device) is str
    assert type(config.node.listen[0]) is str


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("", None),
        ("10Mbit", 1_250_000),
        ("10 Mbit/s", 1_250_000),
        ("1.5MB/s", 1_500_000),
        ("64Kbit", 8000),
    ],
)
def test_a_rate_is_read_as_bytes_per_second(text: str, rate: int | None) -> None:
    assert parse_rate(text) == rate


def test_a_share_is_of_a_device_or_a_size() -> None:
    assert parse_share("80%") == 0.8
    assert parse_share("100 %") == 1.0
    assert parse_share("6GB") == 6e9


def test_hours_are_minutes_of_the_day_and_may_go_over_midnight() -> None:
    assert parse_hours("00:00-24:00") == ((0, 1440),)
    assert parse_hours("22:00-07:00, 12:30-13:00") == ((1320, 1860), (750, 780))


def test_days_may_go_over_the_end_of_the_week() -> None:
    assert parse_days("mon-fri, sun") == {0, 1, 2, 3, 4, 6}
    assert parse_days("sat-mon") == {5, 6, 0}
    assert parse_days("Wed") == {2}


@pytest.mark.parametrize(
    ("table", "entry", "message"),
    [
        ("contribute", 'mode = "finish"', "'finish' is not a valid choice"),
        ("contribute", 'gpu_memory = "101%"', "expected 5% to 100%"),
        ("contribute", 'gpu_memory = "much"', 'expected a share such as "80%"'),
        ("contribute", "duty_cycle = 4", "expected a whole number >= 5"),
        ("contribute.only", 'hours = "7-8"', "expected hours such as"),
        ("contribute.only", 'hours = "22:00-22:00"', "22:00-22:00 is no time at all"),
        ("contribute.only", 'hours = "22:61-23:00"', "22:61 is no time of the day"),
        ("contribute.only", 'hours = "24:00-07:00"', "a window begins at 23:59"),
        ("contribute.only", 'hours = "08:00-09:00,"', "expected hours such as"),
        ("contribute.only", 'days = "mon-"', "expected days such as"),
        ("contribute.only", 'days = ""', "expected days such as"),
        ("contribute.only", "gpu_temp_max = 200", "expected a whole number <= 120"),
        ("network", 'up = "10Mbyte"', "expected a rate such as"),
        ("network", 'down = "1bit"', "1bit is less than any run can do with"),
        ("network", 'monthly = "1KB"', "1KB is less than any run needs"),
        ("ui", 'theme = "pink"', "'pink' is not a valid choice"),
        ("ui", 'notify = ["all"]', "'all' is not a valid choice"),
    ],
)
def test_a_wrong_limit_is_told_with_its_line(table: str, entry: str, message: str) -> None:
    error = refusal(f"[node]\n\n[{table}]\n{entry}\n")
    assert error.message.startswith(f"config.toml, line 4: {table}.")
    assert message in error.message


def test_an_unknown_key_of_a_nested_table_is_told_with_its_line() -> None:
    error = refusal("[contribute]\n[contribute.only]\n\nhuors = 3\n")
    assert error.message == "config.toml, line 4: unknown key 'huors' in [contribute.only]"
    assert error.hint.startswith("Did you mean hours? Valid here: when_idle_minutes, on_battery,")
