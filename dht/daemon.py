"""p2pd, the libp2p daemon that hivemind bundles: a child process and its control socket.

The process is started here and not by `hivemind.P2P.create`, which exposes neither gossipsub nor
the relay's switch, keeps the daemon's last words to itself, never notices its death and puts the
control socket into a folder that everyone shares. p2pd ends by itself when the last persistent
connection to it closes (`dht.fence.control` holds one), so that a killed node leaves none behind.

    NetworkError
    ├── DaemonStartError     p2pd did not start, or can't listen where it should
    ├── DaemonRefusedError   p2pd did not do what was asked: no such peer, no answer, no protocol
    └── DaemonGoneError      p2pd has ended
"""

import asyncio
import contextlib
import errno
import importlib.util
import json
import logging
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from dht.engine import p2pd_pb2, read_pbmsg_safe, write_pbmsg
from dht.socket_folder import socket_folder
from dht.swarm import NetworkError
from dht.tasks import OwnedTasks

START_TRIES = 3
START_SECONDS = 20.0
"""A loaded machine needs a while: 3 tries make 60 s."""
_STOP_SECONDS = 5.0
_IDENTIFY_SECONDS = 3.0
_CLIENT_SECONDS = 30
"""p2pd ends if no client holds a persistent connection within this time after its start."""
_HEARTBEAT = "300ms"
"""Of gossipsub, 1 s by default: a new subscriber may miss what is said before the first one. Too
short is no good either: a lost message can be asked for again for five of them."""
ROUTING_RETRY_SECONDS = (0.1, 0.3, 0.6)
_ENVIRONMENT = {"GOLOG_LOG_LEVEL": "error", "GOLOG_LOG_FMT": "json", "GOMEMLIMIT": "64MiB"}
"""It needs 30 MiB. Above the limit Go collects garbage at once: a flood of broadcasts made it grow
by 116 MiB, and by 16 MiB with the limit."""
_READ_BYTES = 1 << 20
_WORDS_CHARACTERS = 500
_CONTROL = "control.sock"
_SETTINGS = "p2pd.json"
logger = logging.getLogger(__name__)

Channel = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class DaemonStartError(NetworkError):
    """The libp2p daemon could not be started."""

    code = "daemon_start"


class DaemonRefusedError(NetworkError):
    """The libp2p daemon did not do what was asked."""

    code = "daemon_refused"


class DaemonGoneError(NetworkError):
    """The libp2p daemon has ended."""

    code = "daemon_gone"

    def __init__(self, message: str = "the libp2p daemon has ended") -> None:
        super().__init__(message, hint="The network comes back when the node restarts it.")


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """How this peer meets the network."""

    identity_path: Path
    """A libp2p Ed25519 PrivateKey file (`protocol.identity.Identity.to_libp2p`)."""
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    """TCP multiaddrs; port 0 takes any."""
    announce: tuple[str, ...] = ()
    """Multiaddrs to tell others instead of those that the daemon finds out."""
    client_mode: bool = False
    """Behind a NAT: keep no records for others and answer no searches."""
    relays: tuple[str, ...] = ()
    """Multiaddrs of peers through which others may reach this one, each once."""
    serve_relay: bool = False
    """Carry the traffic of peers that can't be reached otherwise."""


