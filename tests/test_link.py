import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LinkError
from protocol.invites import LATEST
from protocol.link import LINK_CHARACTERS, MAX_LINK_PEERS, JoinLink, parse_link
from tests.messages import RUN, examples, peer

NOW = 1000.0


def address(number: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{4000 + number}/p2p/{peer(number)}"


LINK = JoinLink(RUN, "Plays & poems", (address(1), address(2)), expires=2000)
TEXT = str(LINK)


def checked(body: str) -> str:
    """Return a link with the right checksum, as anybody can make one."""
    from protocol.link import _checksum

    return f"{body}&c={_checksum(body)}"


def altered(old: str, new: str) -> str:
    body = TEXT.rpartition("&c=")[0]
    assert old in body
    return checked(body.replace(old, new))


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    peers=st.integers(1, MAX_LINK_PEERS),
    expires=st.none() | st.integers(1000, LATEST),
)
@examples(100)
def test_a_link_comes_back_as_it_was_made(name: str, peers: int, expires: int | None) -> None:
    link = JoinLink(RUN, name, tuple(map(address, range(peers))), expires)
    assert parse_link(str(link), NOW) == link
    assert str(link).isascii()
    assert str(link).isprintable()
    assert len(str(link)) < LINK_CHARACTERS


@pytest.mark.parametrize("around", [" {} ", "\n{}\n", "\t{}\r\n"])
def test_white_space_around_a_link_is_ignored(around: str) -> None:
    assert parse_link(around.format(TEXT), NOW) == LINK


def test_a_link_cut_short_anywhere_is_refused_and_said() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(LinkError) as caught:
            parse_link(TEXT[:length], NOW)
        assert "whole link" in caught.value.hint


@pytest.mark.parametrize("other", ["0", "z", "&", "%", "=", "é", "\ud800", "\x00", "\u202e"])
def test_a_link_altered_anywhere_is_refused(other: str) -> None:
    for at in range(len(TEXT)):
        if TEXT[at] != other:
            with pytest.raises(LinkError):
                parse_link(TEXT[:at] + other + TEXT[at + 1 :], NOW)


def test_a_link_with_a_character_more_or_less_is_refused() -> None:
    for at in range(len(TEXT)):
        for wrong in (TEXT[:at] + TEXT[at + 1 :], TEXT[:at] + "a" + TEXT[at:]):
            with pytest.raises(LinkError):
                parse_link(wrong, NOW)


@given(st.text(max_size=50))
@examples(100)
def test_any_text_is_refused(text: str) -> None:
    for hostile in (text, "talkoot:?" + text, "talkoot:?v=1&c=" + text):
        with pytest.raises(LinkError):
            parse_link(hostile, NOW)


@given(st.text(string.printable, max_size=60))
@examples(100)
def test_any_fields_under_a_good_checksum_are_refused(text: str) -> None:
    body = "talkoot:?" + text.encode("ascii").decode()
    with pytest.raises(LinkError):
        parse_link(checked(body), NOW)


def test_an_expired_link_is_refused() -> None:
    assert parse_link(TEXT, 2000.0) == LINK
    with pytest.raises(LinkError, match="expired") as caught:
        parse_link(TEXT, 2000.5)
    assert "new link" in caught.value.hint
    forever = JoinLink(RUN, "", (address(1),))
    assert parse_link(str(forever), 1e18) == forever


@pytest.mark.parametrize("expiry", ["", "soon", "1e9", "nan", "0x9", "9" * 5000])
def test_an_expiry_that_is_no_number_is_refused(expiry: str) -> None:
    with pytest.raises(LinkError):
        parse_link(altered("x=2000", f"x={expiry}"), NOW)


@pytest.mark.parametrize(
    ("old", "new"), [("v=1", "v=2"), ("v=1", "v="), ("v=1&", ""), ("v=1", "v=1&q=5")]
)
def test_a_link_of_a_later_version_is_refused(old: str, new: str) -> None:
    with pytest.raises(LinkError, match=r"later version|can't be read"):
        parse_link(altered(old, new), NOW)


def test_only_an_update_helps_with_a_link_of_a_later_version() -> None:
    with pytest.raises(LinkError) as caught:
        parse_link(altered("v=1", "v=2"), NOW)
    assert (caught.value.code, caught.value.hint[:6]) == ("update_required", "Update")


@pytest.mark.parametrize("run", ["", "zz" * 32, RUN.hex()[:-2], RUN.hex() + "00", "%00" * 64])
def test_a_run_that_is_no_id_is_refused(run: str) -> None:
    with pytest.raises(LinkError):
        parse_link(altered(f"r={RUN.hex()}", f"r={run}"), NOW)


@pytest.mark.parametrize("peers", [0, MAX_LINK_PEERS + 1, 40])
def test_no_peers_and_too_many_are_refused(peers: int) -> None:
    link = JoinLink(RUN, "", tuple(address(number) for number in range(peers)))
    with pytest.raises(LinkError, match=f"1 to {MAX_LINK_PEERS} peers"):
        parse_link(str(link), NOW)


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001/p2p/",
        "/ip4/127.0.0.1/tcp/4001/p2p/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        f"127.0.0.1/p2p/{peer(1)}",
        f"http://evil/p2p/{peer(1)}",
        f"/ip4/1.2.3.4/tcp/1/p2p/{peer(1)}\n",
        f"/ip4/\n/p2p/{peer(1)}",
        f"/ip4/\x1b[2J/p2p/{peer(1)}",
        f"/dns/exämple.org/p2p/{peer(1)}",
        f"/dns/a b/p2p/{peer(1)}",
        "/" + "a" * 300 + f"/p2p/{peer(1)}",
    ],
)
def test_a_peer_that_is_no_address_is_refused(hostile: str) -> None:
    with pytest.raises(LinkError):
        parse_link(str(JoinLink(RUN, "", (address(1), hostile))), NOW)


@pytest.mark.parametrize("field", ["r=" + "00" * 32, "v=2", "x=5000", "n=other"])
def test_a_field_that_comes_twice_is_refused(field: str) -> None:
    with pytest.raises(LinkError):
        parse_link(altered("v=1", f"v=1&{field}"), NOW)


def test_a_name_is_text_and_not_long() -> None:
    link = parse_link(str(JoinLink(RUN, "x" * 500, (address(1),))), NOW)
    assert link.name == "x" * 80
    broken = parse_link(altered("n=Plays%20%26%20poems", "n=%ff%c3%28"), NOW)
    assert broken.name.encode() == "\ufffd\ufffd(".encode()


@pytest.mark.parametrize("name", ["&c=", "&p=x", "%26c%3D", "a=b&c=d", "+", "\n", "\x00", "\u202e"])
def test_a_hostile_name_changes_no_other_field(name: str) -> None:
    link = JoinLink(RUN, name, (address(1),))
    assert parse_link(str(link), NOW) == link


def test_a_link_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(LinkError, match="too long"):
        parse_link(checked("talkoot:?" + "p=a&" * LINK_CHARACTERS), NOW)
    with pytest.raises(LinkError, match="not a talkoot link"):
        parse_link("https://talkoot.example/", NOW)
