"""The installation: Python, packages and what they bring along."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version

from node.doctor.finding import Finding
from node.doctor.probe import Probed
from node.home.version import VERSION
from node.tasks import task_kinds

_PACKAGES = ("hivemind", "torch", "numpy", "aiohttp", "msgspec", "cryptography")
_EXTRAS = {
    "numba": ("spsa", "runs of method spsa"),
    "tokenizers": ("finetune", "runs of the task finetune"),
    "scikit-learn": ("image", "hosting runs of the task image"),
}
_AGAIN = "Install talkoot again, as README says."
_QT_LIBRARIES = "libegl1 libgl1 libxkbcommon-x11-0 libxcb-cursor0 libdbus-1-3"


def installation() -> Iterator[Finding]:
    """Look at what is installed."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", "ok", f"talkoot {VERSION}, Python {python}")
    for name in _PACKAGES:
        found = _version(name)
        yield Finding(name, *(("ok", found) if found else ("fail", "not installed", _AGAIN)))
    yield _p2pd()
    kinds = ", ".join(sorted(task_kinds()))
    yield Finding("task kinds", *(("ok", kinds) if kinds else ("fail", "none", _AGAIN)))
    for name, (extra, purpose) in _EXTRAS.items():
        found = _version(name)
        hint = f"For {purpose}: pip install 'talkoot[{extra}]'"
        yield Finding(name, "ok", found or "not installed", "" if found else hint)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _p2pd() -> Finding:
    """Look for the network daemon in hivemind's files; importing hivemind would take seconds."""
    try:
        files = distribution("hivemind").files or []
    except PackageNotFoundError:
        files = []
    found = [file.locate() for file in files if file.name == "p2pd"]
    if found and os.access(str(found[0]), os.X_OK):
        return Finding("p2pd", "ok", str(found[0]))
    hint = "Install hivemind from its wheel, which brings p2pd (libp2p's daemon) along."
    return Finding("p2pd", "fail", "missing or not executable", hint)


def window(probed: Probed, *, has_display: bool) -> Finding:
    """Say whether `talkoot gui` can work, by the probe "window"."""
    if not probed.trouble:
        found = f"PySide6 {probed.facts['version']}"
        if has_display:
            return Finding("window", "ok", found)
        hint = "The same view for terminals: talkoot top"
        return Finding("window", "ok", f"{found}; no display in this session", hint)
    if "No module named" in probed.trouble:
        hint = "For the window: pip install 'talkoot[gui]'"
        return Finding("window", "ok", "not installed", hint)
    hint = "Reinstall it: pip install --force-reinstall 'talkoot[gui]'"
    if ".so" in probed.trouble:
        hint = f"Qt misses a library of the system. On Debian: apt install {_QT_LIBRARIES}"
    return Finding("window", "warn", probed.trouble, hint)
