"""TLS towards clients and towards PostgreSQL."""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.certificates import Authority, Certificate
from tests.integration.conftest import NewCutter, NewGuard, NewPostgres
from tests.integration.guard import Guard
from tests.integration.middle import Middle
from tests.integration.places import PASSWORDS, Place, free_port
from tests.integration.postgres import Postgres
from tests.integration.raw import SSL_REQUEST, Raw, startup
from tests.integration.waiting import eventually

SESSION = {"mode": "session", "query_wait_timeout": "1s"}
CANCEL_CODE = struct.pack("!i", 80877102)


class Papers:
    """An authority, the guard's certificate, and a client's."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.ca = str(self.authority.ca)
        self.guard = self.authority.issue("guard", "127.0.0.1", "localhost")
        self.alice = self.authority.issue("alice")
        stranger_folder = folder / "stranger"
        stranger_folder.mkdir()
        self.stranger = Authority(stranger_folder, "somebody else")

    def listen(self, mode: str) -> dict[str, Any]:
        """The section `listen` for that mode."""
        files = {"cert": str(self.guard.cert), "key": str(self.guard.key), "ca": self.ca}
        return {"tls": {"mode": mode, **files}}


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def listening(papers: Papers, pg: Postgres) -> Iterator[dict[str, Guard]]:
    """A guard for each listen.tls.mode, in session mode."""
    with ExitStack() as stack:
        modes = ("disable", "allow", "require", "verify-full")
        yield {
            mode: stack.enter_context(Guard(pg, {"listen": papers.listen(mode), "pool": SESSION}))
            for mode in modes
        }


def with_certificate(made: Certificate) -> dict[str, str]:
    return {"sslcert": str(made.cert), "sslkey": str(made.key)}


def works(place: Place, encrypted: bool, **more: Any) -> None:
    """A query goes through, and the client's link is (not) encrypted."""
    with place.connect(**more) as connection:
        assert connection.execute("select current_user").fetchone() == ("alice",)
        assert connection.pgconn.ssl_in_use == encrypted


def fails(place: Place, pattern: str, **more: Any) -> None:
    with pytest.raises(psycopg.OperationalError, match=pattern):
        place.connect(**more)


# Clients.


@pytest.mark.parametrize(
    ("mode", "sslmode", "encrypted"),
    [
        ("disable", "disable", False),
        ("disable", "prefer", False),
        ("allow", "disable", False),
        ("allow", "prefer", True),
        ("allow", "require", True),
        ("require", "prefer", True),
        ("require", "require", True),
    ],
)
def test_modes(listening: dict[str, Guard], mode: str, sslmode: str, encrypted: bool) -> None:
    """What both sides agree on."""
    works(listening[mode], encrypted, sslmode=sslmode)


def test_the_certificate_is_good(listening: dict[str, Guard], papers: Papers) -> None:
    """The client may verify us in full; with another authority it refuses us."""
    works(listening["require"], True, sslmode="verify-full", sslrootcert=papers.ca)
    stranger = str(papers.stranger.ca)
    fails(listening["require"], "certificate", sslmode="verify-ca", sslrootcert=stranger)


def test_modes_that_do_not_fit(listening: dict[str, Guard]) -> None:
    """We have no TLS and it is required, or we require it and it is not used."""
    fails(listening["disable"], "does not support SSL", sslmode="require")
    fails(listening["require"], r"FATAL:.*(TLS|SSL)", sslmode="disable")
    fails(listening["verify-full"], r"FATAL:.*(TLS|SSL)", sslmode="disable")


def test_client_certificates(listening: dict[str, Guard], papers: Papers) -> None:
    """verify-full: none is refused, one of another authority is refused, ours gets in."""
    guard = listening["verify-full"]
    works(guard, True, sslmode="require", **with_certificate(papers.alice))
    fails(guard, "certificate|SSL|closed", sslmode="require", sslcert="", sslkey="")
    forged = papers.stranger.issue("alice")
    fails(guard, "alert|SSL|closed", sslmode="require", **with_certificate(forged))
    works(guard, True, sslmode="require", **with_certificate(papers.alice))


def test_direct_negotiation(listening: dict[str, Guard], papers: Papers) -> None:
    """PostgreSQL 17's sslnegotiation=direct; without TLS on our side it cannot work."""
    more = {"sslnegotiation": "direct", "sslmode": "verify-full", "sslrootcert": papers.ca}
    for mode in ("allow", "require"):
        works(listening[mode], True, **more)
    fails(listening["disable"], "connection failed", **more)
    works(listening["disable"], False, sslmode="disable")


