"""The rounds before one that is sealed: a ban takes back what a liar said in them.

Every peer has to take back the same. Who was not there asks the others for what they said.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from dht.swarm import NetworkError
from node.chain.seal import PastChain, candidate_logs, chain_rules, ledger_after
from node.chain.sync import BlockServer, SealedRound, ask_for_blocks
from node.run.setting import RunSetting
from node.store.keeper import StateKeeper
from node.store.outline import Outlined
from node.transfer.sources import FetchError, Sources
from node.transfer.transfer import fetch_outline
from protocol.blocks import MAX_BLOCK_BYTES, Block, OpenBlock, log_chunks, open_block
from protocol.errors import ProtocolError, TalkootError
from protocol.identity import PeerId
from protocol.merkle import root_of
from protocol.rollcall import Roll, RollCall, open_roll
from protocol.signing import unseal
from protocol.state import FLOAT_BYTES
from protocol.tickets import VIEW_BYTES
from trust.admission import bans_of, judges_of

log = logging.getLogger(__name__)

BEFORE_SECONDS = 20.0
"""For all rounds before one. Who has not got them by then does without, and will be outvoted."""
ASK_SECONDS = 8.0
"""For one peer to give one of them."""

Passed = Mapping[bytes, tuple[Outlined, SealedRound]]
"""Rounds by the root of the state that each grew from, and that state."""


class History:
    """Finds the rounds before, here or at others.

    Args:
        setting: the run.
        keeper: the states that this peer held.
        blocks: the rounds that it sealed.
    """

    def __init__(self, setting: RunSetting, keeper: StateKeeper, blocks: BlockServer) -> None:
        self._set = setting
        self._keeper = keeper
        self._blocks = blocks

    async def before(
        self, state: Outlined, roll: Roll, passed: Passed | None = None
    ) -> list[PastChain]:
        """Return the rounds before a state that the bans of a roll call take back from.

        None without bans. Of what can't be had, and of what is older, nothing is taken back.

        Args:
            state: the state.
            roll: the roll call of the round that grew from it.
            passed: rounds that are neither kept nor served here yet.
        """
        spec, stewards = self._set.manifest.trust, self._set.stewards
        found: list[PastChain] = []
        if not bans_of(roll, state.ledger, spec, stewards):
            return found
        judges = judges_of(roll, state.ledger, spec, stewards)
        peers = sorted(roll.peers, key=lambda peer: peer not in judges)
        others = [peer for peer in peers if peer != self._set.identity.peer_id]
        try:
            async with asyncio.timeout(BEFORE_SECONDS):
                while len(found) < spec.kept_rounds and state.header.round > 0:
                    state, sealed = await self._round_to(state, others, passed or {})
                    chain = await asyncio.to_thread(PastChain.of, self._set, state, sealed)
                    found.append(chain)
        except (TalkootError, TimeoutError) as error:
            log.warning("what was said before round %d can't be had: %s", state.header.round, error)
        return found[::-1]

    async def _round_to(
        self, state: Outlined, others: Sequence[PeerId], passed: Passed
    ) -> tuple[Outlined, SealedRound]:
        """Return the round that led to a state, and the state that it grew from."""
        root = state.header.prev_root
        if root in passed:
            return passed[root]
        before = self._keeper.outline(root)
        if before is None:
            size = 2 * FLOAT_BYTES * state.layout.size
            before = await fetch_outline(
                Sources(self._set.swarm, self._set.run, others), root, size
            )
        sealed = self._blocks.find(root)
        if sealed is None:
            sealed = await self._fetch(before, state, others)
            self._blocks.keep(root, sealed)
        return before, sealed

    async def _fetch(
        self, state: Outlined, after: Outlined, others: Sequence[PeerId]
    ) -> SealedRound:
        """Return the round that led from one state to another."""
        for peer in others:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    sealed, roll = await fetch_round(self._set, peer, state)
                if await asyncio.to_thread(self._leads_to, state, after, sealed, roll):
                    return sealed
            except (NetworkError, ProtocolError, TimeoutError) as error:
                log.info("%s doesn't give round %d: %s", peer, state.header.round, error)
            else:
                log.info("what %s gives of round %d isn't agreed", peer, state.header.round)
        raise FetchError(f"nobody has the blocks of round {state.header.round}")

    def _leads_to(self, state: Outlined, after: Outlined, sealed: SealedRound, roll: Roll) -> bool:
        """Return whether members committed to this chain, and it gives everybody what is agreed.

        The roll call is what the answering peer gives, so its word alone isn't enough.

        Raises:
            RoundError: it is no chain.
        """
        judges = judges_of(roll, state.ledger, self._set.manifest.trust, self._set.stewards)
        committed = {root for root, _ in candidate_logs(roll, judges)}
        if root_of(log_chunks(sealed.blocks))[0] not in committed:
            return False
        chain = PastChain.of(self._set, state, sealed)
        return ledger_after(self._set, state.ledger, roll, chain) == after.ledger


async def fetch_round(
    setting: RunSetting, peer: PeerId, state: Outlined
) -> tuple[SealedRound, Roll]:
    """Return the round that grew from a state, as a peer has it; whether it is a chain is open.

    Raises:
        NetworkError: it doesn't answer, or doesn't have it any more.
        ProtocolError: it answers with something else.
    """
    run, blocks, more = setting.run, list[OpenBlock](), True
    roll = b""
    while more:
        marks = [state.root[:VIEW_BYTES], *(block.digest[:VIEW_BYTES] for block in blocks)]
        reply = await ask_for_blocks(setting.swarm, run, peer, state.root, marks)
        if reply.roll is None or (reply.more and not reply.blocks):
            raise NetworkError("it doesn't have them any more")
        blocks += await asyncio.to_thread(_opened, run, reply.blocks)
        if len(blocks) > chain_rules(setting).blocks:
            raise NetworkError("it gives more blocks than a round has")
        roll, more = reply.roll, reply.more
    found = open_roll(unseal(roll, run, RollCall), run, setting.terms)
    if (found.round, found.prev_root) != (state.header.round, state.root):
        raise NetworkError("its roll call is another round's")
    return SealedRound(tuple(blocks), roll), found


def _opened(run: bytes, envelopes: Sequence[bytes]) -> list[OpenBlock]:
    return [open_block(unseal(each, run, Block, MAX_BLOCK_BYTES), run) for each in envelopes]
