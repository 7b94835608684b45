"""Ground floor: the settings in force, from flag, environment, file and default (in this order).

`load` collects everything that is wrong before it refuses. The fields are in settings.py, the
reading and writing of single values in leaves.py.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from guardproxy.leaves import LEAVES, SECTIONS, Leaf, did_you_mean, items, no_such, read, text
from guardproxy.settings import (
    Auth,
    Console,
    Http,
    Limits,
    Listen,
    ListenTls,
    Log,
    Match,
    Override,
    Pool,
    Reload,
    Secret,
    SessionLimits,
    Settings,
    Timeouts,
    Upstream,
    UpstreamTls,
    User,
)
from guardproxy.yamltext import YamlError, parse, shown_key

__all__ = [
    "Auth",
    "Change",
    "ConfigError",
    "Console",
    "Http",
    "Limits",
    "Listen",
    "ListenTls",
    "Loaded",
    "Log",
    "Match",
    "Override",
    "Pool",
    "Reload",
    "Secret",
    "SessionLimits",
    "Settings",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "User",
    "amended",
    "changeable",
    "changes",
    "describe",
    "load",
    "needs_restart",
    "settings_table",
]

PREFIX = "GUARDPROXY_"
CONFIG_VARIABLE = "GUARDPROXY_CONFIG"  # names the file; read by the command line
BUILD_VARIABLE = "GUARDPROXY_PURE"  # read by deploy/build/backend.py; may be left in an image
VARIABLES = {PREFIX + key.upper().replace(".", "_"): key for key in LEAVES}

# The flag that sets a key, for its origin.
FLAGS = {
    "listen.host": "--listen",
    "listen.port": "--listen",
    "upstream.host": "--upstream",
    "upstream.port": "--upstream",
    "pool.max_server_connections": "--max-server-connections",
    "pool.mode": "--mode",
}

# Kubernetes puts these into every pod beside a Service named guardproxy or guardproxy-….
_SERVICE_LINK = re.compile(
    r"GUARDPROXY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)

# Listening sockets are opened once; what is read anew is the certificates they show.
_RELOADABLE = {"listen.tls.cert", "listen.tls.key", "listen.tls.ca"}
_HTTP_PLACE = {"http.enabled", "http.host", "http.port"}


class ConfigError(Exception):
    """The configuration is wrong: each problem as "key.path: what is wrong and how to fix it"."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Loaded(msgspec.Struct, frozen=True):
    settings: Settings
    origins: dict[str, str]  # key path -> "default", "file F", "environment N" or "flag --x"
    path: Path | None = None  # of the YAML file


class Change(NamedTuple):
    """What is another setting now; equal texts where only what is behind them has changed."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        if self.was == self.now:
            return f"{self.key}: {self.now} has changed"
        return f"{self.key}: {self.was} -> {self.now}"


class _Given(msgspec.Struct, frozen=True):
    """A value somebody wrote, and where."""

    key: str
    raw: object
    origin: str
    place: str = ""  # added to what is said about it; a file's problems need none


class _Problems:
    """All that is wrong so far, and the keys about which no more needs to be said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.keys: set[str] = set()

    def add(self, key: str, what: str, place: str = "") -> None:
        self.said.append(f"{key}: {what}{place}")
        self.keys.add(key)

    def concern(self, keys: Iterable[str]) -> bool:
        """Whether one of these, or something inside it, is known to be wrong."""
        return any(bad == key or bad.startswith(key + ".") for key in keys for bad in self.keys)


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """The settings in force; `flags` maps key paths to texts. ConfigError has all problems."""
    problems = _Problems()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for given in _given(path, environ, flags, problems):
        before = len(problems.said)
        value = read(LEAVES[given.key], given.raw, _complaining(problems, given))
        if len(problems.said) == before:
            values[given.key], origins[given.key] = value, given.origin
    settings = msgspec.convert(_nested(values), Settings)
    for involved, key, what in _inconsistencies(settings):
        if not problems.concern({key, *involved}):
            problems.add(key, what)
    if problems.said:
        raise ConfigError(problems.said)
    found = {key: origins.get(leaf, "default") for key, leaf, _, _ in items(settings)}
    return Loaded(settings, found, path)


def amended(loaded: Loaded, texts: Mapping[str, str]) -> Loaded:
    """The same, with some settings read from texts: the console's SET. Raises ConfigError."""
    problems = _Problems()
    settings, origins = loaded.settings, dict(loaded.origins)
    for key, raw in texts.items():
        if key not in LEAVES:
            problems.add(key, "no such setting" + did_you_mean(key, LEAVES))
        elif LEAVES[key].kind in ("users", "overrides"):
            problems.add(key, "is a mapping; change it in the file, and RELOAD")
        else:
            value = read(LEAVES[key], raw, problems.add)
            if not problems.said:
                settings, origins[key] = _replaced(settings, key.split("."), value), "SET"
    if not problems.said:
        for _, key, what in _inconsistencies(settings):
            problems.add(key, what)
    if problems.said:
        raise ConfigError(problems.said)
    return msgspec.structs.replace(loaded, settings=settings, origins=origins)


