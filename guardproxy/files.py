"""Ground floor: the files a configuration stands on, and whether they are still the same.

By contents and never by times: a ConfigMap or Secret changes by a symbolic link put in another's
place, a certificate perhaps within one tick of the clock. They are few and small.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from guardproxy.config import Change, Loaded
from guardproxy.leaves import LEAVES, items
from guardproxy.settings import Settings

Look = dict[str, bytes | None]
"""What a look at files found: by path a digest, or None where nothing can be read."""


def look(paths: Iterable[str]) -> Look:
    return {path: _digest(path) for path in paths}


def _digest(path: str) -> bytes | None:
    try:
        return sha256(Path(path).read_bytes()).digest()
    except OSError:
        return None


def paths(loaded: Loaded) -> list[str]:
    """Every file that counts: the configuration's own, then those it names."""
    own = [] if loaded.path is None else [str(loaded.path)]
    return [*own, *named(loaded.settings).values()]


def named(settings: Settings) -> dict[str, str]:
    """The files that settings name, by key."""
    return {
        key: str(value)
        for key, leaf, value, _ in items(settings)
        if value is not None and (LEAVES[leaf].kind == "file" or key.endswith("_file"))
    }


def rewritten(old: Settings, new: Settings, before: Look, after: Look) -> list[Change]:
    """Files that are named as before and have other contents. Of passwords their own key tells."""
    was = named(old)
    return [
        Change(key, path, path)
        for key, path in named(new).items()
        if was.get(key) == path
        and before.get(path) != after.get(path)
        and not key.endswith(".password_file")
    ]
