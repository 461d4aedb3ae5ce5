"""A friendly name for a node that its owner didn't name: the same for the same PeerID."""

from hashlib import sha256

_FIRST = (
    "amber autumn bold brave breezy bright calm clever coral crisp dapper eager fern gentle "
    "golden happy hazel ivory jade jolly keen lively lucky mellow merry misty noble olive "
    "plucky quick quiet rapid rosy rustic sage sandy scarlet silver snowy solar spry steady "
    "sunny swift tidy topaz velvet vivid wise witty"
)
_SECOND = (
    "alpaca badger beaver bison bobcat camel condor crane curlew dingo dolphin eagle egret "
    "falcon ferret finch gannet gecko gibbon heron hornet ibex jackal jaguar kestrel koala lemur "
    "lynx magpie marmot marten mole newt ocelot osprey otter panda pelican puffin quail raven "
    "robin seal stoat swallow tapir toucan walrus weasel wombat"
)


def friendly_name(peer_id: str) -> str:
    """Return a name such as "amber-otter"; not unique, and nothing depends on it."""
    digest = sha256(peer_id.encode()).digest()
    first, second = _FIRST.split(), _SECOND.split()
    return f"{first[digest[0] % len(first)]}-{second[digest[1] % len(second)]}"
