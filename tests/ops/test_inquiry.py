"""ops/inquiry.py without PostgreSQL: what libpq is told. (tests/integration asks a real one.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guardproxy.ops.activity import Unanswered
from guardproxy.ops.inquiry import Inquiry, parameters
from guardproxy.settings import Secret, Upstream, UpstreamTls
from guardproxy.watching import Watch

WATCH = Watch(user="watcher", password=Secret("hunter2"))


def test_it_connects_as_the_guard_does() -> None:
    tls = UpstreamTls(mode="verify-full", ca="/ca", cert="/cert", key="/key")
    told = parameters(Upstream(host="a, b", port="1,2", connect_timeout=15.0, tls=tls), WATCH)
    assert (told["host"], told["port"], told["connect_timeout"]) == ("a,b", "1,2", 15)
    assert (told["user"], told["password"], told["dbname"]) == ("watcher", "hunter2", "postgres")
    assert (told["sslmode"], told["sslrootcert"]) == ("verify-full", "/ca")
    assert (told["sslcert"], told["sslkey"]) == ("/cert", "/key")


def test_what_is_not_set_is_left_out() -> None:
    told = parameters(Upstream(connect_timeout=0.5), Watch(user="watcher"))
    assert not {"password", "sslrootcert", "sslcert", "sslkey"} & told.keys()
    assert told["connect_timeout"] == 2


def test_a_password_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    watch = Watch(user="watcher", password_file=str(file))
    for text, password in (("one\n", "one"), ("two\r\n", "two"), (" three ", " three ")):
        file.write_text(text, newline="")
        assert parameters(Upstream(), watch)["password"] == password
    file.unlink()
    with pytest.raises(Unanswered, match=r"cannot read watch.password_file: FileNotFoundError"):
        Inquiry(Upstream(), watch).look(frozenset())


def test_no_repr_shows_the_password() -> None:
    assert "hunter2" not in repr((WATCH, vars(Inquiry(Upstream(), WATCH))))
