"""A peer's own work in a round: asks the trainer until it succeeds, and says what goes wrong."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from node.exchange.wire import Floats
from node.methods.local import LocalSettings, TrainPlan
from node.run.setting import RunSetting, Tally
from node.store.state import State
from node.training.permit import Permit
from node.training.trainer import Progress, Trainer, TrainResult
from protocol.errors import ManifestError, TalkootError
from protocol.identity import PeerId
from protocol.rollcall import Commitment
from protocol.seeds import batch_seed
from protocol.signing import Signed

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
"""The wait doubles with each failure in a row."""
STEPS_WITHOUT_LIMIT = 10_000
"""Steps of a round that ends by samples, not by steps; deadlines end it long before."""


async def wait_permitted(permit: Permit, tally: Tally, say: Callable[[], None]) -> None:
    """Return once training may run; `say` tells the others that they need not wait, or may."""
    if permit.is_open:
        return
    tally.paused, tally.samples_per_second = True, 0.0
    say()
    await permit.wait_open()
    tally.paused = False
    say()


class OtherModelError(ManifestError):
    """The installed task builds another model than the one that the run trains."""

    def __init__(self) -> None:
        super().__init__(
            "the task builds another model than the one the run trains",
            hint="Install the talkoot version that the host uses.",
        )


class Training:
    """Trains from agreed states, one after the other.

    Args:
        setting: the run and what this peer brings.
        trainer: computes updates.
        tally: is told of progress and trouble.
        on_samples: takes the number of samples done in the round so far.
        on_trouble: is called when the trainer has failed.
    """

    def __init__(
        self,
        setting: RunSetting,
        trainer: Trainer,
        tally: Tally,
        on_samples: Callable[[int], None],
        on_trouble: Callable[[], None],
    ) -> None:
        self.settings = LocalSettings.read(setting.manifest.method.settings)
        self._set = setting
        self._trainer = trainer
        self._tally = tally
        self._on_samples = on_samples
        self._on_trouble = on_trouble
        self._stop = asyncio.Event()
        self._average: tuple[int, Floats | None] = (-1, None)

    @property
    def most_steps(self) -> int:
        """No peer can do more in a round."""
        return self._set.manifest.round.local_steps or STEPS_WITHOUT_LIMIT

    def check(self, state: State) -> None:
        """Check that the trainer's model is the one of this state.

        Raises:
            OtherModelError: it is not.
        """
        if self._trainer.layout != state.layout:
            raise OtherModelError

    def begin(self) -> None:
        """A round begins: what was stopped was the training of the one before."""
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Let the round's training end with what it has done, or with one step."""
        self._stop.set()

    async def train(self, state: State) -> TrainResult:
        """Train the round after `state`; a trainer that fails is asked again later.

        Raises:
            OtherModelError: the trainer's model is another one.
        """
        self.check(state)
        if not self._tally.paused:
            self._tally.reason = ""
        plan = self._plan(state, self._set.identity.peer_id)
        stop, seconds = self._stop, RETRY_SECONDS
        while True:
            await self.wait_permitted()
            try:
                result = await self._trainer.train(state.params, plan, stop, self._on_progress)
            except TalkootError as error:
                if error.code == "interrupted":
                    continue
                self._note_failure(error)
                if error.code == "diverged":  # as it will from this state: wait for another one
                    seconds = max(seconds, self._set.manifest.round.max_seconds)
                await asyncio.sleep(seconds)
                seconds = max(seconds, min(2 * seconds, LONGEST_RETRY_SECONDS))
            else:
                self._tally.reason, self._tally.paused = "", False
                return replace(result, update=self._averaged(result.update, state.round))

    async def wait_permitted(self) -> None:
        """Return once training may run; meanwhile nobody needs to wait for us."""
        await wait_permitted(self._set.permit, self._tally, self._on_trouble)

    def _averaged(self, update: Floats, round_: int) -> Floats:
        """Return the worker momentum with this update; what a missed round interrupts begins anew.

        m ← β·m + (1-β)·Δ (Karimireddy, He, Jaggi 2021, algorithm 1).
        """
        beta = self.settings.worker_momentum
        if not beta:
            return update
        last, average = self._average
        if average is not None and last == round_ - 1:
            update = np.float32(beta) * average + np.float32(1 - beta) * update
        self._average = round_, update
        return update

    async def repeat(self, state: State, signed: Signed[Commitment]) -> TrainResult:
        """Do the work after `state` that another peer committed to.

        Raises:
            TrainerError: it could not be done.
        """
        self.check(state)
        plan = self._plan(state, signed.signer, limit=signed.message.steps)
        self._tally.reason = "checking the work of another peer"
        try:
            return await self._trainer.train(state.params, plan, asyncio.Event(), lambda _: None)
        finally:
            self._tally.reason = ""

    def _note_failure(self, error: TalkootError) -> None:
        log.error("training stopped: %s", error)
        self._tally.reason = f"training stopped: {error.message}. {error.hint}".strip()
        self._tally.paused = True
        self._on_trouble()

    def _plan(self, state: State, peer: PeerId, limit: int | None = None) -> TrainPlan:
        rules = self._set.manifest.round
        return TrainPlan(
            round=state.round,
            seed=batch_seed(self._set.run, state.round, peer),
            steps=self.most_steps,
            total_rounds=rules.total,
            settings=self.settings,
            limit=limit,
        )

    def _on_progress(self, progress: Progress) -> None:
        self._tally.reason, self._tally.paused = "", False
        self._tally.samples_per_second = progress.samples_per_second
        self._tally.samples_in_round = progress.samples
        if steps := self._set.manifest.round.local_steps:
            self._tally.progress = progress.steps / steps
        self._on_samples(progress.samples)
