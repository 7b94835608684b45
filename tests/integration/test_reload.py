"""What is mounted changes while the guard runs: settings, passwords, certificates."""

import os
import shutil
import signal
import ssl
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.integration.certificates import Authority, Certificate
from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.queueing import held
from tests.integration.raw import SSL_REQUEST, Raw
from tests.integration.waiting import eventually

LOOKING = {"reload": {"interval": "50ms"}, "pool": {"mode": "session"}}


class Mounted(Guard):
    """A guard whose configuration is mounted as the kubelet does it.

    `guardproxy.yaml` is a link to `..data/guardproxy.yaml`, and `..data` is a link to a folder that
    is never written to again: a change is a new folder, and one rename.
    """

    def write(self, settings: Any) -> None:
        version = self.folder / f"..{len(list(self.folder.iterdir()))}"
        version.mkdir()
        (version / "guardproxy.yaml").write_text(yaml.safe_dump(dict(settings)))
        os.utime(version / "guardproxy.yaml", (0, 0))
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
        if not self.config.is_symlink():
            self.config.symlink_to("..data/guardproxy.yaml")


def test_a_config_map_is_followed(pg: Postgres) -> None:
    """Taken without a signal, told key by key; who is connected stays."""
    with Mounted(pg, LOOKING) as guard, held(guard) as client:
        guard.settings = {**guard.settings, "timeouts": {"shutdown_timeout": "3s"}}
        guard.write(guard.settings)
        line = guard.wait_for_log(" reloaded ")
        assert 'what="timeouts.shutdown_timeout: 2s -> 3s"' in line
        client.query("select 1")
        assert client.served()
        guard.write({**guard.settings, "pool": {"mode": "passthrough"}})
        guard.wait_for_log("reload_refused.*pool.mode: can only be changed by a restart")
        client.query("select 1")
        assert client.served()
        guard.write(guard.settings)
        guard.wait_for_log("reloaded.*nothing has changed")


def test_a_password_file_is_followed(pg: Postgres, tmp_path: Path) -> None:
    """The YAML is the same; the password is told to have changed and not shown."""
    secret = tmp_path / "password"
    secret.write_text("not it yet")
    users = {"alice": {"password_file": str(secret)}}
    auth = {"auth": {"method": "scram-sha-256", "users": users}}
    with Guard(pg, {**LOOKING, **auth}) as guard:
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            guard.connect("alice")
        secret.write_text(PASSWORDS["alice"])
        line = guard.wait_for_log(" reloaded ")
        assert 'what="auth.users.alice.password: *** has changed"' in line
        with guard.connect("alice") as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert PASSWORDS["alice"] not in guard.log()


class Papers:
    """An authority and a place where the guard's certificate lies, whichever it is just now."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.lay(self.authority.issue("first", "127.0.0.1"))

    def lay(self, made: Certificate) -> None:
        shutil.copy(made.key, self.key)
        shutil.copy(made.cert, self.cert)

    @property
    def settings(self) -> dict[str, Any]:
        files = {"cert": str(self.cert), "key": str(self.key)}
        return {"listen": {"tls": {"mode": "require", **files}}, **LOOKING}

    def name_shown(self, guard: Guard) -> str:
        """The common name in the certificate of a guard."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        with Raw(guard) as client:
            client.send(SSL_REQUEST)
            assert client.exactly(1) == b"S"
            certificate: Any = client.start_tls(context).getpeercert()
            assert certificate is not None
            return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


def test_a_rotated_certificate_is_shown_to_the_next(pg: Postgres, papers: Papers) -> None:
    """Whose link is encrypted already keeps it."""
    with Guard(pg, papers.settings) as guard, guard.connect() as connection:
        assert papers.name_shown(guard) == "first"
        papers.lay(papers.authority.issue("second", "127.0.0.1"))
        eventually(lambda: papers.name_shown(guard) == "second")
        guard.wait_for_log(f"reloaded.*listen.tls.cert: {papers.cert} has changed")
        # At once, or after a look in between at the one without the other.
        guard.wait_for_log("listen.tls.key|is not the key of")
        assert connection.execute("select 1").fetchone() == (1,)


def test_half_a_rotation_is_refused_and_the_whole_taken(pg: Postgres, papers: Papers) -> None:
    """Between the two files nothing changes for anybody."""
    with Guard(pg, papers.settings) as guard:
        made = papers.authority.issue("second", "127.0.0.1")
        shutil.copy(made.cert, papers.cert)
        guard.wait_for_log(f"reload_refused.*{papers.key} is not the key of {papers.cert}")
        assert papers.name_shown(guard) == "first"
        shutil.copy(made.key, papers.key)
        eventually(lambda: papers.name_shown(guard) == "second")
        assert guard.log().count("reload_refused") == 1


def test_a_new_authority_upstream(pg: Postgres, tmp_path: Path, guard: Any) -> None:
    """SIGHUP reads it anew though the YAML is the same: the next server is met by it."""
    authority = tmp_path / "ca.crt"
    folder = tmp_path / "stranger"
    folder.mkdir()
    shutil.copy(Authority(folder, "somebody else").ca, authority)
    running = guard(
        upstream={"tls": {"mode": "verify-ca", "ca": str(authority)}},
        pool={"mode": "session", "query_wait_timeout": "300ms"},
    )
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        running.connect()
    shutil.copy(pg.ca, authority)
    running.process.send_signal(signal.SIGHUP)
    running.wait_for_log(f"reloaded.*upstream.tls.ca: {authority} has changed")
    with running.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)
