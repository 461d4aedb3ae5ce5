"""What `talkoot top` draws: lines for a terminal of any size. Pure.

state and reason                          the node
its runs, with round, loss, throughput
memory, network, loss as a curve, warnings
peers, as many as fit
what happened lately
keys
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from node.api.contribution_words import node_words
from node.cli.screen import number, percent, plain, short_peer, size
from node.cli.top_model import TopModel
from protocol.control import MemoryUse, Peer, RunStatus, Status, Traffic

_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_MOST_RUNS = 4
_LEAST_PEERS = 3
_CURVE_CELLS = 60
_STATE_STYLES = {"contributing": "bold green", "finishing": "bold yellow", "paused": "bold yellow"}


class TopView:
    """The model as rich draws it, in the size that the terminal has at that moment."""

    def __init__(self, model: TopModel, *, is_ascii: bool = False) -> None:
        self._model = model
        self._blocks = _ASCII_BLOCKS if is_ascii else _BLOCKS

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        height = options.height or console.size.height
        lines = lines_of(self._model, options.max_width, height, self._blocks)
        yield Text("\n", end="").join(lines)


def lines_of(model: TopModel, width: int, height: int, blocks: str = _BLOCKS) -> list[Text]:
    """Return exactly `height` lines of at most `width` cells."""
    head = list(_head(model, blocks))
    foot = [_keys(model)]
    if height >= 20:
        foot = [*_happened(model, 3), *foot]
    room = max(height - len(head) - len(foot), 0)
    body = _peers(model, width, room) if room > _LEAST_PEERS else []
    empty = [Text()] * max(height - len(head) - len(body) - len(foot), 0)
    lines = [*head, *body, *empty, *foot]
    if len(lines) > height:
        lines = [*lines[: max(height - 1, 0)], *foot[-1:]][:height]
    return [_fitted(line, width, dim=bool(model.trouble)) for line in lines]


def _fitted(line: Text, width: int, *, dim: bool) -> Text:
    fitted = Text(style="dim") if dim else Text()
    fitted.append_text(line)
    fitted.truncate(width, overflow="ellipsis")
    fitted.no_wrap = True
    return fitted


# the head


def _head(model: TopModel, blocks: str) -> Iterator[Text]:
    yield _headline(model)
    if model.status is None:
        return
    yield _node(model.status)
    runs = model.status.runs
    yield from (_run(run) for run in runs[:_MOST_RUNS])
    if len(runs) > _MOST_RUNS:
        yield Text(f"and {len(runs) - _MOST_RUNS} more runs: talkoot runs")
    if not runs:
        yield Text("No runs. Join one with: talkoot join LINK")
    if usage := _usage(model.status.memory, model.status.traffic):
        yield Text(usage)
    if curve := _curve(model, blocks):
        yield curve
    yield from (Text(each, "yellow") for each in _warnings(model))
    yield Text()


def _headline(model: TopModel) -> Text:
    if model.trouble:
        gone = "node gone, waiting" if model.status else "waiting"
        return Text.assemble((gone, "bold red"), f": {plain(model.trouble)}")
    if model.contribution is None:
        return Text("talkoot", "bold")
    words = node_words(model.contribution, model.status.runs if model.status else ())
    return Text(plain(words, 300), _STATE_STYLES[model.contribution.state])


def _node(status: Status) -> Text:
    name = (plain(status.name, 40), "bold")
    reason = f" ({plain(status.network_reason)})" if status.network_reason else ""
    where = f"{short_peer(status.peer_id)}  network {status.network}{reason}"
    return Text.assemble(name, f"  {where}  talkoot {plain(status.version, 20)}")


def _run(run: RunStatus) -> Text:
    total = "" if run.rounds_total is None else f"/{run.rounds_total}"
    progress = "" if run.state == "finished" else f", {percent(run.progress)}"
    reason = f"  {plain(run.reason)}" if run.reason else ""
    rejected = f", {run.samples_rejected:,} rejected" if run.samples_rejected else ""
    return Text.assemble(
        (plain(run.name, 24), "bold cyan"),
        f"  {run.state.replace('_', ' ')}  round {run.round}{total}{progress}  "
        f"loss {number(run.loss, 3)}  {number(run.samples_per_second)} /s  {run.peers} peers  "
        f"accepted {run.samples_accepted:,} of {run.samples_mine:,}{rejected}{reason}",
    )


def _usage(memory: MemoryUse | None, traffic: Traffic | None) -> str:
    parts = []
    if memory is not None:
        limit = "" if memory.limit is None else f" of {size(memory.limit)}"
        parts.append(f"memory {size(memory.used)}{limit}")
    if traffic is not None:
        limit = "" if traffic.month_limit is None else f" of {size(traffic.month_limit)}"
        parts.append(f"up {size(int(traffic.up_per_second))}/s")
        parts.append(f"down {size(int(traffic.down_per_second))}/s")
        parts.append(f"month {size(traffic.month)}{limit}")
    return "  ".join(parts)


def _curve(model: TopModel, blocks: str) -> Text | None:
    values = [point.value for point in model.losses.points] if model.losses else []
    if len(values) < 2 or model.losses is None:
        return None
    hours = (model.losses.points[-1].at - model.losses.points[0].at) / 3600
    span = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h"
    return Text.assemble(
        f"loss in {span}  {number(values[0], 3)} ",
        (sparkline(values, _CURVE_CELLS, blocks), "cyan"),
        f" {number(values[-1], 3)}",
    )


def sparkline(values: Sequence[float], cells: int, blocks: str = _BLOCKS) -> str:
    """Return `values` as a curve of at most `cells` characters, each the mean of its part."""
    cells = min(cells, len(values))
    means = [_mean(values, index, cells) for index in range(cells)]
    least, most = min(means, default=0.0), max(means, default=0.0)
    top = len(blocks) - 1
    scale = top / (most - least) if most > least else 0.0
    return "".join(blocks[min(round((mean - least) * scale), top)] for mean in means)


def _mean(values: Sequence[float], index: int, cells: int) -> float:
    part = values[len(values) * index // cells : len(values) * (index + 1) // cells]
    return sum(part) / len(part)


def _warnings(model: TopModel) -> Iterable[str]:
    if model.contribution is not None:
        yield from (plain(sentence) for sentence in model.contribution.unknown[:1])
    runs = model.status.runs if model.status else ()
    for run in runs[:_MOST_RUNS]:
        yield from (f"{plain(run.name, 24)}: {plain(warning)}" for warning in run.warnings[:1])


# the peers


def _name(peer: Peer) -> str:
    return f"{plain(peer.name, 40) or short_peer(peer.id)}{' (you)' if peer.me else ''}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{number(1000 * seconds, 0)} ms"


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cells: int
    text: Callable[[Peer], str]
    from_cells: int = 0
    """The least width of the terminal that has room for it."""
    is_number: bool = False


_COLUMNS = (
    _Column("Peer", 22, _name),
    _Column("State", 11, lambda peer: plain(peer.state, 20).replace("_", " ") or "-"),
    _Column("Round", 6, lambda peer: "-" if peer.round is None else str(peer.round), 0, True),
    _Column("/s", 8, lambda peer: number(peer.samples_per_second), 0, True),
    _Column("Share", 7, lambda peer: "dropped" if peer.dropped else percent(peer.share), 0, True),
    _Column("Rep.", 5, lambda peer: number(peer.reputation, 2), 0, True),
    _Column("Standing", 11, lambda peer: peer.standing),
    _Column("Latency", 8, lambda peer: _milliseconds(peer.latency_seconds), 90, True),
    _Column("Link", 7, lambda peer: peer.address, 100),
    _Column("Samples", 11, lambda peer: f"{peer.accepted_samples:,}", 112, True),
    _Column("Device", 18, lambda peer: plain(peer.device, 40) or "-", 132),
    _Column("PeerID", 9, lambda peer: short_peer(peer.id), 144),
)


def _peers(model: TopModel, width: int, room: int) -> list[Text]:
    columns = [column for column in _COLUMNS if width >= column.from_cells]
    found = model.shown_peers()
    rows = room - 1
    model.first_row = max(0, min(model.first_row, len(found) - rows))
    shown = found[model.first_row : model.first_row + rows]
    return [_titles(columns, model, len(found)), *(_row(columns, peer) for peer in shown)]


def _titles(columns: Sequence[_Column], model: TopModel, count: int) -> Text:
    counts = f"Peers {count:,}" if not model.filter else f"{count:,} of {len(model.peers):,}"
    titles = [counts, *(column.title for column in columns[1:])]
    return Text(_cells(columns, titles), "bold underline")


def _row(columns: Sequence[_Column], peer: Peer) -> Text:
    texts = [column.text(peer) for column in columns]
    return Text(_cells(columns, texts), _peer_style(peer))


def _cells(columns: Sequence[_Column], texts: Sequence[str]) -> str:
    return " ".join(
        set_cell_size(text, column.cells)
        if not column.is_number
        else set_cell_size(text.rjust(column.cells), column.cells)
        for column, text in zip(columns, texts, strict=True)
    )


def _peer_style(peer: Peer) -> str:
    if peer.me:
        return "bold"
    return "red" if peer.standing == "banned" or peer.dropped else ""


# the foot


def _happened(model: TopModel, lines: int) -> list[Text]:
    newest = list(model.activity)[-lines:]
    return [Text(f"{_clock(each.at)}  {plain(each.text)}", "dim") for each in newest]


def _clock(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def _keys(model: TopModel) -> Text:
    if model.is_typing:
        return Text.assemble(("filter: ", "bold"), model.filter, ("_", "blink"), "  Enter  Esc")
    if model.message:
        return Text(plain(model.message), "bold")
    asked = model.next_contribution
    paused = {"never": "pause", "auto": "contribute"}.get(asked.mode, "contribute for 1 h")
    chosen = f" ({model.filter})" if model.filter else ""
    keys = {"q": "quit", "p": paused, "s": f"sort: {model.sort}", "/": f"filter{chosen}"}
    words = Text()
    for key, meaning in keys.items():
        words.append(f" {key} ", "reverse").append(f" {meaning}  ")
    return words
