"""net/upstream.py: dialling PostgreSQL, in libpq's TLS modes, and cancel calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.errors import ProtocolViolation, UpstreamUnavailable
from guardproxy.net.caller import Caller, CancelCall
from guardproxy.net.upstream import Upstream, cancel
from guardproxy.pool.addresses import DOWN_FOR, Address, Addresses
from guardproxy.settings import Upstream as Settings
from guardproxy.settings import UpstreamTls
from guardproxy.wire import messages
from tests.net.wire import Wire, wire_of

SSL_REQUEST = messages.packet(messages.SSL_REQUEST)


class Place:
    """An endpoint where PostgreSQL is, or is not."""

    def __init__(self, host: str = "db", refuses: str = "", hangs_up: bool = False) -> None:
        self.host = host
        self.hangs_up = hangs_up
        self.refuses = refuses
        self.tried = 0

    def connect(self, protocol: Caller) -> None:
        self.tried += 1
        if self.refuses:
            raise ConnectionRefusedError(111, self.refuses)
        wire = Wire(protocol)
        wire.connect()
        if self.hangs_up:
            wire.cut()


class Net(Upstream):
    """An upstream whose names and addresses are ours. A place's host is its address, too."""

    def __init__(self, settings: Settings, *places: Place) -> None:
        super().__init__(settings)
        self.places = {place.host: place for place in places}
        self.addresses = Addresses([(place.host, 5432) for place in places])
        self.names: dict[str, list[str] | OSError] = {}
        self.looked_up: list[str] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        answer = self.names.get(host, [host])
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def _reach(self, address: Address, protocol: Caller) -> None:
        self.places[address.ip].connect(protocol)

    def connect(self) -> str:
        """Dial, and take what was reached as the address in use; that one, or the error."""
        caller = Caller()
        came: list[object] = []
        done = Deferred.fromCoroutine(self.dial(caller))
        done.addBoth(lambda result: came.append(_plain(result)))
        if came == [None]:
            assert caller.address is not None
            self.addresses.take(caller.address)
            return caller.address.ip
        return str(came[0])


def dial(
    mode: str, *places: Place, encrypt: bool | None = None
) -> tuple[Any, Caller, list[object]]:
    """Begin to dial; the list holds what came of it, once something did."""
    upstream = Net(Settings(tls=UpstreamTls(mode=mode)), *places or [Place()])  # type: ignore[arg-type]
    caller = Caller()
    came: list[object] = []
    done = Deferred.fromCoroutine(upstream.dial(caller, encrypt))
    done.addBoth(lambda result: came.append(_plain(result)))
    wire = wire_of(caller.transport) if caller.transport else None
    return wire, caller, came


def _plain(result: object) -> object:
    return result.value if isinstance(result, Failure) else result


@pytest.mark.parametrize("mode", ["disable", "allow"])
def test_in_the_clear_nothing_is_asked(mode: str) -> None:
    wire, _, came = dial(mode)
    assert (wire.taken(), came) == (b"", [None])


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_tls_is_asked_for_and_granted(mode: str) -> None:
    wire, _, came = dial(mode)
    assert wire.taken() == SSL_REQUEST
    wire.send(b"S")
    (handshake,) = wire.handshakes
    assert handshake["server_hostname"] == "db"
    assert came == []
    wire.handshake.callback(None)
    assert came == [None]


def test_allow_can_be_made_to_encrypt() -> None:
    wire, _, _ = dial("allow", encrypt=True)
    assert wire.taken() == SSL_REQUEST


def test_prefer_takes_no_for_an_answer() -> None:
    wire, _, came = dial("prefer")
    wire.send(b"N")
    assert (came, wire.handshakes) == ([None], [])


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_the_others_do_not(mode: str) -> None:
    wire, _, came = dial(mode)
    wire.send(b"N")
    assert isinstance(came[0], UpstreamUnavailable)
    assert mode in str(came[0])


@pytest.mark.parametrize("said", [b"SE", b"E", b"Nobody"])
def test_more_than_one_byte_about_tls_is_refused(said: bytes) -> None:
    """It would have slipped in before TLS: CVE-2021-23222."""
    wire, _, came = dial("prefer")
    wire.send(said)
    assert isinstance(came[0], ProtocolViolation)
    assert wire.handshakes == []


def test_a_hang_up_instead_of_an_answer() -> None:
    wire, _, came = dial("prefer")
    wire.cut()
    assert isinstance(came[0], ConnectionResetError)


@pytest.mark.parametrize("mode", ["disable", "prefer", "verify-full"])
def test_a_hang_up_before_we_hear_that_we_are_connected(mode: str) -> None:
    """The loop tells the protocol some turns before it tells who waits."""
    wire, _, came = dial(mode, Place(hangs_up=True))
    assert isinstance(came[0], ConnectionResetError)
    assert wire.taken() == b""


def test_a_hang_up_right_after_the_handshake() -> None:
    wire, _, came = dial("require")
    wire.send(b"S")
    wire.cut()
    wire.handshake.callback(None)
    assert isinstance(came[0], ConnectionResetError)


def test_a_unix_socket_needs_no_tls() -> None:
    wire, _, came = dial("verify-full", Place("/run/postgresql"))
    assert (wire.taken(), came) == (b"", [None])


