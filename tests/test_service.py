"""`talkoot service`: units and entries for any path, and programs of the session that are fakes."""

import json
import os
import plistlib
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from node.cli import main
from node.home.paths import HOME_VARIABLE
from node.service.desktop import menu_entry, without_default
from node.service.launchd import LABEL, agent_bytes
from node.service.macos import MacService
from node.service.program import Program, ServiceError
from node.service.session import Folders, Tool
from node.service.systemd import unit_text

Shown = pytest.CaptureFixture[str]

ODD = ["/a b/p%h", '/a"b/$HOME', "/back\\slash/\\n", "/`id`/;#'", "/ünï/%%"]
_FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "{folder}/calls"
if [ -e "{folder}/$(basename "$0").fails" ]; then echo "no way" >&2; exit 1; fi
case "$*" in
  *MainPID*) cat "{folder}/pid" 2>/dev/null;;
  *UnitFileState*) echo enabled;;
  *ActiveState*) echo inactive;;
esac
exit 0
"""


class Session:
    """A home folder, and fake programs that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "user"
        self.tools = folder / "tools"
        self.unit = self.home / ".config/systemd/user/talkoot.service"
        self.entry = self.home / ".local/share/applications/talkoot.desktop"
        self.at_login = self.home / ".config/autostart/talkoot.desktop"
        self.defaults = self.home / ".config/mimeapps.list"
        self.home.mkdir()
        self.tools.mkdir()

    def offer(self, *names: str) -> None:
        for name in names:
            tool = self.tools / name
            tool.write_text(_FAKE.format(folder=self.tools))
            tool.chmod(0o755)

    def fail(self, name: str) -> None:
        (self.tools / f"{name}.fails").touch()

    def calls(self) -> list[str]:
        """Return the calls since the last look that change anything."""
        noted = self.tools / "calls"
        if not noted.exists():
            return []
        lines = noted.read_text().splitlines()
        noted.unlink()
        asking = ("show", "print")
        return [line for line in lines if not any(word in line for word in asking)]

    def files(self) -> set[Path]:
        return {path for path in self.home.rglob("*") if not path.is_dir()}


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session(tmp_path)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("PATH", f"{made.tools}:/bin:/usr/bin")
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "talkoot home 100%"))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    made.offer("systemctl", "xdg-mime", "update-desktop-database")
    return made


# Paths as units and entries write them.


def read_unit(text: str, key: str) -> list[list[str]]:
    """Return the words of each line of `key`, as systemd.syntax(7) and its specifiers have them."""
    found = [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]
    return [[word.replace("%%", "%") for word in shlex.split(line)] for line in found]


@pytest.mark.parametrize("path", ODD)
def test_a_unit_names_any_path_as_it_is(path: str) -> None:
    text = unit_text((f"{path}/python", "-m", "node"), {HOME_VARIABLE: path, "XDG_DATA_HOME": "/d"})
    (command,) = read_unit(text, "ExecStart")
    command[0] = command[0].removeprefix(":")
    if command[0] == "/usr/bin/env":
        del command[0]
    assert command == [f"{path}/python", "-m", "node"]
    assert read_unit(text, "Environment") == [[f"{HOME_VARIABLE}={path}"], ["XDG_DATA_HOME=/d"]]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("path", ODD)
def test_systemd_finds_no_fault_with_a_unit(path: str, tmp_path: Path) -> None:
    folder = tmp_path / path[1:]
    folder.mkdir(parents=True)
    program = folder / "python"
    program.touch(mode=0o755)
    unit = tmp_path / "talkoot.service"
    unit.write_text(unit_text((str(program), "-m", "node"), {HOME_VARIABLE: path}))
    command = ["systemd-analyze", "verify", "--user", str(unit)]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def read_exec(text: str) -> list[str]:
    """Return the arguments of Exec, as the Desktop Entry Specification has them."""
    (line,) = (line for line in text.splitlines() if line.startswith("Exec="))
    arguments = line.removeprefix("Exec=").replace("\\\\", "\\")  # quoted as in a shell
    done = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\0' {arguments}"], capture_output=True, text=True, check=True
    )
    return [word.replace("%%", "%") for word in done.stdout.split("\0")[:-1]]


