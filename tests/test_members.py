"""What a node keeps of who belongs to a run, and what a host can decide."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from dht.memory import MemoryNetwork, MemorySwarm
from dht.swarm import Stream
from dht.virtual_time import run
from node.members.admission import Admitter, Reception
from node.members.authority import Authority, TooManyError
from node.members.members import RunMembers
from node.members.redeem import keep, redeem
from node.store.storage import Disk
from protocol.codec import encode
from protocol.errors import ManifestError
from protocol.hosting import InviteRequest
from protocol.identity import Identity
from protocol.invites import ADMISSION_BYTES, INVITE_PROTOCOL, Admission
from protocol.link import JoinLink
from protocol.manifest import run_id_of, sign_manifest
from tests.messages import identity, manifest, peer

HOST, GUEST, LIAR = (identity(number) for number in (1, 2, 3))
PRIVATE = replace(manifest(), host=HOST.peer_id, stewards=(HOST.peer_id,), admission="invite")
RUN = run_id_of(PRIVATE)
ENVELOPE = sign_manifest(HOST, PRIVATE).envelope
OTHER = sign_manifest(HOST, replace(PRIVATE, name="another")).envelope


def members(folder: Path, me: Identity) -> RunMembers:
    folder.mkdir(exist_ok=True)
    return RunMembers(RUN, PRIVATE, me.peer_id, folder, Disk(), lambda: 1000.0)


def admitter(of: RunMembers) -> Admitter:
    return Admitter(of, HOST, ENVELOPE, lambda: (1, 7))


def test_who_lies_of_the_run_does_not_keep_others_of_the_link_from_answering(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        network, own = MemoryNetwork(1), members(tmp_path, HOST)
        authority = Authority(own, HOST)
        await authority.found()
        made = await authority.invite(InviteRequest())

        async def lie(stream: Stream) -> None:
            await stream.receive()
            await stream.send(encode(Admission(manifest=OTHER, peers=9, round=9)))

        async with (
            MemorySwarm(network, HOST) as host,
            MemorySwarm(network, LIAR) as liar,
            MemorySwarm(network, GUEST) as guest,
            Reception(host, {RUN: admitter(own)}),
        ):
            await liar.serve(INVITE_PROTOCOL, ADMISSION_BYTES, lie)
            await guest.connect([*await host.addresses(), *await liar.addresses()])
            link = JoinLink(RUN, "", (), made.expires, made.secret)
            both = [LIAR.peer_id, HOST.peer_id]
            assert (await redeem(guest, link, both, enter=False)).manifest == ENVELOPE
            with pytest.raises(ManifestError):
                await redeem(guest, link, both[:1], enter=False)

    run(main())


def test_an_admission_leaves_what_was_kept_before(tmp_path: Path) -> None:
    async def main() -> None:
        own = members(tmp_path / "host", HOST)
        authority = Authority(own, HOST)
        await authority.found()
        terms = (made := await authority.invite(InviteRequest())).secret.terms(made.expires)
        admission = admitter(own).answer(terms, GUEST.peer_id, enter=True)
        assert isinstance(admission, Admission)
        before = members(tmp_path / "guest", GUEST)
        before.blocked.add(peer(9))
        await before.save()
        await keep(members(tmp_path / "guest", GUEST), admission)
        after = members(tmp_path / "guest", GUEST)
        await after.load()
        assert after.blocked == {peer(9)}
        assert after.admitted(GUEST.peer_id)

    run(main())


def test_a_list_that_is_full_is_told_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        own = members(tmp_path, HOST)
        authority = Authority(own, HOST)
        await authority.found()
        monkeypatch.setattr("node.members.authority.MAX_ROSTER", 1)
        await authority.ban(peer(7))
        with pytest.raises(TooManyError, match="1 peers are banned"):
            await authority.ban(peer(8))
        invites = [await authority.invite(InviteRequest()) for _ in range(2)]
        await authority.revoke(invites[0].key.hex()[:12])
        with pytest.raises(TooManyError, match="1 invites are taken back"):
            await authority.revoke(invites[1].key.hex()[:12])
        assert own.register.banned == {peer(7)}

    run(main())
