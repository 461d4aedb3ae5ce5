"""The commands that host, export, configure and look: in this process, with a fake node."""

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

from node.api.server import serve_api
from node.cli import main
from node.cli.hosting import METHODS, TEMPLATE
from node.demo.options import DemoOptions
from node.doctor.probe import Probed
from node.home.paths import HOME_VARIABLE, Paths
from node.methods.local import LocalSettings
from node.methods.spsa.settings import SpsaSettings
from node.tasks.text import TextConfig
from protocol.control import HostSpec, RunStatus
from protocol.manifest import TrustSpec
from tests.fake_node import LINK, RUN, RUN_STATUS, FakeControls

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("node.api.events.LOOK_SECONDS", 3600.0)  # `asked` is what a client asks
    return Paths.from_environment()


@pytest.fixture
async def node(paths: Paths) -> AsyncIterator[FakeControls]:
    paths.create()
    controls = FakeControls()
    async with serve_api(controls, paths, "127.0.0.1:0"):
        yield controls


async def talkoot(*argv: str) -> int:
    return await asyncio.to_thread(main, argv)


# Hosting.


def test_a_fresh_spec_is_valid_and_commented(tmp_path: Path, capsys: Shown) -> None:
    assert main(["host", "init", "spec.toml"]) == 0
    text = (tmp_path / "spec.toml").read_text()
    assert "talkoot host start spec.toml" in text
    assert text.count("#") > 10
    assert "host start spec.toml" in capsys.readouterr().out


def test_the_settings_that_a_fresh_spec_shows_exist() -> None:
    shown = METHODS["local"].split("[task.config]\n")[1].split("\n\n")[0]
    assert {line.split()[1] for line in shown.splitlines()} <= set(TextConfig.__slots__)
    for method, settings in (("local", LocalSettings), ("spsa", SpsaSettings)):
        shown = METHODS[method].split("[method.settings]\n")[1].split("\n\n")[0]
        assert {line.split()[1] for line in shown.splitlines()} <= set(settings.__slots__)
    shown = TEMPLATE.split("[trust]\n")[1]
    keys = {line.split()[0] for line in shown.splitlines() if not line.startswith("#")}
    assert keys == set(TrustSpec.__struct_fields__)


def test_a_fresh_spec_shows_the_values_of_a_public_run_beside_its_own() -> None:
    public = TrustSpec("clip")
    for line in TEMPLATE.split("[trust]\n")[1].splitlines():
        if line.endswith("]"):
            value = float(line.rpartition("[")[2].removesuffix("]"))
            assert value == getattr(public, line.split()[0])


async def test_a_fresh_spec_starts_a_run_as_it_is(node: FakeControls, capsys: Shown) -> None:
    await talkoot("host", "init", "spec.toml")
    capsys.readouterr()
    assert await talkoot("host", "start", "spec.toml") == 0
    assert capsys.readouterr().out == f"{LINK}\n"
    (asked,) = node.asked
    spec = asked[1]
    assert isinstance(spec, HostSpec)
    assert (spec.name, spec.task.data, spec.round.total) == ("my-run", None, 100)
    assert spec.trust == TrustSpec(
        "clip",
        audit_rate=0.0625,
        kept_rounds=3,
        probation_rounds=3,
        probation_passes=0,
        newcomer_share=1.0,
        work_bits=0,
    )


async def test_a_spec_founds_a_second_run_of_its_name_only_if_told_to(
    node: FakeControls, capsys: Shown
) -> None:
    node.known = [replace(RUN_STATUS, name="my-run", role="host")]
    await talkoot("host", "init", "spec.toml")
    assert await talkoot("host", "start", "spec.toml") == 2
    assert "talkoot host start --again spec.toml" in capsys.readouterr().err
    assert node.asked == []
    assert await talkoot("host", "start", "--again", "spec.toml") == 0
    node.known = [replace(RUN_STATUS, name="my-run", role="member")]
    assert await talkoot("host", "start", "spec.toml") == 0
    assert len(node.asked) == 2