class Daemon:
    """A running p2pd while the context lasts; `last_words` is the last line that it wrote.

    `closed` is set as soon as it has ended.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._tasks = OwnedTasks()
        self.last_words = "it said nothing"
        self._process: asyncio.subprocess.Process | None = None
        self._folder = ""
        self._resources = contextlib.ExitStack()
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        for address in self._config.listen:
            _check_free(address)
        with contextlib.ExitStack() as resources:
            self._folder = str(resources.enter_context(socket_folder()))
            _write_settings(Path(self._folder, _SETTINGS), self._config)
            try:
                await self._start()
            except BaseException:
                await self._stop()
                raise
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._stop()
        finally:
            self._resources.close()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid if self._process else 0

    @property
    def resident_bytes(self) -> int:
        """What the process has in memory; 0 when it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.pid else 0
        except psutil.Error:
            return 0

    @property
    def listens(self) -> bool:
        """Whether it was told to listen at all."""
        return bool(self._config.listen)

    @property
    def handler_path(self) -> str:
        """Where p2pd brings incoming streams: a socket to listen on."""
        return f"{self._folder}/streams.sock"

    async def open_channel(self, buffer_bytes: int = _READ_BYTES) -> Channel:
        """Open a connection to the control socket, which the caller closes.

        Raises:
            DaemonGoneError: p2pd has ended.
        """
        try:
            return await asyncio.open_unix_connection(self._control_path, limit=buffer_bytes)
        except OSError as error:
            raise DaemonGoneError from error

    async def request(self, request: p2pd_pb2.Request) -> p2pd_pb2.Response:
        """Return p2pd's response to a `p2pd_pb2.Request`. Deadlines are the caller's.

        Raises:
            DaemonRefusedError: p2pd says no.
            DaemonGoneError: p2pd has ended.
        """
        channel = await self.open_channel()
        try:
            return await ask(channel, request)
        finally:
            channel[1].close()

    async def identify(self) -> p2pd_pb2.IdentifyResponse:
        """Return p2pd's `IdentifyResponse`: PeerID and addresses, both in bytes.

        Raises:
            NetworkError: p2pd has ended or hangs.
        """
        try:
            async with asyncio.timeout(_IDENTIFY_SECONDS):
                request = p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY)
                return (await self.request(request)).identify
        except TimeoutError as error:
            raise DaemonRefusedError("the libp2p daemon does not answer") from error

    @property
    def _control_path(self) -> str:
        return f"{self._folder}/{_CONTROL}"

    async def _start(self) -> None:
        for attempt in range(START_TRIES):
            if await self._started():
                self._tasks.spawn(self._watch(), "p2pd's end")
                return
            logger.info("p2pd did not start, try %d: %s", attempt + 1, self.last_words)
        raise DaemonStartError(
            f"the libp2p daemon (p2pd) did not start: {self.last_words}",
            hint="Look at the line above; a machine under heavy load may just need another try.",
        )

    async def _started(self) -> bool:
        await self.kill()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *arguments(self._config, self._folder),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=os.environ | _ENVIRONMENT,
                # Ctrl-C is for the node, which stops p2pd last. In a session of its own Linux would
                # schedule p2pd as another program (autogroup): that made exchanges half as fast.
                process_group=0,
            )
        except OSError as error:
            raise DaemonStartError(
                f"p2pd can't be run on this machine: {error}", hint="See: talkoot doctor"
            ) from error
        ready = asyncio.get_running_loop().create_future()
        self._tasks.spawn(self._read(self._process, ready), "p2pd's output")
        done, _ = await asyncio.wait({ready}, timeout=START_SECONDS)
        return bool(done) and ready.result()

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Future[bool]) -> None:
        output = process.stdout
        with contextlib.suppress(EOFError):
            while output:
                line = await _read_line(output)
                self.last_words = line or self.last_words
                logger.debug("p2pd: %s", line)
                if line.startswith("Peer ID:") and not ready.done():
                    ready.set_result(True)
        if not ready.done():
            ready.set_result(False)

    async def _watch(self) -> None:
        if self._process:
            code = await self._process.wait()
            logger.debug("p2pd ended with %d: %s", code, self.last_words)
        self.closed.set()

    async def _stop(self) -> None:
        await self._signal(signal.SIGTERM, _STOP_SECONDS)
        await self.kill()
        self.closed.set()
        await self._tasks.cancel()

    async def kill(self) -> None:
        """End p2pd at once, even one that is stopped or hangs."""
        await self._signal(signal.SIGKILL, _STOP_SECONDS)

    async def _signal(self, number: signal.Signals, seconds: float) -> None:
        """Signal p2pd and wait for its end.

        Not by `Process.send_signal`: it reaps a child that has just ended by itself, as p2pd does,
        before asyncio's watcher can, which then warns of an unknown process.
        """
        process = self._process
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()


