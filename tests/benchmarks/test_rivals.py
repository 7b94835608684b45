"""What each rival is started with."""

from pathlib import Path

import pytest

from benchmarks import rivals
from benchmarks.postgres import Postgres
from benchmarks.programs import RunError
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


def test_the_compiled_copy_is_measured_if_it_is_of_these_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "tree/build/compiled"
    (tree / "guardproxy").mkdir(parents=True)
    (tree / "guardproxy/app.py").write_text("1")
    monkeypatch.setattr(rivals, "ROOT", tree)
    monkeypatch.setattr(rivals, "COMPILED", copy)
    monkeypatch.delenv(rivals.PURE, raising=False)
    assert rivals.home() == tree  # there is none
    (copy / "guardproxy").mkdir(parents=True)
    with pytest.raises(RunError, match="other sources"):
        rivals.home()
    (copy / "guardproxy/app.py").write_text("1")
    assert rivals.home() == copy
    monkeypatch.setenv(rivals.PURE, "1")
    assert rivals.home() == tree
