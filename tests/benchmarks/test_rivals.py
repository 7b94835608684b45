"""What each rival is started with."""

from pathlib import Path

import pytest

from benchmarks.postgres import Postgres
from benchmarks.rivals import (
    GUARDPROXY,
    GUARDPROXY_TRANSACTION,
    IN_TRANSACTION_MODE,
    PGBOUNCER,
    PGBOUNCER_TRANSACTION,
    Setting,
    write_settings,
)

HERE = Path(__file__).parent


@pytest.mark.parametrize("source", ["guardproxy.yaml", "pgbouncer.ini", "haproxy.cfg"])
def test_everybody_has_room_for_as_many_clients_and_servers(source: str, tmp_path: Path) -> None:
    postgres = Postgres(HERE, 1, 1, "PostgreSQL", HERE)
    values = {"port": 1, "auth_type": "plain", "auth_file": "", "pool_mode": "transaction"}
    setting = Setting(pool=77, clients=8888)
    text = write_settings(source, tmp_path, postgres, setting, **values).read_text()
    assert "77" in text
    assert "8888" in text
    assert "$" not in text


def test_a_mode_is_named_whatever_the_default_is(tmp_path: Path) -> None:
    postgres = Postgres(HERE, 1, 1, "PostgreSQL", HERE)
    for mode in ("session", "transaction"):
        file = write_settings("guardproxy.yaml", tmp_path, postgres, Setting(), pool_mode=mode)
        assert f"  mode: {mode}\n" in file.read_text()


def test_each_is_compared_with_its_own_other_mode() -> None:
    assert {
        GUARDPROXY.name: GUARDPROXY_TRANSACTION,
        PGBOUNCER.name: PGBOUNCER_TRANSACTION,
    } == IN_TRANSACTION_MODE