async def _read_line(output: asyncio.StreamReader) -> str:
    try:
        line = await output.readuntil()
    except asyncio.LimitOverrunError as error:
        line = await output.readexactly(error.consumed)
    return line.decode(errors="replace").strip()[:_WORDS_CHARACTERS]


async def ask(channel: Channel, request: p2pd_pb2.Request) -> p2pd_pb2.Response:
    """Return p2pd's response to `request` on an open channel.

    Raises:
        DaemonRefusedError: p2pd says no.
        DaemonGoneError: p2pd has ended.
    """
    reader, writer = channel
    response = p2pd_pb2.Response()
    try:
        await write_pbmsg(writer, request)
        await read_pbmsg_safe(reader, response)
    except (OSError, EOFError) as error:
        raise DaemonGoneError from error
    if response.type == p2pd_pb2.Response.ERROR:
        raise DaemonRefusedError(response.error.msg[:300])
    return response


def is_unrouted(message: str) -> bool:
    """Tell whether p2pd failed because its address book does not know the peer, perhaps yet.

    A connection is in the book some 50 ms after it was made, so this is worth
    `ROUTING_RETRY_SECONDS`.
    """
    return "failed to find any peer in table" in message or "routing: not found" in message


def _write_settings(path: Path, config: DaemonConfig) -> None:
    """Write what no flag can say: p2pd serves as a relay to all unless relays are off in here.

    Peers behind a relay can be dialled either way.
    """
    relays = config.serve_relay or bool(config.relays)
    path.write_text(json.dumps({"Relay": {"Enabled": relays}}))


def arguments(config: DaemonConfig, folder: str) -> list[str]:
    """Return the command line of p2pd.

    TCP only, since p2pd puts no limits on QUIC; Noise and TLS; the libp2p DHT serves as address
    book (`peer routing`), so that a peer is found by its PeerID alone.
    """
    flags: dict[str, object] = {
        "f": f"{folder}/{_SETTINGS}",
        "listen": f"/unix{folder}/{_CONTROL}",
        "id": config.identity_path,
        "idleTimeout": f"{_CLIENT_SECONDS}s",
        "connManager": 1,
        "autonat": 1,
        "natPortMap": int(not all(_is_loopback(address) for address in config.listen)),
        "dhtClient" if config.client_mode else "dhtServer": 1,
        "pubsub": 1,
        "pubsubRouter": "gossipsub",
        "gossipsubHeartbeatInterval": _HEARTBEAT,
        "relay": int(config.serve_relay or bool(config.relays)),
        "relayService": int(config.serve_relay),
    }
    if config.listen:
        flags["hostAddrs"] = ",".join(config.listen)
    else:
        flags["noListenAddrs"] = 1
    if config.announce:
        flags["announceAddrs"] = ",".join(config.announce)
    if config.relays:  # with discovery on, AutoRelay waits for candidates before it reserves
        flags |= {"autoRelay": 1, "relayDiscovery": 0, "trustedRelays": ",".join(config.relays)}
    return [_binary(), *(f"-{name}={value}" for name, value in flags.items())]


def _binary() -> str:
    spec = importlib.util.find_spec("hivemind")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "hivemind_cli", "p2pd") if folders else Path("p2pd")
    if not path.is_file():
        raise DaemonStartError(
            f"{path} is missing", hint="Install hivemind from its wheel: pip install hivemind"
        )
    return str(path)


def _is_loopback(address: str) -> bool:
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def _check_free(address: str) -> None:
    """Check that `address` can be listened on; p2pd would share a taken port without a word."""
    match address.split("/"):
        case ["", "ip4" | "ip6" as version, host, "tcp", port] if port.isdecimal():
            family = socket.AF_INET if version == "ip4" else socket.AF_INET6
        case _:
            raise DaemonStartError(
                f"{address} is not a TCP address to listen on",
                hint="For example /ip4/0.0.0.0/tcp/0",
            )
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
            probe.listen()
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            raise DaemonStartError(
                f"port {port} is taken" if taken else f"can't listen on {address}: {error}",
                hint="End the other program, or listen on another port; 0 takes a free one.",
            ) from error