async def test_a_run_that_is_founded_while_paused_has_no_link_yet_and_says_why(
    node: FakeControls, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def host(_: HostSpec) -> RunStatus:
        return replace(RUN_STATUS, state="paused", reason="the month's volume is used up")

    monkeypatch.setattr(node, "host", host)
    await talkoot("host", "init", "spec.toml")
    capsys.readouterr()
    assert await talkoot("host", "start", "spec.toml") == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "waits: the month's volume is used up" in told.err


async def test_a_fresh_spec_of_method_spsa_starts_a_run_as_it_is(
    node: FakeControls, capsys: Shown
) -> None:
    await talkoot("host", "init", "spec.toml", "--method", "spsa")
    assert await talkoot("host", "start", "spec.toml") == 0
    (asked,) = node.asked
    assert isinstance(asked[1], HostSpec)
    assert (asked[1].method.kind, asked[1].round.local_steps) == ("spsa", 64)


def test_a_round_of_method_spsa_is_a_number_of_blocks(tmp_path: Path, capsys: Shown) -> None:
    assert main(["host", "init", "spec.toml", "--method", "spsa"]) == 0
    text = (tmp_path / "spec.toml").read_text()
    (tmp_path / "spec.toml").write_text(text.replace("local_steps = 64", "target_samples = 64"))
    assert main(["host", "start", "spec.toml"]) == 2
    assert "a round of method spsa is a number of blocks" in capsys.readouterr().err


def test_a_spec_is_never_written_over(tmp_path: Path, capsys: Shown) -> None:
    (tmp_path / "spec.toml").write_text("mine")
    assert main(["host", "init", "spec.toml"]) == 2
    assert (tmp_path / "spec.toml").read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_a_spec_in_no_folder_is_told(capsys: Shown) -> None:
    assert main(["host", "init", "nowhere/spec.toml"]) == 2
    assert "can't write nowhere/spec.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('kind = "text"', 'kind = "txt"', "line 11: the task kind 'txt' is not installed here"),
        ("# data =", "data =", "line 12: there is no "),
        ("# warmup_steps = 50", "warmup_step = 50", "line 27: method local has no setting"),
        ("# warmup_steps = 50", "warmup_steps = -1", "line 27: a setting of method local is wrong"),
        ("min_peers = 1", "min_peers = 0", "line 33: round.min_peers: expected a whole number"),
        ('rule = "clip"', 'rule = "trust"', "line 38: trust.rule: 'trust' is not a valid choice"),
        ("audit_rate = 0.0625", "audit_rate = 2", "line 39: trust.audit_rate: "),
        ("probation_passes = 0", "probation_pass = 0", "line 42: unknown key 'probation_pass'"),
        ("# warmup_steps = 50", "worker_momentum = 0.9", "line 36: with worker_momentum nobody"),
        ('# stewards = ["12D3Koo…"]', 'stewards = ["12D3Koo"]', "line 7: stewards"),
        (
            '# stewards = ["12D3Koo…"]',
            f'stewards = ["{"x" * 52}"]',
            f"line 7: '{'x' * 52}' is not the PeerID",
        ),
    ],
)
def test_a_mistake_in_a_spec_stops_the_start_with_its_line(
    tmp_path: Path, capsys: Shown, before: str, after: str, message: str
) -> None:
    main(["host", "init", "spec.toml"])
    text = (tmp_path / "spec.toml").read_text()
    assert before in text
    (tmp_path / "spec.toml").write_text(text.replace(before, after))
    assert main(["host", "start", "spec.toml"]) == 2
    assert f"spec.toml, {message}" in capsys.readouterr().err


def test_a_missing_spec_is_told(capsys: Shown) -> None:
    assert main(["host", "start", "spec.toml"]) == 2
    assert "can't read spec.toml" in capsys.readouterr().err


async def test_data_counts_from_the_specs_own_folder(node: FakeControls, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "my-texts").mkdir(parents=True)
    await talkoot("host", "init", str(folder / "spec.toml"))
    text = (folder / "spec.toml").read_text()
    (folder / "spec.toml").write_text(text.replace("# data =", "data ="))
    assert await talkoot("host", "start", str(folder / "spec.toml")) == 0
    (asked,) = node.asked
    assert isinstance(asked[1], HostSpec)
    assert asked[1].task.data == str(folder / "my-texts")


# Exporting.


async def test_a_model_is_exported_to_an_absolute_path(
    node: FakeControls, tmp_path: Path, capsys: Shown
) -> None:
    assert await talkoot("export", "python", "model.safetensors") == 0
    assert node.asked == [("export", RUN, str(tmp_path / "model.safetensors"))]
    assert "round 4, 3.4 MB" in capsys.readouterr().out


async def test_the_only_run_needs_no_name_to_be_exported(
    node: FakeControls, tmp_path: Path
) -> None:
    assert await talkoot("export", "model.safetensors") == 1  # there are two
    node.known = node.known[:1]
    assert await talkoot("export", "model.safetensors") == 0
    assert node.asked == [("export", RUN, str(tmp_path / "model.safetensors"))]


