"""Ground floor: the settings one by one under dotted keys, read from texts and written as texts.

A file, an environment variable and a flag all give texts; `read` makes the value of a setting from
one and tells what is wrong with it, and `text` is its way back. Neither shows a secret.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from guardproxy import units
from guardproxy.settings import Match, Override, Secret, Settings, User, is_scram_verifier
from guardproxy.text import encoded
from guardproxy.units import shortened
from guardproxy.yamltext import shown_key

# Takes the key and what is wrong with its value.
Complain = Callable[[str, str], None]

# sun_path on Linux without its final NUL, less the longest file name put below the directory.
SOCKET_DIRECTORY_MAX = 107 - len("/.s.PGSQL.65535")


class Leaf(Struct, frozen=True):
    """One setting that is no section."""

    key: str
    type: Any  # without None
    default: Any
    optional: bool
    kind: str  # how its text is read, "" where the type tells
    positive: bool
    choices: tuple[str, ...]
    description: str


def _leaves(section: type[Struct], prefix: str = "") -> Iterator[Leaf]:
    for field in msgspec.structs.fields(section):
        key = prefix + field.name
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _leaves(field.type, key + ".")
        else:
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            yield _leaf(key, field.type, default)


def _leaf(key: str, annotated: Any, default: Any) -> Leaf:
    bare, metas, optional = _unwrapped(annotated)
    return Leaf(
        key=key,
        type=annotated,
        default=default,
        optional=optional,
        kind=next((meta.extra["kind"] for meta in metas if meta.extra), ""),
        positive=any(meta.gt == 0 for meta in metas),
        choices=get_args(bare) if get_origin(bare) is Literal else (),
        description=next((meta.description for meta in metas if meta.description), ""),
    )


def _unwrapped(annotated: Any) -> tuple[Any, list[Meta], bool]:
    """The type inside `Annotated` and `| None`, all that was noted on it, and if None may be."""
    if get_origin(annotated) is Annotated:
        inner, *metas = get_args(annotated)
        bare, more, optional = _unwrapped(inner)
        return bare, metas + more, optional
    members = [member for member in get_args(annotated) if member is not NoneType]
    if NoneType in get_args(annotated) and len(members) == 1:
        return *_unwrapped(members[0])[:2], True
    return annotated, [], False


LEAVES: dict[str, Leaf] = {leaf.key: leaf for leaf in _leaves(Settings)}
SECTIONS = {key[:end] for key in LEAVES for end, char in enumerate(key) if char == "."}
# An override's limits are read as the settings they stand for.
_LIMITS = {leaf.key: leaf for leaf in _leaves(Override) if not leaf.key.startswith("match")}
_PATTERNS = tuple(Match.__struct_fields__)
_PROOFS = tuple(User.__struct_fields__)


class _Listed(NamedTuple):
    """What the entries of a list are, and how they are written."""

    form: re.Pattern[str]
    what: str
    advice: str


_FUNCTIONS = _Listed(
    # As SQL spells names without quotes, perhaps with a schema's before it.
    re.compile(r"(?:[^\W\d][\w$]*\.)?[^\W\d][\w$]*"),
    "function",
    "write name or schema.name, without quotes or brackets",
)
_NAMES = _Listed(
    re.compile(r"[\w-]+(?:\.[\w-]+)*", re.ASCII),
    "host",
    "write it without scheme, port or asterisk",
)
_ROLES = _Listed(re.compile(r"[^\s,]+"), "user", "write names with commas between them")
_LISTS = {"functions": _FUNCTIONS, "names": _NAMES, "roles": _ROLES}
TOKEN_MIN = 16
"""Characters; what is shorter can be guessed."""


def read(leaf: Leaf, raw: object, complain: Complain) -> Any:
    """The value of a leaf from its text (or tree); None with at least one complaint if wrong."""
    if leaf.kind == "users":
        return _users(leaf.key, raw, complain)
    if leaf.kind == "overrides":
        return _overrides(leaf.key, raw, complain)
    if leaf.kind in _LISTS:
        return _list(_LISTS[leaf.kind], leaf.key, raw, complain)
    return _scalar(leaf, leaf.key, raw, complain)


def _scalar(leaf: Leaf, key: str, raw: object, complain: Complain) -> Any:
    try:
        if raw is None or raw == "":
            return _nothing(leaf)
        if not isinstance(raw, str):
            raise ValueError(f"takes one value, not a {_shape(raw)}")
        return _KINDS.get(leaf.kind, _plain)(leaf, raw)
    except ValueError as wrong:
        complain(key, str(wrong))
        return None


def _nothing(leaf: Leaf) -> None:
    if not leaf.optional:
        raise ValueError("is empty; give a value, or leave it out for the default")


def _shape(raw: object) -> str:
    return "mapping" if isinstance(raw, dict) else "list" if isinstance(raw, list) else "text"


def _plain(leaf: Leaf, text: str) -> Any:
    if leaf.choices and text not in leaf.choices:
        said = f"{shortened(text)} is none of {', '.join(leaf.choices)}"
        raise ValueError(said + did_you_mean(text, leaf.choices))
    try:
        return msgspec.convert(text, leaf.type, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{shortened(text)} is wrong: {_expectation(error)}") from None


def _expectation(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `int` >= 1, got `str` - at `$.x`", without types and paths."""
    said = str(error).split(" - at `$")[0].split(", got")[0].replace("`", "")
    said = said.replace("Expected int", "it must be a whole number")
    return said.replace("Expected bool", "it must be true or false")


