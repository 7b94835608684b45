"""Ground floor: what can be set, with every default, its bounds and its meaning.

Each default stands here and nowhere else, with its reason or precedent beside it. The README's
table and `check-config` are made from these fields.
"""

from base64 import b64decode
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from guardproxy.addresses import address
from guardproxy.kinds import Bound, Cap, Directory, Duration, File, Functions, Names, Port, Roles
from guardproxy.kinds import Secret as Secret
from guardproxy.units import seconds
from guardproxy.watching import Watch


class ListenTls(Struct, frozen=True, forbid_unknown_fields=True):
    # Off, because the default listens on loopback only.
    mode: Annotated[
        Literal["disable", "allow", "require", "verify-full"],
        Meta(description="TLS towards clients; `verify-full` also asks for their certificate"),
    ] = "disable"
    cert: Annotated[File | None, Meta(description="our certificate chain, PEM")] = None
    key: Annotated[File | None, Meta(description="its private key, PEM")] = None
    ca: Annotated[File | None, Meta(description="who signs client certificates, PEM")] = None


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    # PostgreSQL's own default: nobody from outside until somebody says so.
    host: Annotated[
        str, Meta(description="address where Django connects", extra={"kind": "host"})
    ] = "127.0.0.1"
    # PgBouncer's port: firewalls and habits know it.
    port: Annotated[Port, Meta(description="port where Django connects; 0 picks a free one")] = 6432
    unix_socket_dir: Annotated[
        Directory | None,
        Meta(description="directory of a Unix socket `.s.PGSQL.<port>` beside TCP"),
    ] = None
    # PgBouncer's so_reuseport. Off: two guards on one port by mistake would have two caps.
    reuse_port: Annotated[
        bool,
        Meta(
            description="listen where another guard with this setting does, to take over from it"
            " without a gap: `true`, `false`"
        ),
    ] = False
    tls: ListenTls = field(default_factory=ListenTls)


class UpstreamTls(Struct, frozen=True, forbid_unknown_fields=True):
    # libpq's default, so that pointing Django elsewhere changes nothing.
    mode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        Meta(description="TLS towards PostgreSQL, libpq's `sslmode`"),
    ] = "prefer"
    ca: Annotated[File | None, Meta(description="who signs PostgreSQL's certificate, PEM")] = None
    cert: Annotated[File | None, Meta(description="client certificate for PostgreSQL, PEM")] = None
    key: Annotated[File | None, Meta(description="its private key, PEM")] = None


