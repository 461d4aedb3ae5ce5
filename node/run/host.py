"""Starting a run: from what a host wants to a signed manifest, a data set and a genesis state."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from node.api.trust_words import check_method, check_trust
from node.chain.genesis import spsa_genesis
from node.methods.spsa.settings import SpsaSettings
from node.store.run_folder import RunFolder
from node.store.state import State
from node.store.storage import Disk, move, telling
from node.tasks import NoGradientError, Task, task_class
from node.training.permit import Permit
from node.training.process import TrainerProcess
from node.training.trainer import LoadedTask, Prober, Resources, TrainerTask
from protocol.control import HostSpec
from protocol.identity import Identity, PeerId, public_key_of
from protocol.manifest import NO_RUN, Manifest, TaskSpec, run_id_of, sign_manifest

_DRAFT = ".draft-"
_FOLLOW_GRADIENTS = frozenset({"local"})


async def found_run(
    spec: HostSpec, identity: Identity, created: float, runs: Path, disk: Disk, resources: Resources
) -> Path:
    """Make the folder of a new run, whole or not at all: manifest, data set and genesis state.

    Args:
        spec: what the host wants.
        identity: the host; it becomes the run's steward.
        created: DHT time in seconds.
        runs: where run folders lie.
        disk: for durable writing.
        resources: what building the model may use.

    Returns:
        The folder, named by the run's id.

    Raises:
        TalkootError: the task, its data or the settings can't be used, or the disk is full.
    """
    check_method(spec.method, spec.round)
    check_trust(spec.trust, spec.method)
    for steward in spec.stewards:
        public_key_of(steward)
    kind = await asyncio.to_thread(task_class, spec.task.kind)  # may import torch
    _check_objective(kind, spec)
    path = Path(spec.task.data) if spec.task.data else None
    data = await asyncio.to_thread(kind.prepare, spec.task.config, path)
    with _draft_in(runs, disk) as draft:
        data_file = await asyncio.to_thread(draft.save_data, data)
        task = TrainerTask(
            spec.task.kind, kind.version, spec.task.config, data_file.path, spec.method
        )
        async with TrainerProcess(Permit(resources)) as trainer:
            loaded = await trainer.load(task)
            genesis = await _genesis(spec, trainer, loaded, identity.peer_id)
        described = TaskSpec(
            kind=spec.task.kind,
            version=kind.version,
            config=spec.task.config,
            data_root=data_file.root,
            data_bytes=data_file.size,
            parameters=genesis.layout.size,
            samples_per_step=loaded.samples_per_step,
        )
        manifest = _manifest(spec, identity, created, described, genesis.root)
        return await asyncio.to_thread(_keep, draft, disk, identity, manifest, genesis)


async def _genesis(spec: HostSpec, trainer: Prober, loaded: LoadedTask, host: PeerId) -> State:
    if spec.method.kind == "spsa":
        settings = SpsaSettings.read(spec.method.settings)
        return await spsa_genesis(settings, trainer, loaded, host, spec.round.min_peers)
    return await asyncio.to_thread(State.genesis, NO_RUN, loaded.layout, loaded.params)


def _check_objective(kind: type[Task], spec: HostSpec) -> None:
    if spec.method.kind in _FOLLOW_GRADIENTS and not kind.differentiable(spec.task.config):
        raise NoGradientError(spec.task.kind)


def remove_drafts(runs: Path) -> None:
    """Remove what a node that was killed while founding a run left behind."""
    for path in runs.glob(f"{_DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _draft_in(runs: Path, disk: Disk) -> Iterator[RunFolder]:
    draft = RunFolder(runs / f"{_DRAFT}{token_hex(4)}", NO_RUN, disk)
    try:
        draft.create()
        yield draft
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def _manifest(
    spec: HostSpec,
    identity: Identity,
    created: float,
    task: TaskSpec,
    genesis_root: bytes,
) -> Manifest:
    return Manifest(
        name=spec.name,
        description=spec.description,
        licence=spec.licence,
        host=identity.peer_id,
        created=created,
        task=task,
        method=spec.method,
        round=spec.round,
        trust=spec.trust,
        admission=spec.admission,
        stewards=tuple(dict.fromkeys((identity.peer_id, *spec.stewards))),
        genesis_root=genesis_root,
    )


def _keep(
    draft: RunFolder, disk: Disk, identity: Identity, manifest: Manifest, genesis: State
) -> Path:
    run = run_id_of(manifest)
    folder = RunFolder(draft.path, run, disk)
    vectors = genesis.params, genesis.momentum
    folder.checkpoints.save(State.of(run, genesis.header, *vectors))
    folder.save_manifest(sign_manifest(identity, manifest).envelope)
    path = draft.path.with_name(run.hex())
    with telling(path.parent, 0):
        move(draft.path, path)
    return path