def test_direct_negotiation_with_a_client_certificate(
    listening: dict[str, Guard], papers: Papers
) -> None:
    """verify-full holds on that way in as well."""
    more = {"sslnegotiation": "direct", "sslmode": "require"}
    works(listening["verify-full"], True, **more, **with_certificate(papers.alice))
    fails(listening["verify-full"], "connection failed", **more, sslcert="", sslkey="")


def context(papers: Papers, *protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=papers.ca)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def test_direct_negotiation_agrees_on_postgresql(
    listening: dict[str, Guard], papers: Papers
) -> None:
    """ALPN "postgresql" is chosen among others."""
    with Raw(listening["require"]) as raw:
        link = raw.start_tls(context(papers, "other", "postgresql"))
        assert link.selected_alpn_protocol() == "postgresql"
        raw.login()


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_direct_negotiation_without_postgresql(
    listening: dict[str, Guard], papers: Papers, protocols: tuple[str, ...]
) -> None:
    """A client that came by mistake (or was sent by somebody else) gets no answer."""
    with Raw(listening["require"]) as raw:
        try:
            raw.start_tls(context(papers, *protocols))
            raw.send(startup(user="alice", database="app"))
            kind, _ = raw.read()
        except (ssl.SSLError, ConnectionError):
            return
    assert kind in (b"", b"E")


def assert_refused_after_handshake(raw: Raw) -> None:
    """Either TLS does not come about, or nothing is said in it but an error."""
    lenient = ssl.create_default_context()
    lenient.check_hostname = False
    lenient.verify_mode = ssl.CERT_NONE
    try:
        raw.start_tls(lenient)
        kind, _ = raw.read()
    except (ssl.SSLError, ConnectionError):
        return
    assert kind in (b"", b"E")


@pytest.mark.parametrize("mode", ["allow", "require"])
def test_bytes_before_the_handshake(listening: dict[str, Guard], mode: str) -> None:
    """What was stuffed in after SSLRequest is never taken for the client's words."""
    guard = listening[mode]
    with Raw(guard) as raw:
        raw.send(SSL_REQUEST + startup(user="alice", database="app"))
        if raw.exactly(1) == b"S":
            assert_refused_after_handshake(raw)
    works(guard, True, sslmode="require")


def test_bytes_after_a_refused_request(listening: dict[str, Guard]) -> None:
    """Without TLS there is no secret to protect: N, and the startup packet may follow at once."""
    with Raw(listening["disable"]) as raw:
        raw.send(SSL_REQUEST)
        assert raw.exactly(1) == b"N"
        raw.login()


def test_second_request(listening: dict[str, Guard]) -> None:
    """SSLRequest inside TLS is refused as PostgreSQL does."""
    with Raw(listening["require"]) as raw:
        raw.send(SSL_REQUEST)
        assert raw.exactly(1) == b"S"
        plain = ssl.create_default_context()
        plain.check_hostname = False
        plain.verify_mode = ssl.CERT_NONE
        raw.start_tls(plain)
        raw.send(SSL_REQUEST)
        assert raw.exactly(1) != b"S"


def test_versions(listening: dict[str, Guard]) -> None:
    """1.2 and 1.3 are spoken."""
    guard = listening["require"]
    works(guard, True, sslmode="require", ssl_max_protocol_version="TLSv1.2")
    works(guard, True, sslmode="require", ssl_min_protocol_version="TLSv1.3")


@pytest.mark.parametrize(("minor", "answered"), [(3, True), (2, False)])
def test_old_versions(listening: dict[str, Guard], minor: int, answered: bool) -> None:
    """A ClientHello of TLS 1.2 is answered by a handshake record, the same of 1.1 is not."""
    suites = struct.pack("!HHHH", 6, 0xC02B, 0xC009, 0xC00A)
    curves, points = bytes.fromhex("000a000400020017"), bytes.fromhex("000b00020100")
    extensions = curves + points + bytes.fromhex("000d000400020403")
    hello = bytes([3, minor]) + bytes(32) + b"\0" + suites + b"\x01\0"
    hello += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\x01" + struct.pack("!I", len(hello))[1:] + hello
    with Raw(listening["require"]) as raw:
        raw.send(SSL_REQUEST)
        assert raw.exactly(1) == b"S"
        raw.send(b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake)
        assert (raw.exactly(1) == b"\x16") == answered