class Upstream(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[
        str,
        Meta(
            description="PostgreSQL's host; a directory means its Unix socket; several with commas,"
            " the first that answers and is no standby",
            extra={"kind": "hosts"},
        ),
    ] = "127.0.0.1"
    # PostgreSQL's port.
    port: Annotated[
        int | str,
        Meta(
            description="PostgreSQL's port; with several hosts one for all, or one for each",
            extra={"kind": "ports"},
        ),
    ] = 5432
    # PgBouncer's server_connect_timeout.
    connect_timeout: Annotated[
        Bound, Meta(description="how long one connection to PostgreSQL may take, login included")
    ] = seconds("15s")
    tls: UpstreamTls = field(default_factory=UpstreamTls)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The (host or socket directory, port) pairs in the order to try them."""
        hosts = [host.strip() for host in self.host.split(",")]
        ports = [int(port) for port in str(self.port).split(",")]
        if len(ports) == 1:
            ports *= len(hosts)
        return tuple(zip(hosts, ports, strict=True))


class User(Struct, frozen=True, forbid_unknown_fields=True):
    """How one user proves itself; a password from a file stands in both of the first two."""

    password: Secret | None = None
    password_file: str | None = None
    verifier: Secret | None = None  # enough to break a weak password offline, so as secret


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    # The password Django sends already is enough: no secrets to copy.
    method: Annotated[
        Literal["password", "scram-sha-256", "trust"],
        Meta(
            description="how clients prove who they are; `password` asks in clear (on loopback,"
            " Unix socket or TLS only) and lets PostgreSQL decide; `trust` is for tests"
        ),
    ] = "password"
    users: Annotated[
        Mapping[str, User],
        Meta(
            description="user names, each with one of `password`, `password_file` or `verifier`"
            " (`SCRAM-SHA-256$…` as in `pg_authid`)",
            extra={"kind": "users"},
        ),
    ] = field(default_factory=dict)
    query: Annotated[
        str | None,
        Meta(
            description="SQL that gives one row (user, verifier) for the user name `$1`",
            extra={"kind": "query"},
        ),
    ] = None
    query_user: Annotated[
        str | None, Meta(description="who runs `auth.query`; must stand in `auth.users`")
    ] = None
    # A password changed in PostgreSQL is good no longer than an idle client.
    cache_ttl: Annotated[
        Duration,
        Meta(description="how long a login is remembered without asking PostgreSQL; 0 never"),
    ] = seconds("15min")


UNASKED_CAP = 5
"""The cap while `auto` knows nothing yet: the smallest PostgreSQL for hire has 20 to 25 slots."""


class Pool(Struct, frozen=True, forbid_unknown_fields=True):
    # Clients far outnumber transactions; what a session cannot take along pins it.
    mode: Annotated[
        Literal["transaction", "session", "passthrough"],
        Meta(
            description="when a server is free for others: when its client is idle and another"
            " waits, when its client leaves, or never (one client, one server, login relayed)"
        ),
    ] = "transaction"
    # PgBouncer's default_pool_size; four guards fit under PostgreSQL's max_connections of 100.
    max_server_connections: Annotated[
        Cap | Literal["auto"],
        Meta(
            description="the cap: connections to PostgreSQL over all databases and users; `auto`"
            " follows what PostgreSQL has left (needs `watch.user`)",
            extra={"kind": "cap"},
        ),
    ] = 20
    # PgBouncer's min_pool_size.
    min_server_connections: Annotated[
        int, Meta(ge=0, description="connections each pool keeps open though they are idle")
    ] = 0
    # Longer than the pauses within a page view, shorter than those between two.
    park_after: Annotated[
        Duration,
        Meta(
            description="a client idle so long gives its server back though nobody waits; 0 is off"
        ),
    ] = seconds("5s")
    # PgBouncer's default.
    max_prepared_statements: Annotated[
        Cap, Meta(description="named prepared statements kept on each server")
    ] = 200
    # The text of a statement tells what its session may need again: only then PostgreSQL is asked.
    probe: Annotated[
        Literal["suspicious", "always", "never"],
        Meta(
            description="before a server goes to another client, ask PostgreSQL what is to follow"
            " its session or keep it there: after statements whose text gives cause, each time, or"
            " never (the text decides); no other client meets what is left, whatever this says"
        ),
    ] = "suspicious"
    suspect_functions: Annotated[
        Functions,
        Meta(
            description="functions of yours that leave something behind for their session"
            " (settings, temporary tables, locks), as `name` or `schema.name`; a statement that"
            " names one gives cause for a probe"
        ),
    ] = ()
    # PgBouncer's server_idle_timeout.
    server_idle_timeout: Annotated[
        Duration, Meta(description="an unused connection to PostgreSQL is closed then; 0 is off")
    ] = seconds("10min")
    # PgBouncer's server_lifetime: bounds the memory a backend's caches collect.
    server_lifetime: Annotated[
        Duration, Meta(description="one this old is closed when next free; 0 is off")
    ] = seconds("1h")
    # Below the 30s after which gunicorn kills a sync worker: the error must come first.
    query_wait_timeout: Annotated[
        Bound, Meta(description="who waits longer for a server gets FATAL 53300")
    ] = seconds("20s")
    # PgBouncer's query_wait_notify.
    query_wait_notify: Annotated[
        Duration, Meta(description="who waits this long gets a NOTICE saying why; 0 is off")
    ] = seconds("5s")
    # Twice the clients allowed by default: a bound for memory, not for use.
    max_waiting: Annotated[
        int, Meta(ge=0, description="when so many wait, the next gets FATAL 53300 at once")
    ] = 10_000

    @property
    def first_cap(self) -> int:
        """The cap to begin with: where it is `auto`, until PostgreSQL has been asked."""
        cap = self.max_server_connections
        return UNASKED_CAP if isinstance(cap, str) else cap


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    # At 16 kB each 80 MB; many times what one Django site opens.
    max_client_connections: Annotated[
        Cap, Meta(description="clients served at once; more wait at the door, in order")
    ] = 5_000


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    # The figure of the usual advice "terminate what is idle for 15 minutes".
    idle_session_timeout: Annotated[
        Duration, Meta(description="a client idle for so long gets FATAL 57P05; 0 is off")
    ] = seconds("15min")
    # PostgreSQL's default: what is open in a transaction is the application's business.
    idle_in_transaction_session_timeout: Annotated[
        Duration,
        Meta(description="one idle for so long in a transaction gets FATAL 25P03; 0 is off"),
    ] = seconds("0")
    # PgBouncer's client_login_timeout; PostgreSQL's authentication_timeout is the same.
    client_login_timeout: Annotated[
        Bound, Meta(description="how long a client may take to log in, waiting not counted")
    ] = seconds("60s")
    # PgBouncer's cancel_wait_timeout.
    cancel_wait_timeout: Annotated[
        Bound, Meta(description="how long a cancel request may take to reach PostgreSQL")
    ] = seconds("10s")
    # cloud-sql-proxy's min-sigterm-delay. Off: where Django stops first, nobody comes any more.
    min_sigterm_delay: Annotated[
        Duration,
        Meta(
            description="how long after SIGTERM the guard still lets everybody in, no longer ready,"
            " before it begins to stop; for where Django gets SIGTERM at the same time"
        ),
    ] = seconds("0")
    # Kubernetes' terminationGracePeriodSeconds; gunicorn's graceful_timeout.
    shutdown_timeout: Annotated[
        Duration, Meta(description="how long a stop waits for work to finish; 0 cuts at once")
    ] = seconds("30s")


class Console(Struct, frozen=True, forbid_unknown_fields=True):
    # Nobody by name: the OS user that runs the guard can stop it anyway.
    users: Annotated[
        Roles,
        Meta(
            description="who may use the console, with their password in `auth.users`; the OS user"
            " that runs the guard always may, over the Unix socket"
        ),
    ] = ()
    viewers: Annotated[Roles, Meta(description="who may look there, and change nothing")] = ()


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    format: Annotated[
        Literal["text", "json"], Meta(description="one event a line, for people or for programs")
    ] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="from which level on")
    ] = "info"


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    # On: at 3 a.m. it is too late to switch it on. Nobody from outside sees it.
    enabled: Annotated[
        bool, Meta(description="serve health, metrics and the page: `true`, `false`")
    ] = True
    # The page shows names and statements.
    host: Annotated[
        str,
        Meta(
            description="address of health, metrics and page; whoever reaches it can read them",
            extra={"kind": "host"},
        ),
    ] = "127.0.0.1"
    # Beside listen.port.
    port: Annotated[
        Port, Meta(description="port of health, metrics and page; 0 picks a free one")
    ] = 6433
    # A page somewhere else must not read ours through a name of its own that leads here.
    allowed_hosts: Annotated[
        Names,
        Meta(
            description="names by which browsers may ask for the page, beside addresses,"
            " `localhost` and `http.host`"
        ),
    ] = ()
    # None: nobody can close connections from the page until somebody says who may.
    token: Annotated[
        Secret | None,
        Meta(
            description="what the page asks for before it closes connections; without it, it"
            " cannot; 16 characters or more",
            extra={"kind": "token"},
        ),
    ] = None
    token_file: Annotated[
        str | None,
        Meta(
            description="a file with a token in it, read at each reload; beside `http.token`,"
            " either is good",
            extra={"kind": "token_file"},
        ),
    ] = None
    # On loopback whoever can read the page can read the log as well.
    require_token: Annotated[
        bool, Meta(description="ask for the token before the page shows anything: `true`, `false`")
    ] = False
    # What can stop the guard is a tool for those who know that they need it.
    quitquitquit: Annotated[
        bool,
        Meta(
            description="`POST /quitquitquit` from this host stops the guard, as SIGTERM does:"
            " `true`, `false`"
        ),
    ] = False


class Reload(Struct, frozen=True, forbid_unknown_fields=True):
    # Off: a file that is half written is nobody's wish; who mounts ConfigMaps sets some seconds.
    interval: Annotated[
        Duration,
        Meta(
            description="how often the configuration file and the password, key and certificate"
            " files it names are looked at, to reload when one has changed; 0 is off (SIGHUP only)"
        ),
    ] = seconds("0")


class Match(Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns that must all fit; names take shell globs, client_addr an address or CIDR block."""

    user: str | None = None
    database: str | None = None
    application_name: str | None = None
    client_addr: str | None = None

    def fits(self, user: str, database: str, application_name: str, client_addr: str) -> bool:
        return (
            glob_fits(self.user, user)
            and glob_fits(self.database, database)
            and glob_fits(self.application_name, application_name)
            and (self.client_addr is None or address_fits(self.client_addr, client_addr))
        )


def glob_fits(pattern: str | None, name: str) -> bool:
    """Whether the name fits the shell glob; without one every name does."""
    return pattern is None or fnmatchcase(name, pattern)


def address_fits(pattern: str, client_addr: str) -> bool:
    """Whether the address lies in the block; a Unix socket's client, "", fits only `unix`."""
    if pattern == "unix":
        return not client_addr
    found = address(client_addr)
    return found is not None and found in network(pattern)


@lru_cache(maxsize=1024)
def network(pattern: str) -> IPv4Network | IPv6Network:
    return ip_network(pattern)


class Override(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits for the clients that match; what is None stays as it is for all."""

    match: Match
    max_server_connections: Cap | None = None
    max_client_connections: Cap | None = None
    query_wait_timeout: Bound | None = None
    idle_session_timeout: Duration | None = None
    idle_in_transaction_session_timeout: Duration | None = None


class SessionLimits(Struct, frozen=True):
    """What holds for one session; a cap of None means only the caps over all."""

    rule: int | None  # index of the override that matched
    query_wait_timeout: float
    idle_session_timeout: float
    idle_in_transaction_session_timeout: float
    max_server_connections: int | None
    max_client_connections: int | None


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    listen: Listen = field(default_factory=Listen)
    upstream: Upstream = field(default_factory=Upstream)
    auth: Auth = field(default_factory=Auth)
    pool: Pool = field(default_factory=Pool)
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    overrides: Annotated[
        tuple[Override, ...],
        Meta(
            description="rules of `match` (globs for `user`, `database`, `application_name`; an"
            " address, CIDR block or `unix` for `client_addr`) with limits and timeouts of their"
            " own; the first that matches wins",
            extra={"kind": "overrides"},
        ),
    ] = ()
    console: Console = field(default_factory=Console)
    http: Http = field(default_factory=Http)
    watch: Watch = field(default_factory=Watch)
    log: Log = field(default_factory=Log)
    reload: Reload = field(default_factory=Reload)

    def limits_for(
        self, user: str, database: str, application_name: str, client_addr: str
    ) -> SessionLimits:
        """The limits of the first override that matches, filled up with those for all."""
        for rule, override in enumerate(self.overrides):
            if override.match.fits(user, database, application_name, client_addr):
                return self._limits(rule, override)
        return self._limits(None, Override(match=Match()))

    def _limits(self, rule: int | None, own: Override) -> SessionLimits:
        return SessionLimits(
            rule=rule,
            query_wait_timeout=_first(own.query_wait_timeout, self.pool.query_wait_timeout),
            idle_session_timeout=_first(
                own.idle_session_timeout, self.timeouts.idle_session_timeout
            ),
            idle_in_transaction_session_timeout=_first(
                own.idle_in_transaction_session_timeout,
                self.timeouts.idle_in_transaction_session_timeout,
            ),
            max_server_connections=own.max_server_connections,
            max_client_connections=own.max_client_connections,
        )


def _first(own: float | None, general: float) -> float:
    return general if own is None else own


def is_scram_verifier(text: str) -> bool:
    """Whether this is `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`."""
    try:
        mechanism, parameters, keys = text.split("$")
        iterations, salt = parameters.split(":")
        lengths = [len(b64decode(part, validate=True)) for part in (salt, *keys.split(":"))]
    except ValueError:  # binascii.Error is one
        return False
    counted = iterations.isascii() and iterations.isdecimal() and len(iterations) <= 9
    if mechanism != "SCRAM-SHA-256" or not counted or int(iterations) == 0:
        return False
    return lengths[0] > 0 and lengths[1:] == [32, 32]