def test_addresses_are_tried_in_order() -> None:
    places = [Place("one", "no"), Place("two"), Place("three")]
    _, _, came = dial("disable", *places)
    assert came == [None]
    assert [place.tried for place in places] == [1, 1, 0]


def test_when_none_answers_the_first_reason_is_told() -> None:
    assert "first" in net(Place("one", "first"), Place("two", "second")).connect()


def net(*places: Place) -> Net:
    return Net(Settings(tls=UpstreamTls(mode="disable")), *places)


NOT_NOW = OSError(-3, "Temporary failure in name resolution")


def test_a_name_is_looked_up_for_each_connection_and_the_address_in_use_is_kept() -> None:
    """The order of an answer means nothing: round-robin DNS."""
    upstream = net(Place("db"), Place("10.0.0.1"), Place("10.0.0.2"))
    upstream.addresses = Addresses([("db", 5432)])
    upstream.names["db"] = ["10.0.0.1", "10.0.0.2"]
    assert upstream.connect() == "10.0.0.1"
    upstream.names["db"] = ["10.0.0.2", "10.0.0.1"]
    assert upstream.connect() == "10.0.0.1"
    upstream.names["db"] = ["10.0.0.2"]
    assert upstream.connect() == "10.0.0.2"
    assert upstream.looked_up == ["db"] * 3


def test_the_address_in_use_is_left_when_it_takes_no_connection() -> None:
    one, two = Place("10.0.0.1"), Place("10.0.0.2")
    upstream = net(one, two)
    assert upstream.connect() == "10.0.0.1"
    one.refuses = "no"
    assert upstream.connect() == "10.0.0.2"
    one.refuses = ""
    assert upstream.connect() == "10.0.0.2"


def test_while_the_first_host_answers_no_other_name_is_looked_up() -> None:
    upstream = net(Place("one"), Place("two"))
    upstream.connect()
    assert upstream.looked_up == ["one"]


def test_a_host_that_is_down_is_tried_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("guardproxy.net.upstream.monotonic", lambda: now)
    one, two = Place("one", "no"), Place("two", "no")
    upstream = net(one, two, Place("three"))
    upstream.connect()
    upstream.addresses.current = None
    assert upstream.connect() == "three"
    assert (one.tried, two.tried) == (1, 1)
    now += DOWN_FOR
    upstream.addresses.current = None
    upstream.connect()
    assert (one.tried, two.tried) == (2, 2)


def test_a_resolver_that_fails_moves_nobody() -> None:
    upstream = net(Place("one"), Place("two"))
    assert upstream.connect() == "one"
    upstream.names["one"] = NOT_NOW
    assert upstream.connect() == "one"
    upstream.addresses.current = None
    assert upstream.connect() == "two"
    upstream.names["two"] = NOT_NOW
    upstream.addresses.current = None
    assert "name resolution" in upstream.connect()


def test_a_cancel_goes_to_the_address_of_its_server_and_nowhere_else() -> None:
    one, two = Place("one"), Place("two")
    upstream = net(one, two)
    upstream.connect()
    call = CancelCall()
    call.address = Address("two", 5432, "two")
    came: list[object] = []
    Deferred.fromCoroutine(cancel(upstream, b"\0\0\0\1KEY!", call)).addBoth(came.append)
    wire: Any = wire_of(call.transport)
    assert wire.taken() == messages.cancel_request(b"\0\0\0\1KEY!")
    assert (one.tried, two.tried) == (1, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo", "/run/postgresql"])
def test_what_is_no_name_is_not_looked_up(host: str) -> None:
    came: list[object] = []
    Deferred.fromCoroutine(Upstream(Settings()).look_up(host, 5432)).addBoth(came.append)
    assert came == [[host]]


def test_it_is_shown_with_all_its_addresses() -> None:
    settings = Settings(host="db1,::1,/run/postgresql", port="5432,5433,5434")
    assert str(Upstream(settings)) == "db1:5432,[::1]:5433,/run/postgresql"


# -- cancel calls ----------------------------------------------------------------------------------


def test_a_cancel_says_its_key_and_waits_for_the_hang_up() -> None:
    upstream = Net(Settings(tls=UpstreamTls(mode="allow")), Place())
    call = CancelCall()
    came: list[object] = []
    Deferred.fromCoroutine(cancel(upstream, b"\0\0\0\1KEY!", call)).addBoth(came.append)
    wire: Any = wire_of(call.transport)
    assert wire.taken() == SSL_REQUEST  # as server links may, so that the key stays secret
    wire.send(b"N")
    assert wire.taken() == messages.cancel_request(b"\0\0\0\1KEY!")
    assert came == []
    wire.cut()
    assert came == [None]


def test_the_channel_binding_comes_from_the_peers_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from guardproxy.net import tls

    monkeypatch.setattr(tls, "server_end_point", lambda der: b"hash of " + der)
    wire, _, came = dial("require")
    wire.tls = SimpleNamespace(getpeercert=lambda binary_form: b"certificate")
    wire.send(b"S")
    wire.handshake.callback(None)
    assert came == [b"hash of certificate"]