@pytest.mark.parametrize("path", ODD)
def test_an_entry_names_any_path_as_it_is(path: str, tmp_path: Path) -> None:
    command = (f"{path}/talkoot", "gui", "--link")
    text = menu_entry(command, {HOME_VARIABLE: path})
    assert read_exec(text) == ["env", f"{HOME_VARIABLE}={path}", *command, "%u"]
    assert read_exec(menu_entry(command, {})) == [*command, "%u"]
    if checker := shutil.which("desktop-file-validate"):
        file = tmp_path / "talkoot.desktop"
        file.write_text(text)
        done = subprocess.run([checker, file], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


def test_programs_are_named_by_absolute_paths_and_the_home_goes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = Program.of_process({HOME_VARIABLE: "here", "XDG_STATE_HOME": "/s", "USER": "x"})
    assert Path(program.node[0]).is_absolute()
    assert program.node[1:] == ("-P", "-m", "node", "--background")
    assert Path(program.window[0]).is_absolute()
    assert program.environment == {"XDG_STATE_HOME": "/s", HOME_VARIABLE: str(tmp_path / "here")}
    assert Program.of_process({}).environment == {}


@pytest.mark.parametrize("home", ["/a\nExecStartPre=/bin/evil", "/a\udcff", "/a\x1b[2J"])
def test_a_path_that_no_unit_can_hold_is_refused(home: str) -> None:
    with pytest.raises(ServiceError, match="no text"):
        Program.of_process({HOME_VARIABLE: home})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[Default Applications]\nx-scheme-handler/talkoot=talkoot.desktop\n", ""),
        ("x-scheme-handler/talkoot=other.desktop;talkoot.desktop;\n", "other.desktop;"),
        ("x-scheme-handler/talkoot=other.desktop\n", "other.desktop"),
        ("x-scheme-handler/talkoots=talkoot.desktop\n", "talkoot.desktop"),
    ],
)
def test_only_our_name_is_taken_out_of_the_defaults(before: str, after: str) -> None:
    around = "text/html=talkoot.desktop\n# x-scheme-handler/talkoot=talkoot.desktop\n"
    changed = without_default(f"{around}{before}{around}")
    assert changed.startswith(around)
    assert changed.endswith(around)
    middle = changed.removeprefix(around).removesuffix(around)
    assert middle.partition("=")[2].strip() == after


# Installing.


def test_it_is_installed_started_and_opens_links(session: Session, capsys: Shown) -> None:
    assert main(["service", "install"]) == 0
    shown = capsys.readouterr().out
    assert session.files() == {session.unit, session.entry}
    assert session.calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable talkoot.service",
        "systemctl --user restart talkoot.service",
        f"update-desktop-database {session.entry.parent}",
        "xdg-mime default talkoot.desktop x-scheme-handler/talkoot",
    ]
    home = os.environ[HOME_VARIABLE]
    assert [f"{HOME_VARIABLE}={home}"] in read_unit(session.unit.read_text(), "Environment")
    assert "MimeType=x-scheme-handler/talkoot;" in session.entry.read_text()
    assert "loginctl enable-linger" in shown
    assert stat.S_IMODE(session.unit.stat().st_mode) == 0o644


def test_installing_twice_changes_nothing_and_restarts_nothing(
    session: Session, capsys: Shown
) -> None:
    assert main(["service", "install"]) == 0
    before = session.unit.stat().st_mtime_ns, session.unit.stat().st_ino
    session.calls()
    assert main(["service", "install"]) == 0
    assert (session.unit.stat().st_mtime_ns, session.unit.stat().st_ino) == before
    assert "systemctl --user start talkoot.service" in session.calls()
    assert f"{session.unit}: as it was" in capsys.readouterr().out