def _replaced(section: Any, path: list[str], value: object) -> Any:
    name, *inner = path
    if inner:
        value = _replaced(getattr(section, name), inner, value)
    return msgspec.structs.replace(section, **{name: value})


def _given(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str], problems: _Problems
) -> Iterator[_Given]:
    """Everything written anywhere, the weakest first."""
    if path is not None:
        yield from _walk(_file_tree(path, problems), "", f"file {path}", problems)
    yield from _from_environ(environ, problems)
    for key, raw in flags.items():
        yield _Given(key, raw, f"flag {FLAGS[key]}", f" ({FLAGS[key]})")


def _complaining(problems: _Problems, given: _Given) -> Any:
    return partial(problems.add, place=given.place)


def _file_tree(path: Path, problems: _Problems) -> dict[str, Any]:
    try:
        tree = parse(path.read_bytes())
    except OSError as error:
        problems.add(str(path), f"cannot read: {error.strerror}")
        return {}
    except YamlError as error:
        for line, what in error.problems:
            problems.add(str(path) if line is None else f"{path}:{line}", what)
        return {}
    if tree is not None and not isinstance(tree, dict):
        problems.add(str(path), "takes a mapping of sections (listen:, upstream:, …)")
        return {}
    return tree or {}


def _walk(tree: dict[str, Any], prefix: str, origin: str, problems: _Problems) -> Iterator[_Given]:
    for name, raw in tree.items():
        key = prefix + name
        if key in LEAVES:
            yield _Given(key, raw, origin)
        elif key not in SECTIONS:
            problems.add(prefix + shown_key(name), _unknown(prefix, name))
        elif isinstance(raw, dict):
            yield from _walk(raw, key + ".", origin, problems)
        elif raw is not None:  # an empty section is one with nothing set
            problems.add(key, f"is a section; its settings stand below it, such as {_inside(key)}")


def _inside(section: str) -> str:
    return next(key for key in LEAVES if key.startswith(section + "."))


def _unknown(prefix: str, name: str) -> str:
    """The nearest neighbour; else the setting of this name in another section."""
    siblings = {key[len(prefix) :].split(".")[0] for key in LEAVES if key.startswith(prefix)}
    said = no_such(name, sorted(siblings))
    elsewhere = [key for key in LEAVES if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"no such setting; did you mean {elsewhere[0]}?"
    return said


def _from_environ(environ: Mapping[str, str], problems: _Problems) -> Iterator[_Given]:
    for name, value in environ.items():
        if name in VARIABLES:
            yield from _from_variable(name, value, problems)
        elif name in (CONFIG_VARIABLE, BUILD_VARIABLE) or not name.startswith(PREFIX):
            continue
        elif not _is_link(name, value):
            problems.add(name, "no such setting" + did_you_mean(name, VARIABLES, fold=str.upper))


def _is_link(name: str, value: str) -> bool:
    ported = name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))
    return ported or _SERVICE_LINK.fullmatch(name) is not None


def _from_variable(name: str, value: str, problems: _Problems) -> Iterator[_Given]:
    """Users and overrides are written as YAML (so also as JSON), all else as its text."""
    key = VARIABLES[name]
    raw: object = value
    if LEAVES[key].kind in ("users", "overrides"):
        try:
            raw = parse(value)
        except YamlError as error:
            problems.add(key, error.problems[0][1], f" ({name})")
            return
    yield _Given(key, raw, f"environment {name}", f" ({name})")


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return tree


