"""Faults for tests: one function of the guard raises at one of its calls, whoever calls it.

The code of the function is exchanged, so it does not matter who has imported it from where.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any

PACKAGES = ("session", "pool", "net")
DOORS = {
    *("makeConnection", "dataReceived", "connectionLost", "buildProtocol", "ClientLink.__init__"),
    *("_look", "_wait_looked_at", "_cancel_again", "server_lost", "departed"),
    *("client_over", "forget", "hear", "_cancel_now", "_until_clean", "Errand._over"),
}
"""What the loop itself calls, or a Deferred whose end it is: nothing stands behind to catch."""
APART = {"faults", "log", "service", "streams", "transport"}
"""Modules of net that mend and tell, or that the stage has none of."""
NEVER = -1

_armed: Injection | None = None


class Injected(Exception):
    """An exception that nobody expected."""


_STUB = """
def outer({cells}):
    def stub(*args, **kwargs):
        if args is None:
            return {cells}
        from tests.net.injection import called
        return called(args, kwargs)
    return stub
"""


def _code(function: FunctionType) -> CodeType:
    """Code that asks `called`, with the same cells as the function has."""
    made: dict[str, Any] = {}
    exec(_STUB.format(cells=", ".join(function.__code__.co_freevars)), made)  # noqa: S102
    code: CodeType = made["outer"](*function.__code__.co_freevars).__code__
    return code


class Injection:
    """`function` raises at call `at`, counted from 1; `calls` is how many there were."""

    def __init__(self, function: FunctionType, at: int) -> None:
        self.calls = 0
        self._at = at
        self._original = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        self._original.__kwdefaults__ = function.__kwdefaults__

    def called(self, args: Any, kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == self._at:
            raise Injected(self._original.__name__)
        return self._original(*args, **kwargs)


def called(args: Any, kwargs: Any) -> Any:
    assert _armed is not None
    return _armed.called(args, kwargs)


@contextmanager
def injected(function: FunctionType, at: int) -> Iterator[Injection]:
    global _armed
    code = function.__code__
    _armed = Injection(function, at)
    function.__code__ = _code(function)
    try:
        yield _armed
    finally:
        function.__code__ = code
        _armed = None


def modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        where = importlib.import_module(f"guardproxy.{package}")
        for found in pkgutil.iter_modules(where.__path__):
            if package == "net" and found.name in APART:
                continue
            yield importlib.import_module(f"guardproxy.{package}.{found.name}")


def hooks() -> dict[str, FunctionType]:
    """All functions, methods and properties of session and pool, by their names."""
    found: dict[str, FunctionType] = {}
    for module in modules():
        for owner in (module, *_classes(module)):
            for value in vars(owner).values():
                function = _function(value)
                if function is None or function.__module__ != module.__name__:
                    continue
                if not DOORS & {function.__name__, function.__qualname__}:
                    found[f"{module.__name__[11:]}.{function.__qualname__}"] = function
    return dict(sorted(found.items()))


def _classes(module: ModuleType) -> list[type]:
    named = [value for value in vars(module).values() if inspect.isclass(value)]
    return [each for each in named if each.__module__ == module.__name__]


def _function(value: object) -> FunctionType | None:
    """The function behind a method, a property, or a cache; None where the code is not written."""
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, property):
        value = value.fget
    value = getattr(value, "__func__", value)
    is_ours = isinstance(value, FunctionType) and value.__code__.co_filename.endswith(".py")
    return value if is_ours and isinstance(value, FunctionType) else None