@pytest.mark.parametrize("how", ["cancel", "cancel_safe"])
def test_cancel(listening: dict[str, Guard], pg: Postgres, how: str) -> None:
    """Over TLS, and in clear as older libpq does it whatever sslmode says."""
    with listening["require"].connect(sslmode="require") as connection:
        cancelled(connection, pg, how)


def cancelled(connection: Any, pg: Postgres, how: str) -> None:
    """Let a query run, cancel it and use the connection again."""
    text = f"select pg_sleep(20), 'test_tls {how}'"

    def cancel() -> None:
        look = "select 1 from pg_stat_activity where query = %s and state = 'active'"
        eventually(lambda: pg.query(look, [text]))
        getattr(connection, how)()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(text)
    thread.join()
    assert connection.execute("select 1").fetchone() == (1,)


def test_scram_over_tls(guard: NewGuard, papers: Papers) -> None:
    """Our own SCRAM with a client that would like channel binding."""
    users = {"alice": {"password": PASSWORDS["alice"]}}
    auth = {"method": "scram-sha-256", "users": users}
    running = guard(pool=SESSION, auth=auth, listen=papers.listen("require"))
    works(running, True, sslmode="require", require_auth="scram-sha-256")


# The relay.


@pytest.mark.parametrize("upstream", ["disable", "require"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_passthrough(guard: NewGuard, papers: Papers, upstream: str, sslmode: str) -> None:
    """SCRAM is relayed without channel binding, which would find us in the middle.

    With TLS on both sides the client must be told not to want it: it would say that it could
    have done it, and PostgreSQL, which can as well, takes that for an attack.
    """
    running = guard(
        pool={"mode": "passthrough"},
        listen=papers.listen("allow"),
        upstream={"tls": {"mode": upstream}},
    )
    both = upstream == sslmode == "require"
    binding = "disable" if both else "prefer"
    works(running, sslmode == "require", sslmode=sslmode, channel_binding=binding)


# PostgreSQL.


def server_is_encrypted(guard: Guard, user: str = "alice") -> bool:
    with guard.connect(user) as connection:
        row = connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        return row.fetchone() == (True,)


@pytest.mark.parametrize("pool_mode", ["session", "passthrough"])
@pytest.mark.parametrize(
    "mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
)
def test_upstream_modes(guard: NewGuard, pg: Postgres, pool_mode: str, mode: str) -> None:
    """pg_stat_ssl says whether the server's link is encrypted."""
    running = guard(upstream={"tls": {"mode": mode, "ca": str(pg.ca)}}, pool={"mode": pool_mode})
    assert server_is_encrypted(running) == (mode not in ("disable", "allow"))


def test_upstream_by_name(guard: NewGuard, pg: Postgres) -> None:
    """verify-full by a DNS name."""
    tls = {"mode": "verify-full", "ca": str(pg.ca)}
    running = guard(upstream={"host": "localhost", "tls": tls}, pool=SESSION)
    assert server_is_encrypted(running)


def test_upstream_without_tls(guard: NewGuard, pg18: Postgres) -> None:
    """prefer does without; require says what is the matter."""
    works(guard(pg18, upstream={"tls": {"mode": "prefer"}}, pool=SESSION), False)
    required = guard(pg18, upstream={"tls": {"mode": "require"}}, pool=SESSION)
    fails(required, r"FATAL:.*(TLS|SSL)")


def test_role_that_needs_tls(guard: NewGuard, pg: Postgres) -> None:
    """hostssl: with TLS it works; without, PostgreSQL's own text arrives."""
    assert server_is_encrypted(guard(upstream={"tls": {"mode": "prefer"}}), "tilda")
    plain = guard(upstream={"tls": {"mode": "disable"}}, pool=SESSION)
    fails(plain, "password authentication failed|pg_hba", user="tilda", password="wrong")


def test_allow_uses_tls_where_it_must(guard: NewGuard, new_postgres: NewPostgres) -> None:
    """libpq's allow: first without, then with, when PostgreSQL refuses."""
    own = new_postgres()
    hba = own.data / "pg_hba.conf"
    hba.write_text(hba.read_text().replace("host ", "hostssl "))
    own.query("select pg_reload_conf()")

    def plain_is_refused() -> bool:
        try:
            own.connect(sslmode="disable").close()
        except psycopg.OperationalError as error:
            return "no encryption" in str(error)
        return False

    eventually(plain_is_refused)
    assert server_is_encrypted(guard(own, upstream={"tls": {"mode": "allow"}}, pool=SESSION))
    refused = guard(own, upstream={"tls": {"mode": "disable"}}, pool=SESSION)
    fails(refused, "no pg_hba.conf entry for host .* no encryption")


def test_wrong_name(guard: NewGuard, new_postgres: NewPostgres) -> None:
    """verify-ca does not look at the name; verify-full does and says so, in the log too."""
    own = new_postgres(names=("elsewhere.example",))
    ca = str(own.ca)
    lenient = guard(own, upstream={"tls": {"mode": "verify-ca", "ca": ca}}, pool=SESSION)
    assert server_is_encrypted(lenient)
    strict = guard(own, upstream={"tls": {"mode": "verify-full", "ca": ca}}, pool=SESSION)
    fails(strict, r"FATAL:.*certificate.*127\.0\.0\.1")
    strict.wait_for_log("certificate")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_wrong_authority(guard: NewGuard, papers: Papers, mode: str) -> None:
    """A certificate that somebody else signed."""
    running = guard(upstream={"tls": {"mode": mode, "ca": papers.ca}}, pool=SESSION)
    fails(running, "FATAL:.*certificate")


def test_client_certificate_towards_postgresql(guard: NewGuard, new_postgres: NewPostgres) -> None:
    """upstream.tls.cert and .key, asked for by pg_hba's clientcert."""
    own = new_postgres()
    with_cert = {"cert": str(own.folder / "server.crt"), "key": str(own.folder / "server.key")}
    hba = own.data / "pg_hba.conf"
    lines = hba.read_text().replace("scram-sha-256", "scram-sha-256 clientcert=verify-ca")
    hba.write_text(lines.replace("host ", "hostssl ").replace("local  all          all  ", "#"))
    own.query("select pg_reload_conf()")
    eventually(lambda: "clientcert" in str(own.query("select options from pg_hba_file_rules")))
    assert server_is_encrypted(guard(own, upstream={"tls": {"mode": "require", **with_cert}}))
    without = guard(own, upstream={"tls": {"mode": "require"}}, pool=SESSION)
    fails(without, "certificate")


def test_channel_binding_finds_a_middle(
    guard: NewGuard, new_postgres: NewPostgres, papers: Papers
) -> None:
    """Whoever ends TLS between us and PostgreSQL with a certificate we trust is found out."""
    own = new_postgres()
    with Middle(own, papers.guard) as middle:
        with middle.connect(sslmode="require", channel_binding="disable") as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        running = guard(middle, upstream={"tls": {"mode": "require"}}, pool=SESSION)
        fails(running, "channel binding")
    straight = guard(own, upstream={"tls": {"mode": "require"}}, pool=SESSION)
    assert server_is_encrypted(straight)


def test_cancel_towards_postgresql(guard: NewGuard, pg: Postgres, cutter: NewCutter) -> None:
    """The cancel request goes over TLS where the server's link has it."""
    between = cutter(pg)
    running = guard(between, upstream={"tls": {"mode": "require"}}, pool=SESSION)
    with running.connect() as connection:
        # psycopg's other cancel() holds the GIL, and the cutter is a thread of this process.
        cancelled(connection, pg, "cancel_safe")
    assert len(between.heads) >= 2
    assert not [head for head in between.heads if CANCEL_CODE in head]
    assert all(head.startswith(SSL_REQUEST) for head in between.heads)


@contextmanager
def stuffing_server() -> Iterator[Place]:
    """Answers SSLRequest with S and, in the same breath, words in clear."""
    place = Place()
    place.port = free_port()
    listener = socket.create_server((place.host, place.port))

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.recv(8)
                link.sendall(b"SR" + struct.pack("!ii", 8, 0) + b"Z" + struct.pack("!i", 5) + b"I")
                link.recv(1000)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield place
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_bytes_before_the_servers_handshake(guard: NewGuard) -> None:
    """The same attack from the other side: such a server is not talked to."""
    with stuffing_server() as place:
        running = guard(place, upstream={"tls": {"mode": "require"}}, pool=SESSION)
        fails(running, "FATAL")
        running.terminate()
