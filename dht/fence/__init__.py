"""What stock hivemind gets wrong when strangers speak to it, closed without forking it.

    refusals    counts what is refused and from whom; bounds how much one peer may ask
    control     the connection to p2pd: survives late answers, bounds requests in flight
    routing     one Kademlia id for each identity
    protocol    the DHT's three procedures: every value is a signed record, checked before use
    node        searches, storing and fetching

Nothing is patched: each class takes the place of hivemind's by inheritance. Records themselves are
judged by `dht.records` and kept by `dht.record_store`.
"""