async def test_an_export_writes_over_a_file_only_if_told_to(
    node: FakeControls, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_text("old")
    assert await talkoot("export", "python", "model.safetensors") == 2
    assert await talkoot("export", "python", ".") == 2
    assert await talkoot("export", "python", "nowhere/model.safetensors") == 2
    assert node.asked == []
    assert await talkoot("export", "python", "model.safetensors", "--force") == 0
    assert node.may_replace


# Configuration, identity, log, doctor, demo.


def test_a_value_is_set_and_shown(paths: Paths, capsys: Shown) -> None:
    assert main(["config", "set", "contribute.cpu_threads", "3"]) == 0
    assert main(["config", "get", "contribute.cpu_threads"]) == 0
    assert capsys.readouterr().out == "contribute.cpu_threads = 3\n3\n"
    assert stat.S_IMODE(paths.config_file.stat().st_mode) == 0o644


def test_all_of_the_configuration_is_shown(capsys: Shown) -> None:
    assert main(["config", "show"]) == 0
    shown = capsys.readouterr().out
    assert "[storage]\nkeep_checkpoints = 3\nmax = " in shown
    assert "# name = (made from the PeerID)" in shown
    assert main(["config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["node"]["name"] is None


async def test_setting_a_value_says_when_it_counts(node: FakeControls, capsys: Shown) -> None:
    await talkoot("config", "set", "node.name", "amber-otter")
    assert "talkoot down; talkoot up -d" in capsys.readouterr().err
    assert node.asked == []


def test_an_edit_takes_the_files_place_once_it_is_right(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    main(["config", "set", "contribute.cpu_threads", "3"])
    monkeypatch.setenv("EDITOR", "sed -i s/cpu_threads/cpu_treads/")
    assert main(["config", "edit"]) == 2
    assert "line 2: unknown key 'cpu_treads'" in capsys.readouterr().err
    assert "cpu_threads = 3" in paths.config_file.read_text()
    monkeypatch.setenv("EDITOR", "sed -i -e s/treads/threads/ -e s/3/4/")
    assert main(["config", "edit"]) == 0
    assert "cpu_threads = 4" in paths.config_file.read_text()
    assert [item.name for item in paths.config.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("editor", ["/nowhere/editor", "false", "'"])
def test_an_editor_that_fails_is_told(
    editor: str, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    assert main(["config", "edit"]) == 2
    assert "$EDITOR" in capsys.readouterr().err


def test_the_identity_is_shown_and_stays(paths: Paths, capsys: Shown) -> None:
    assert main(["id", "show", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["id", "show"]) == 0
    assert first["peer_id"] in capsys.readouterr().out
    assert first["file"] == str(paths.identity)


def test_an_identity_of_another_form_is_told(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.identity.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert main(["id", "show"]) == 1
    assert "backup" in capsys.readouterr().err


def test_the_log_is_shown_without_a_node(paths: Paths, capsys: Shown) -> None:
    assert main(["logs"]) == 0
    assert "no log yet" in capsys.readouterr().err
    paths.create()
    paths.log.write_text("one\ntwo \x1b[2Jtwo\n  three\n")
    assert main(["logs", "-n", "2"]) == 0
    assert capsys.readouterr().out == "two [2Jtwo\n  three\n"


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {"version": "2.6.0", "cuda": None, "devices": [], "mps": False}
    monkeypatch.setattr("node.cli.doctor.probe", lambda _: Probed(facts))


@pytest.mark.usefixtures("probed")
def test_the_doctor_finds_a_healthy_home_healthy(capsys: Shown) -> None:
    code = main(["doctor", "--json"])
    found = {item["what"]: item["state"] for item in json.loads(capsys.readouterr().out)}
    assert found["home"] == found["identity"] == found["config"] == "ok"
    assert found["p2pd"] == found["task kinds"] == "ok"
    assert code == 0


@pytest.mark.usefixtures("probed")
def test_who_only_looks_leaves_a_damaged_identity_as_it_is(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.identity.write_bytes(b"damaged")
    assert main(["id", "show"]) == 1
    assert "Put your backup in its place" in " ".join(capsys.readouterr().err.split())
    assert main(["doctor"]) == 1
    assert "fail  identity" in capsys.readouterr().out
    assert paths.identity.read_bytes() == b"damaged"
    assert len(list(paths.identity.parent.glob("identity*"))) == 1


@pytest.mark.usefixtures("probed")
def test_the_doctor_tells_all_that_is_wrong(paths: Paths, capsys: Shown) -> None:
    paths.create()
    paths.identity.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    paths.config_file.write_text("[nod]\n")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "fail  identity" in shown
    assert "fail  config" in shown
    assert "Did you mean node?" in shown


def test_the_demo_is_given_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[DemoOptions] = []

    def demo(options: DemoOptions) -> int:
        given.append(options)
        return 0

    fake = ModuleType("node.demo.show")
    monkeypatch.setattr(fake, "main", demo, raising=False)
    monkeypatch.setitem(sys.modules, "node.demo.show", fake)
    assert main(["demo"]) == 0
    argv = "demo --peers 3 --attackers 0 --rounds 7 --data . --aggregator mean --json --keep"
    assert main(argv.split()) == 0
    assert given == [
        DemoOptions(),
        DemoOptions("local", 3, 0, 7, tmp_path, aggregator="mean", json=True, keep=True),
    ]
