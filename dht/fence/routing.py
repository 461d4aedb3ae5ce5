"""One place in the Kademlia key space for each identity.

Stock hivemind believes the DHTID that a peer claims: one identity that announced 240 of them stood
between a node and the whole swarm within 0.5 s. Here the id is the hash of the PeerID, which p2pd
has authenticated, in every table and in every answer.
"""

from dht.addresses import peer_id_of_bytes
from dht.engine import DHTID, PeerID, RoutingTable
from dht.fence.refusals import RefusedRequestError


def node_id_of(peer: PeerID) -> DHTID:
    """Return the DHTID of a hivemind `PeerID`.

    Raises:
        SignatureError: not of an Ed25519 key.
    """
    peer_id_of_bytes(peer.to_bytes())
    return DHTID.generate(source=peer.to_bytes())


def neighbour(node_id: bytes, peer: bytes) -> tuple[DHTID, PeerID]:
    """Return the (DHTID, PeerID) that another peer names as a neighbour of a key.

    Raises:
        SignatureError: not the PeerID of an Ed25519 key.
        RefusedRequestError: the DHTID is not this peer's.
    """
    peer_id_of_bytes(peer)  # before hivemind's PeerID, which encodes any length in quadratic time
    found = PeerID(peer)
    expected = node_id_of(found)
    if expected.to_bytes() != node_id:
        raise RefusedRequestError("foreign_node_id", f"{found} is not at the place named")
    return expected, found


class FencedRoutingTable(RoutingTable):  # type: ignore[misc]  # hivemind is untyped
    """hivemind's routing table with derived ids, and bounded as its `replacement_nodes` are not."""

    def add_or_update_node(self, node_id: DHTID, peer_id: PeerID) -> tuple[DHTID, PeerID] | None:
        """Note that `peer_id` is alive; return a node to ping if its bucket is full.

        Raises:
            RefusedRequestError: `node_id` is not this peer's.
        """
        if node_id != node_id_of(peer_id):
            raise RefusedRequestError("foreign_node_id", f"{peer_id} claims another's place")
        stale: tuple[DHTID, PeerID] | None = super().add_or_update_node(node_id, peer_id)
        bucket = self.buckets[self.get_bucket_index(node_id)]
        while len(bucket.replacement_nodes) > self.bucket_size:
            oldest, peer = next(iter(bucket.replacement_nodes.items()))
            del bucket.replacement_nodes[oldest]
            self.uid_to_peer_id.pop(oldest, None)
            self.peer_id_to_uid.pop(peer, None)
        return stale
