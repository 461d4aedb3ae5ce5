"""The home: its folders, who may read what, the configuration, the disk."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from node.doctor.finding import Finding
from node.home.config import Config, load_config
from node.home.config_values import parse_size, size_words
from node.home.identity_file import look_at_identity
from node.home.paths import Paths
from node.store.storage import DAMAGED_SUFFIX
from protocol.errors import TalkootError


def home(paths: Paths) -> tuple[list[Finding], Config | None]:
    """Look at the home, which is made if there is none; return its configuration if it is right."""
    try:
        paths.create()
    except TalkootError as error:
        return [Finding("home", "fail", error.message, error.hint)], None
    findings = [Finding("home", "ok", str(paths.data)), *_closed(paths), _identity(paths)]
    try:
        config = load_config(paths.config_file)
    except TalkootError as error:
        return [*findings, Finding("config", "fail", error.message, error.hint)], None
    findings.append(Finding("config", "ok", str(paths.config_file)))
    return [*findings, *_settings(config), _disk(paths, config), *_damaged(paths)], config


def _closed(paths: Paths) -> Iterator[Finding]:
    """Look whether secrets are for their owner alone."""
    secrets = (paths.identity, paths.token, paths.read_token)
    open_ = [path for path in (*secrets, paths.state) if _is_open(path)]
    for path in open_:
        yield Finding(
            "rights", "warn", f"others can read {path}", f"Close it: chmod go-rwx '{path}'"
        )
    foreign = [path for path in secrets if _is_foreign(path)]
    for path in foreign:
        hint = "Run talkoot as that user, or set TALKOOT_HOME to a folder of your own."
        yield Finding("rights", "fail", f"{path} belongs to another user", hint)
    if not open_ and not foreign:
        yield Finding("rights", "ok", "the private key and the API tokens are yours alone")


def _is_open(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False


def _is_foreign(path: Path) -> bool:
    try:
        return path.stat().st_uid != os.getuid()
    except OSError:
        return False


def _identity(paths: Paths) -> Finding:
    try:
        return Finding("identity", "ok", look_at_identity(paths.identity).peer_id)
    except TalkootError as error:
        return Finding("identity", "fail", error.message, error.hint)


def _settings(config: Config) -> Iterator[Finding]:
    """Look for settings that are right each by itself, and surely not meant."""
    if config.contribute.mode == "never":
        yield Finding(
            "contribute.mode",
            "warn",
            "never: this node contributes only when you tell it to",
            "Let it contribute within your limits: talkoot config set contribute.mode auto",
        )
    if config.network.client_mode and config.node.announce:
        yield Finding(
            "node.announce",
            "warn",
            "an address is announced, but with network.client_mode nobody is served",
            "Take one of the two out: talkoot config edit",
        )


def _disk(paths: Paths, config: Config) -> Finding:
    free, least = shutil.disk_usage(paths.data).free, config.storage.min_free_bytes
    found = f"{size_words(free)} free, {config.storage.min_free} must stay free"
    if free < least:
        hint = "Free some space, or set another limit: talkoot config set storage.min_free 500MB"
        return Finding("disk", "fail", found, hint)
    if free < least + parse_size("1GB"):
        return Finding("disk", "warn", found, "Free some space: a run's states need it soon.")
    return Finding("disk", "ok", found)


def _damaged(paths: Paths) -> Iterator[Finding]:
    aside = sorted(paths.runs.glob(f"*/*{DAMAGED_SUFFIX}"))
    if aside:
        found = f"{len(aside)} damaged files were set aside, such as {aside[0]}"
        yield Finding("runs", "warn", found, "Check the disk. The files may be deleted.")
