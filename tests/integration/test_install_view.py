"""guardproxy install-view (ops/install.py), and the README's admin that stands on it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually
from tests.integration.watching import asks, prepare

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
VIEW = "select pid, state, guarded, endable from guardproxy.connections"

SITE = """
import django, os, sys
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1",
                           "PORT": sys.argv[1], "NAME": "app", "USER": "alice",
                           "PASSWORD": sys.argv[2]}},
    SECRET_KEY="x", ROOT_URLCONF="site_urls", USE_TZ=True, ALLOWED_HOSTS=["*"], STATIC_URL="/s/",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
                    "django.contrib.sessions", "django.contrib.messages", "watched"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
                "OPTIONS": {"context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages"]}}],
)
django.setup()
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client
from django.test.utils import setup_test_environment

setup_test_environment()
call_command("migrate", verbosity=0)
boss, viewer = User.objects.create_superuser("boss"), User.objects.create_user("v", is_staff=True)
viewer.user_permissions.add(Permission.objects.get(codename="view_postgresconnection"))
pid, url = sys.argv[3], "/admin/watched/postgresconnection/"
client = Client()
client.force_login(boss)
page = client.get(url).content.decode()
assert "cron job" in page and f'value="{pid}"' in page, page
assert client.get(url + "add/").status_code == 403
assert client.get(url, {"endable__exact": "1", "database": "app"}).status_code == 200
other = Client()
other.force_login(viewer)
page = other.get(url).content.decode()
assert "cron job" in page and "End what is idle" not in page, page
told = client.post(url, {"action": "end_idle", "_selected_action": [pid]}, follow=True)
print([str(message) for message in told.context["messages"]])
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "guardproxy", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def dsn(cluster: Postgres, user: str = "admin", dbname: str = "app") -> str:
    return f"host={cluster.folder} port={cluster.port} user={user} dbname={dbname}"


