"""The unit by which systemd runs the node in a user's session."""

from collections.abc import Mapping, Sequence

from node.service.program import MARK, STOP_SECONDS

UNIT = "talkoot.service"

# What a user's manager can do without privileges: no mount namespaces, so no ProtectSystem and the
# like. MemoryDenyWriteExecute would keep torch and numba from compiling.
_UNIT = """\
# {mark}
# Change it by: systemctl --user edit talkoot
[Unit]
Description=talkoot: volunteer training
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{environment}\
Restart=on-failure
RestartSec=10
# a mistake in the configuration does not go away by itself
RestartPreventExitStatus=2
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_seconds}
# a trainer that took too much memory is told of by the node, which goes on
OOMPolicy=continue
Nice=10
CPUWeight=20
IOWeight=20
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def unit_text(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the unit that runs `command`, an absolute path and its arguments."""
    if any(each in command[0] for each in "\"'\\"):  # systemd runs no program of such a name
        command = ("/usr/bin/env", *command)
    # ":" keeps systemd from replacing $names, which it can't quote in a program's path
    words = ":" + " ".join(_quoted(word) for word in command)
    lines = (f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items())
    return _UNIT.format(
        mark=MARK, command=words, environment="".join(lines), stop_seconds=STOP_SECONDS
    )


def _quoted(word: str) -> str:
    """Return `word` as systemd.syntax(7) quotes it, without specifiers such as %h."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
