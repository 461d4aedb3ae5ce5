"""What is shown and said of membership: passports, charters, invites, affairs."""

from hashlib import sha256

from protocol.affairs import Affairs
from protocol.codec import decode, encode
from protocol.errors import CodecError, ProtocolError, SignatureError
from protocol.identity import PeerId
from protocol.invites import ask_with, check_redeem, make_invite, read_redeem
from protocol.membership import Charter, Passport, Register, Role
from protocol.signing import seal
from tests.fuzz.choices import Choices
from tests.fuzz.decoder import Decoder, alone
from tests.fuzz.packed import broken_message
from tests.messages import RUN, peer
from tests.test_membership import ANN, BOB, EVE, HOST, KEY, NOW, PRIVATE, certificate, passport

_END = 5000


def decoders() -> list[Decoder]:
    """Return the decoders of what is shown and said of membership."""
    return [
        Decoder(
            name="membership.passport",
            valid=lambda choices: encode(_passport(choices)),
            broken=broken_message,
            scene=alone(_show),
            errors=(ProtocolError,),
        ),
        Decoder(
            name="membership.charter",
            valid=_charter,
            broken=broken_message,
            scene=alone(lambda data: _register().adopt(data, KEY)),
            errors=(ProtocolError,),
        ),
        Decoder(
            name="membership.affairs",
            valid=_affairs,
            broken=broken_message,
            scene=alone(_learn),
            errors=(ProtocolError,),
        ),
        Decoder(
            name="invites.redeem",
            valid=_redeem,
            broken=broken_message,
            scene=alone(_let_in),
            errors=(CodecError, SignatureError),
        ),
    ]


def _register() -> Register:
    return Register(RUN, PRIVATE, BOB.peer_id)


def _passport(choices: Choices) -> Passport:
    if choices.one_in(2):
        return passport(ANN, expires=choices.pick((None, NOW + 1)))
    return passport(ANN, BOB, certificate(BOB, HOST, "steward"))


def _show(data: bytes) -> object:
    shown, register = decode(data, Passport), _register()
    found = register.check(shown, ANN.peer_id, NOW)
    register.welcome(shown)
    return found


def _charter(choices: Choices) -> bytes:
    banned = (EVE.peer_id,) if choices.one_in(2) else ()
    said = Charter(1 + choices.below(9), banned, key_hash=sha256(KEY).digest())
    return seal(HOST, RUN, said).envelope


def _affairs(choices: Choices) -> bytes:
    roster = tuple(_passport(choices) for _ in range(choices.below(3)))
    return encode(Affairs(RUN, _charter(choices), KEY, roster))


def _learn(data: bytes) -> object:
    told, register = decode(data, Affairs), _register()
    if told.charter:
        register.adopt(told.charter, told.key)
    register.welcome_all(told.roster)
    return register.digest()


def _redeem(choices: Choices) -> bytes:
    uses, seed = 1 + choices.below(9), bytes([choices.below(9)]) * 32
    role: Role = choices.pick(("member", "steward"))
    secret = make_invite(HOST, RUN, seed, uses, role, _END)
    asked = ask_with(secret, _END, RUN, peer(4), peer(1), enter=choices.one_in(2))
    return encode(asked)


def _let_in(data: bytes) -> object:
    return check_redeem(read_redeem(data), PeerId(HOST.peer_id), peer(4), peer(1))