def test_a_node_that_runs_already_goes_on(
    session: Session, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.service._running", lambda _: 4711)
    assert main(["service", "install"]) == 0
    assert "process 4711" in capsys.readouterr().out
    assert not any("start" in call for call in session.calls())
    (session.tools / "pid").write_text("4711\n")  # it is the service itself
    assert main(["service", "install"]) == 0
    assert "systemctl --user start talkoot.service" in session.calls()


def test_without_a_manager_it_says_what_to_run(session: Session, capsys: Shown) -> None:
    session.fail("systemctl")
    assert main(["service", "install"]) == 0
    shown = capsys.readouterr().out
    assert "systemctl --user enable --now talkoot.service" in shown
    assert not any("enable" in call for call in session.calls())
    assert session.files() == {session.unit, session.entry}
    assert main(["service", "remove"]) == 0
    assert session.files() == set()


def test_a_desktop_that_refuses_links_is_told_of(session: Session, capsys: Shown) -> None:
    session.fail("xdg-mime")
    assert main(["service", "install"]) == 0
    assert "no way" in capsys.readouterr().out
    (session.tools / "xdg-mime").unlink()
    if shutil.which("xdg-mime") is None:
        assert main(["service", "install"]) == 0
        assert "xdg-mime is missing" in capsys.readouterr().out


def test_the_window_opens_at_login_only_where_that_is_asked_for(session: Session) -> None:
    assert main(["service", "install", "--window-at-login"]) == 0
    assert read_exec(session.at_login.read_text())[-1] == "gui"
    assert "MimeType" not in session.at_login.read_text()
    assert main(["service", "install"]) == 0
    assert not session.at_login.exists()


# Removing.


def test_removing_takes_all_away_and_nothing_else(session: Session, capsys: Shown) -> None:
    session.unit.parent.mkdir(parents=True)
    other = session.unit.with_name("other.service")
    other.write_text("[Unit]\n")
    dropin = session.unit.with_name("talkoot.service.d")
    dropin.mkdir()
    (dropin / "override.conf").write_text("[Service]\nNice=5\n")
    mine = "[Default Applications]\ntext/html=firefox.desktop\n"
    session.defaults.write_text(f"{mine}x-scheme-handler/talkoot=talkoot.desktop\n")
    before = session.files()
    assert main(["service", "install", "--window-at-login"]) == 0
    session.calls()
    assert main(["service", "remove"]) == 0
    assert session.files() == before
    assert session.defaults.read_text() == mine
    assert session.calls()[0] == "systemctl --user disable --now talkoot.service"
    assert session.calls() == []
    capsys.readouterr()
    assert main(["service", "remove"]) == 0
    assert capsys.readouterr().err == "Nothing is installed.\n"
    assert session.calls() == []


def test_a_service_that_does_not_end_is_removed_all_the_same(
    session: Session, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["service", "install"]) == 0
    asked = Tool.ask
    monkeypatch.setattr(
        Tool, "ask", lambda self, *words: "" if "show-environment" in words else asked(self, *words)
    )
    session.fail("systemctl")
    capsys.readouterr()
    assert main(["service", "remove"]) == 0
    assert "no way" in capsys.readouterr().out
    assert session.files() == set()


def test_a_unit_of_somebody_elses_is_left_as_it_is(session: Session, capsys: Shown) -> None:
    session.unit.parent.mkdir(parents=True)
    session.unit.write_text("[Service]\nExecStart=/mine\n")
    assert main(["service", "install"]) == 1
    assert "is not talkoot's" in capsys.readouterr().err
    assert main(["service", "remove"]) == 0
    assert session.unit.read_text() == "[Service]\nExecStart=/mine\n"
    assert session.calls() == []


# What can go wrong.


def test_a_folder_that_cannot_be_written_is_told(session: Session, capsys: Shown) -> None:
    (session.home / ".config").write_text("a file where the folder should be")
    assert main(["service", "install"]) == 1
    shown = capsys.readouterr().err
    assert f"can't write {session.unit}" in shown
    assert "hint: " in shown


def test_a_manager_that_fails_is_told_with_its_words(
    session: Session, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tool, "ask", lambda *_: "")
    session.fail("systemctl")
    assert main(["service", "install"]) == 1
    shown = capsys.readouterr().err
    assert "systemctl --user daemon-reload failed: no way" in shown
    assert "Run it yourself" in shown


def test_another_system_is_told_that_it_has_to_wait(
    session: Session, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Windows")
    for action in ("install", "remove", "status"):
        assert main(["service", action]) == 1
        shown = capsys.readouterr().err
        assert "on this system yet" in shown
        assert "talkoot up -d" in shown
    assert session.files() == set()


def test_status_tells_what_is_installed(session: Session, capsys: Shown) -> None:
    assert main(["service", "status"]) == 0
    assert "not installed" in capsys.readouterr().out
    assert main(["service", "install"]) == 0
    capsys.readouterr()
    assert main(["service", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unit"] == str(session.unit)
    assert (found["starts at login"], found["now"]) == ("enabled", "inactive")
    assert (found["opens talkoot links"], found["window at login"]) == ("yes", "no")


# macOS, by its files alone.


def test_a_mac_gets_an_agent_that_its_manager_can_read() -> None:
    data = agent_bytes(("/a b/python", "-m", "node"), {HOME_VARIABLE: "/h & <x>"}, Path("/out"))
    agent = plistlib.loads(data)
    assert agent["Label"] == LABEL
    assert agent["ProgramArguments"] == ["/a b/python", "-m", "node"]
    assert agent["EnvironmentVariables"] == {HOME_VARIABLE: "/h & <x>"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_on_a_mac_it_is_installed_and_removed(session: Session) -> None:
    session.offer("launchctl")
    service = MacService(Folders.of_user(), Path("/out"))
    agent = session.home / "Library/LaunchAgents/org.talkoot.node.plist"
    program = Program.of_process()
    said = list(service.install(program, window_at_login=False, other_node=None))
    assert "never tried" in said[-1]
    assert session.files() == {agent}
    domain = f"gui/{os.getuid()}"
    assert session.calls() == [
        f"launchctl bootout {domain}/{LABEL}",
        f"launchctl bootstrap {domain} {agent}",
    ]
    assert service.status()["agent"] == str(agent)
    list(service.install(program, window_at_login=False, other_node=None))
    assert session.calls() == []
    assert list(service.remove()) == [f"{agent}: removed"]
    assert session.files() == set()
    assert list(service.remove()) == []
