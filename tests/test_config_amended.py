"""config.py: what the console's SET can change, and who may use the console."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guardproxy.config import ConfigError, amended, changeable, load


def test_settings_are_amended_from_texts() -> None:
    loaded = load(None, {}, {})
    new = amended(loaded, {"timeouts.idle_session_timeout": "5min", "listen.tls.ca": ""})
    assert new.settings.timeouts.idle_session_timeout == 300.0
    assert new.origins["timeouts.idle_session_timeout"] == "SET"
    assert loaded.origins["timeouts.idle_session_timeout"] == "default"


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("pool.mod", "x", "pool.mod: no such setting; did you mean pool.mode?"),
        ("pool.max_server_connections", "0", "pool.max_server_connections: '0' is wrong"),
        ("overrides", "[]", "overrides: is a mapping; change it in the file, and RELOAD"),
        ("pool.min_server_connections", "99", "pool.min_server_connections: 99 is more than"),
    ],
)
def test_or_refused_as_a_file_would_be(key: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        amended(load(None, {}, {}), {key: text})
    assert refused.value.problems[0].startswith(problem)


def test_what_set_can_change() -> None:
    assert changeable("pool.max_server_connections")
    assert not any(map(changeable, ("pool.mode", "listen.port", "overrides", "no.such")))


@pytest.mark.parametrize("text", ["ops, grafana", ["ops", "grafana"]])
def test_console_users_are_a_list(text: object, tmp_path: Path) -> None:
    file = tmp_path / "guardproxy.yaml"
    file.write_text(json.dumps({"console": {"users": text}}))
    assert load(file, {}, {}).settings.console.users == ("ops", "grafana")


def test_a_users_name_has_no_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, {"GUARDPROXY_CONSOLE_USERS": "ops grafana"}, {})
    assert "write names with commas between them" in refused.value.problems[0]