def _duration(leaf: Leaf, text: str) -> float:
    duration = units.seconds(text)
    if leaf.positive and duration == 0:
        raise ValueError("0 would be a wait without end; write a duration such as 20s, or 1d")
    return duration


def _file(leaf: Leaf, text: str) -> str:
    _contents(text)
    return text


def _contents(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None


def _directory(leaf: Leaf, text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(f"{text} is not a directory; create it, or leave the setting out")
    if len(encoded(text)) > SOCKET_DIRECTORY_MAX:
        raise ValueError(f"is longer than the {SOCKET_DIRECTORY_MAX} bytes a socket's path leaves")
    return text


def _host(leaf: Leaf, text: str) -> str:
    """Texts that are no host are not shown: a URI has a password in it."""
    if "://" in text or "@" in text:
        raise ValueError("takes a host name or address, not a URI")
    if any(char.isspace() or char in "[]," for char in text):
        raise ValueError("takes one host name or address, without brackets, commas or spaces")
    if text.count(":") == 1:
        port_key = leaf.key.removesuffix("host") + "port"
        raise ValueError(f"takes a host alone; the port stands in {port_key}")
    if "/" in text and not text.startswith("/"):
        raise ValueError("takes a socket directory only with its whole path, from / on")
    return text


def _hosts(leaf: Leaf, text: str) -> str:
    hosts = [host.strip() for host in text.split(",")]
    if "" in hosts:
        raise ValueError("has an empty place between its commas")
    return ",".join(_host(leaf, host) for host in hosts)


def _ports(leaf: Leaf, text: str) -> int | str:
    ports = [_port(port.strip()) for port in text.split(",")]
    return ports[0] if len(ports) == 1 else ",".join(map(str, ports))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= 65535):
        raise ValueError(f"{shortened(text)} is not a port from 1 to 65535")
    return int(text)


def _query(leaf: Leaf, text: str) -> str:
    if "$1" not in text:
        raise ValueError("has no $1, where the user's name goes")
    return text


def _token(leaf: Leaf, text: str) -> Secret:
    if len(text) < TOKEN_MIN or not text.isascii() or not text.isprintable() or " " in text:
        advice = "make one with: openssl rand -hex 16"
        raise ValueError(f"takes {TOKEN_MIN} or more ASCII letters and digits; {advice}")
    return Secret(text)


def _token_file(leaf: Leaf, path: str) -> str:
    try:
        _token(leaf, token_in(path))
    except ValueError as wrong:
        raise ValueError(f"{path}: {wrong}") from None
    return path


def token_in(path: str) -> str:
    """The one line of a token file; ValueError if it cannot be read."""
    return _contents(path).decode("ascii", "replace").strip()


def _cap(leaf: Leaf, text: str) -> int | str:
    if text != "auto" and not text.removeprefix("-").isdecimal():
        raise ValueError(f"{shortened(text)} is wrong: it must be a whole number, or auto")
    return "auto" if text == "auto" else int(_plain(leaf, text))


def _secret(leaf: Leaf, text: str) -> Secret:
    return Secret(_secret_text(text))


_KINDS: dict[str, Callable[[Leaf, str], Any]] = {
    "cap": _cap,
    "secret": _secret,
    "duration": _duration,
    "file": _file,
    "directory": _directory,
    "host": _host,
    "hosts": _hosts,
    "ports": _ports,
    "query": _query,
    "token": _token,
    "token_file": _token_file,
}


def _users(key: str, raw: object, complain: Complain) -> dict[str, User] | None:
    if raw is None or raw == "":
        return {}
    if not isinstance(raw, dict):
        complain(key, f"takes a mapping of user names, not a {_shape(raw)}")
        return None
    return {name: _user(f"{key}.{shown_key(name)}", entry, complain) for name, entry in raw.items()}


def _user(key: str, entry: object, complain: Complain) -> User:
    """A user's proof. Unknown keys are not shown: they may be a password without its key."""
    takes = "takes exactly one of " + ", ".join(_PROOFS)
    if not isinstance(entry, dict):
        complain(key, f"{takes}, as a mapping")
        return User()
    unknown = [name for name in entry if name not in _PROOFS]
    if unknown:
        complain(key, f"{takes}; it has a key of another name" + did_you_mean(unknown[0], _PROOFS))
    elif len(entry) != 1:
        complain(key, f"{takes}, not {len(entry)}")
    else:
        [(proof, text)] = entry.items()
        try:
            return _PROOF_KINDS[proof](text)
        except ValueError as wrong:
            complain(f"{key}.{proof}", str(wrong))
    return User()


def _password(raw: object) -> User:
    return User(password=Secret(_secret_text(raw)))


def _password_file(raw: object) -> User:
    path = _secret_text(raw)
    try:
        text = _contents(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or "\0" in text:
        raise ValueError(f"{path} {'has a NUL in it' if text else 'is empty'}")
    return User(password=Secret(text), password_file=path)


def _verifier(raw: object) -> User:
    text = _secret_text(raw)
    if not is_scram_verifier(text):
        shape = "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
        raise ValueError(f"is not {shape}; copy rolpassword from pg_authid")
    return User(verifier=Secret(text))


def _secret_text(raw: object) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError("takes a text that is not empty")
    if "\0" in raw:
        raise ValueError("has a NUL in it, which PostgreSQL cannot take")
    return raw


_PROOF_KINDS = {"password": _password, "password_file": _password_file, "verifier": _verifier}


def _list(listed: _Listed, key: str, raw: object, complain: Complain) -> tuple[str, ...] | None:
    """A list of names, or one text with commas."""
    if raw is None or raw == "":
        return ()
    names = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(names, list):
        complain(key, f"takes a list of {listed.what} names, not a {_shape(raw)}")
        return None
    found = [name.strip() if isinstance(name, str) else "" for name in names]
    wrong = [name for name in found if not listed.form.fullmatch(name)]
    for name in wrong:
        complain(key, f"{shortened(name)} is not a {listed.what}'s name; {listed.advice}")
    return None if wrong else tuple(found)


def _overrides(key: str, raw: object, complain: Complain) -> tuple[Override, ...] | None:
    if raw is None or raw == "":
        return ()
    if not isinstance(raw, list):
        complain(key, f"takes a list of rules (- match: …), not a {_shape(raw)}")
        return None
    return tuple(_override(f"{key}.{rule}", entry, complain) for rule, entry in enumerate(raw))


def _override(key: str, entry: object, complain: Complain) -> Override:
    if not isinstance(entry, dict):
        complain(key, f"takes a mapping with match and limits, not a {_shape(entry)}")
        return Override(match=Match())
    limits = {}
    for name, raw in entry.items():
        if name in _LIMITS:
            limits[name] = _scalar(_LIMITS[name], f"{key}.{name}", raw, complain)
        elif name != "match":
            complain(f"{key}.{shown_key(name)}", no_such(name, ("match", *_LIMITS)))
    if not any(name in _LIMITS for name in entry):
        complain(key, f"limits nothing; give one of {', '.join(_LIMITS)}")
    return Override(match=_match(f"{key}.match", entry.get("match"), complain), **limits)


def _match(key: str, entry: object, complain: Complain) -> Match:
    if not isinstance(entry, dict) or not entry:
        complain(key, f"takes at least one of {', '.join(_PATTERNS)}, as a mapping")
        return Match()
    patterns: dict[str, str] = {}
    for name, raw in entry.items():
        if name not in _PATTERNS:
            complain(f"{key}.{shown_key(name)}", no_such(name, _PATTERNS))
        elif not isinstance(raw, str):
            complain(f"{key}.{name}", "takes a text; write * for all")
        else:
            patterns[name] = raw
    _check_address(f"{key}.client_addr", patterns.get("client_addr", "unix"), complain)
    return Match(**patterns)


def _check_address(key: str, pattern: str, complain: Complain) -> None:
    try:
        meant = None if pattern == "unix" else ip_network(pattern, strict=False)
    except ValueError:
        advice = "an address, a block such as 10.0.0.0/8, or unix"
        complain(key, f"{shortened(pattern)} is no address; write {advice}")
        return
    if meant and "/" in pattern and ip_address(pattern.partition("/")[0]) != meant.network_address:
        complain(key, f"{shortened(pattern)} has bits beyond its mask; write {meant}")


def no_such(name: str, known: Iterable[str]) -> str:
    hint = "; a space is missing after the colon" if ":" in name else ""
    return "no such setting" + (hint or did_you_mean(name, known))


def did_you_mean(name: str, known: Iterable[str], fold: Callable[[str], str] = str.lower) -> str:
    close = get_close_matches(fold(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def text(value: object, kind: str = "") -> str:
    """A value as it is written; `***` for secrets."""
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()  # as YAML spells it
    if kind == "duration" and isinstance(value, float | int):
        return units.written(value)
    if kind in _LISTS and isinstance(value, tuple):
        return ", ".join(value)
    return " ".join(str(value).split())


def items(settings: Settings) -> Iterator[tuple[str, str, Any, str]]:
    """Every setting as (key, key of the leaf it came by, value, text)."""
    for leaf in LEAVES.values():
        value: Any = settings
        for name in leaf.key.split("."):
            value = getattr(value, name)
        if leaf.kind == "users" and value:
            yield from _entries(leaf.key, value)
        elif leaf.kind == "overrides" and value:
            yield from _entries(leaf.key, {str(rule): own for rule, own in enumerate(value)})
        else:
            yield leaf.key, leaf.key, value, text(value, leaf.kind)


def _entries(leaf_key: str, entries: Mapping[str, Struct]) -> Iterator[tuple[str, str, Any, str]]:
    """What is set in each user or override."""
    for name, entry in entries.items():
        for key, value in _set_fields(f"{leaf_key}.{name}", entry):
            limit = _LIMITS.get(key.rpartition(".")[2])
            yield key, leaf_key, value, text(value, limit.kind if limit else "")


def _set_fields(prefix: str, struct: Struct) -> Iterator[tuple[str, Any]]:
    for name, value in msgspec.structs.asdict(struct).items():
        if isinstance(value, Struct):
            yield from _set_fields(f"{prefix}.{name}", value)
        elif value is not None:
            yield f"{prefix}.{name}", value