def _inconsistencies(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What does not fit together: (further keys involved, key, what)."""
    yield from _tls_inconsistencies(settings)
    yield from _auth_inconsistencies(settings.auth)
    yield from _http_inconsistencies(settings.http)
    yield from _watch_inconsistencies(settings)
    upstream, pool = settings.upstream, settings.pool
    hosts, ports = upstream.host.count(",") + 1, str(upstream.port).count(",") + 1
    if ports not in (1, hosts):
        said = f"has {ports} ports for {hosts} in upstream.host; give one for all, or one for each"
        yield ("upstream.host",), "upstream.port", said
    cap = pool.max_server_connections
    if not isinstance(cap, str) and pool.min_server_connections > cap:
        said = f"{pool.min_server_connections} is more than the {cap}"
        said += " of pool.max_server_connections; lower it, or raise the cap"
        yield ("pool.max_server_connections",), "pool.min_server_connections", said


def _tls_inconsistencies(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    listen, upstream = settings.listen.tls, settings.upstream.tls
    for section, tls in (("listen.tls", listen), ("upstream.tls", upstream)):
        involved = (f"{section}.mode", f"{section}.cert", f"{section}.key")
        if tls.cert and not tls.key:
            yield involved, f"{section}.key", f"{section}.cert needs its private key here"
        if tls.key and not tls.cert:
            yield involved, f"{section}.cert", f"{section}.key needs its certificate here"
    pair = ("listen.tls.cert", "listen.tls.key")
    if listen.mode != "disable" and not (listen.cert or listen.key):
        said = f"{listen.mode} needs listen.tls.cert and listen.tls.key"
        yield pair, "listen.tls.mode", said
    if listen.mode == "verify-full" and not listen.ca:
        yield ("listen.tls.ca",), "listen.tls.mode", "verify-full needs listen.tls.ca"
    if upstream.mode in ("verify-ca", "verify-full") and not upstream.ca:
        said = f"{upstream.mode} needs upstream.tls.ca"
        yield ("upstream.tls.ca",), "upstream.tls.mode", said


def _auth_inconsistencies(auth: Auth) -> Iterator[tuple[tuple[str, ...], str, str]]:
    involved = ("auth.method", "auth.users", "auth.query", "auth.query_user")
    if auth.method == "scram-sha-256" and not (auth.users or auth.query):
        yield involved, "auth.method", "scram-sha-256 needs auth.users or auth.query"
    if auth.query and auth.method != "scram-sha-256":
        yield involved, "auth.query", f"is of no use with auth.method {auth.method}; leave it out"
    if auth.query and not auth.query_user:
        yield involved, "auth.query", "needs auth.query_user, who runs it"
    if auth.query_user and not auth.query:
        yield involved, "auth.query_user", "is of no use without auth.query; leave it out"
    if auth.query_user and auth.query_user not in auth.users:
        said = f"{auth.query_user} is not in auth.users; add it there with its password"
        yield involved, "auth.query_user", said
    elif auth.query_user and not auth.users[auth.query_user].password:
        said = f"{auth.query_user} has only a verifier in auth.users; give its password"
        yield involved, "auth.query_user", said


def _http_inconsistencies(http: Http) -> Iterator[tuple[tuple[str, ...], str, str]]:
    involved = ("http.token", "http.token_file")
    if http.require_token and not (http.token or http.token_file):
        yield involved, "http.require_token", "needs http.token or http.token_file"


def _watch_inconsistencies(settings: Settings) -> Iterator[tuple[tuple[str, ...], str, str]]:
    watch, ending = settings.watch, settings.watch.terminate_idle
    involved = ("watch.user", "watch.interval", "watch.terminate_idle")
    if settings.pool.max_server_connections == "auto" and not (watch.user and watch.interval):
        said = "auto needs watch.user, who asks PostgreSQL, and a watch.interval"
        yield involved, "pool.max_server_connections", said
    for name in ("older_than", "idle_in_transaction"):
        limit = getattr(ending, name)
        if limit and not watch.user:
            yield involved, f"watch.terminate_idle.{name}", "needs watch.user, who ends them"
        elif limit and limit < 2 * watch.interval:
            # Guards tell each other at each look which connections are theirs.
            said = "is less than two of watch.interval; raise it, or look more often"
            yield involved, f"watch.terminate_idle.{name}", said


def changes(old: Settings, new: Settings) -> list[Change]:
    """What differs; a changed secret is `***` on both sides."""
    before, after = _valued(old), _valued(new)
    absent = (None, "none")
    return [
        Change(key, before.get(key, absent)[1], after.get(key, absent)[1])
        for key in {**before, **after}
        if before.get(key, absent)[0] != after.get(key, absent)[0]
    ]


def _valued(settings: Settings) -> dict[str, tuple[Any, str]]:
    """Values and texts by key; no users and no overrides is nothing, not a value."""
    return {
        key: (value, said)
        for key, leaf, value, said in items(settings)
        if key != leaf or LEAVES[key].kind not in ("users", "overrides")
    }


def needs_restart(old: Settings, new: Settings) -> tuple[str, ...]:
    """The changed keys that a reload cannot bring into force."""
    return tuple(key for key, _, _ in changes(old, new) if _is_fixed(key))


def changeable(key: str) -> bool:
    """Whether the console's SET can change it."""
    return key in LEAVES and LEAVES[key].kind not in ("users", "overrides") and not _is_fixed(key)


def _is_fixed(key: str) -> bool:
    opened_once = key.startswith("listen.") or key in _HTTP_PLACE
    return key == "pool.mode" or (opened_once and key not in _RELOADABLE)


def describe(loaded: Loaded) -> str:
    """One aligned line a setting: `key = value  # origin`."""
    rows = [(key, said, loaded.origins[key]) for key, _, _, said in items(loaded.settings)]
    keys = max(len(key) for key, _, _ in rows)
    # A long query must not push all origins out of sight.
    values = min(40, max(len(said) for _, said, _ in rows))
    return "\n".join(f"{key:<{keys}} = {said:<{values}}  # {origin}" for key, said, origin in rows)


def settings_table() -> str:
    """The README's table of settings, in Markdown."""
    rows = [f"| `{key}` | {_default(leaf)} | {_meaning(leaf)} |" for key, leaf in LEAVES.items()]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _default(leaf: Leaf) -> str:
    said = text(leaf.default, leaf.kind)
    return said if said == "none" else f"`{said}`"


def _meaning(leaf: Leaf) -> str:
    if not leaf.choices:
        return leaf.description
    return f"{leaf.description}: {', '.join(f'`{choice}`' for choice in leaf.choices)}"