@pytest.fixture(scope="module", params=["system", "embedded"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres(request.param, hba="trust", tls=False) as made:
        yield prepare(made)


@pytest.fixture
def installed(cluster: Postgres) -> Iterator[Postgres]:
    """With the view for alice, made by the README's own command."""
    (line,) = re.findall(r"^guardproxy (install-view .*)$", README, re.MULTILINE)
    line = line.replace("--grant-to app", "--grant-to alice")
    words = [dsn(cluster) if word.startswith("host=db") else word for word in shlex.split(line)]
    done = command(*words)
    assert (done.returncode, done.stdout) == (0, "installed in schema guardproxy\n"), done.stderr
    yield cluster
    cluster.query("drop schema if exists guardproxy cascade", dbname="app")


def seen(link: psycopg.Connection[Any], pid: int) -> Any:
    row = link.execute(f"{VIEW} where pid = {pid}").fetchone()
    return row and row[1:]


def end(link: psycopg.Connection[Any], pid: int) -> bool:
    """As somebody does who has just seen the list."""
    start = "select backend_start from guardproxy.connections where pid = %s"
    (started,) = link.execute(start, [pid]).fetchone() or (None,)
    (ended,) = link.execute("select guardproxy.end_idle(%s, %s)", [pid, started]).fetchone() or (0,)
    return bool(ended)


def test_one_without_privileges_sees_and_ends_what_is_idle(installed: Postgres) -> None:
    with installed.connect() as alice, installed.connect("bob", "other") as bob:
        pid = bob.info.backend_pid
        assert seen(alice, pid) == ("idle", False, True)
        assert end(alice, pid)
        eventually(lambda: seen(alice, pid) is None)
        with pytest.raises(psycopg.OperationalError):
            bob.execute("select 1")


def test_it_refuses_the_rest(installed: Postgres) -> None:
    """A superuser, one in a transaction, one of a guard, itself, and a pid that has come again."""
    with (
        installed.connect() as alice,
        installed.admin() as superuser,
        installed.connect("bob") as in_transaction,
        installed.connect("bob") as guarded,
        installed.connect("bob") as other,
    ):
        in_transaction.execute("begin")
        watcher = asks(installed)
        watcher.look(frozenset((guarded.info.backend_pid,)))
        links = (superuser, in_transaction, guarded, alice)
        assert seen(alice, guarded.info.backend_pid) == ("idle", True, False)
        assert [end(alice, link.info.backend_pid) for link in links] == [False] * 4
        again = "select guardproxy.end_idle(%s, '2001-01-01')"
        assert alice.execute(again, [other.info.backend_pid]).fetchone() == (False,)
        for link in (*links, other):
            link.execute("select 1")
        in_transaction.execute("rollback")
        watcher.close()


def test_nobody_else_may(installed: Postgres) -> None:
    with installed.connect("bob") as bob:
        for text in (VIEW, "select guardproxy.end_idle(1, now())"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                bob.execute(sql.SQL(text))
    grants = installed.query(
        "select proname, prosecdef, proconfig, pg_get_userbyid(proowner), proacl::text"
        " from pg_proc where pronamespace = 'guardproxy'::regnamespace order by 1",
        dbname="app",
    )
    for name, definer, config, owner, acl in grants:
        assert (definer, config) == (True, ["search_path=pg_catalog, pg_temp"]), name
        assert owner == "guardproxy_owner"
        assert "{=X" not in acl
        assert ",=X" not in acl
    assert len(grants) == 2


def test_the_owner_can_do_no_more_than_its_functions_need(installed: Postgres) -> None:
    asked = (
        "select rolcanlogin, rolsuper, has_schema_privilege(oid, 'guardproxy', 'create')"
        " from pg_roles where rolname = 'guardproxy_owner'"
    )
    assert installed.query(asked, dbname="app") == [(False, False, False)]


def test_no_search_path_leads_it_astray(installed: Postgres) -> None:
    """A function of the caller's that is called as one of PostgreSQL's is not run."""
    with installed.connect() as alice:
        trap = "create function public.pg_backend_pid() returns int language sql as 'select 1/0'"
        alice.execute(trap)
        alice.execute("set search_path = public, pg_catalog")
        with pytest.raises(psycopg.errors.DivisionByZero):
            alice.execute("select pg_backend_pid()")
        assert seen(alice, alice.info.backend_pid) == ("active", False, False)
        alice.execute("drop function public.pg_backend_pid()")


def test_it_may_be_installed_again(installed: Postgres) -> None:
    assert command("install-view", "--apply", dsn(installed)).returncode == 0


def test_a_master_role_that_is_no_superuser_can_install_it(cluster: Postgres) -> None:
    """As those of hosted PostgreSQL are."""
    cluster.query("create role master login createrole")
    cluster.query("grant pg_monitor, pg_signal_backend to master with admin option")
    cluster.query("grant create on database app to master")
    login = f"host=127.0.0.1 port={cluster.port} user=master dbname=app"
    for _ in range(2):
        done = command("install-view", "--apply", login, "--grant-to", "alice", "--schema", "m y")
        assert done.returncode == 0, done.stderr
    with cluster.connect() as alice:
        assert alice.execute('select count(*) > 0 from "m y".connections').fetchone() == (True,)
    cluster.query('drop schema "m y" cascade', dbname="app")


def test_refusals(cluster: Postgres) -> None:
    """Whole or not at all; and a message, not a traceback."""
    done = command("install-view", "--apply", dsn(cluster), "--grant-to", "nobody at all")
    assert done.returncode == 1
    assert 'role "nobody at all" does not exist' in done.stderr
    assert (
        cluster.query("select 1 from pg_namespace where nspname = 'guardproxy'", dbname="app") == []
    )
    done = command("install-view", "--apply", "host=127.0.0.1 port=1 password=hunter2")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "hunter2" not in done.stderr
    assert command("install-view", "--schema", "").returncode == 2


def test_what_is_printed_is_what_is_applied(cluster: Postgres) -> None:
    printed = command("install-view", "--grant-to", "alice")
    psql: list[Any] = [cluster.bin / "psql", "-qX", "-v", "ON_ERROR_STOP=1", dsn(cluster)]
    done = subprocess.run(psql, input=printed.stdout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    cluster.query("drop schema guardproxy cascade", dbname="app")


def test_the_admin_of_the_readme(installed: Postgres, tmp_path: Path) -> None:
    """Its models and its admin, as they stand there, in a Django that serves them."""
    app = tmp_path / "watched"
    app.mkdir()
    (app / "__init__.py").touch()
    for block in re.findall(r"```python\n(# (?:models|admin)\.py\n.*?)```", README, re.DOTALL):
        (app / block.split()[1]).write_text(block)
    (tmp_path / "site_urls.py").write_text(
        "from django.contrib import admin\nfrom django.urls import path\n"
        "urlpatterns = [path('admin/', admin.site.urls)]\n"
    )
    (tmp_path / "site_run.py").write_text(SITE)
    with installed.connect("bob", application_name="cron job") as bob:
        pid = bob.info.backend_pid
        line = [sys.executable, "site_run.py", str(installed.port), "x", str(pid)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout == "['1 of 1 ended']\n", done.stderr
        with pytest.raises(psycopg.OperationalError):
            bob.execute("select 1")
