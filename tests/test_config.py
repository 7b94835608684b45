"""From files, variables and flags to the settings in force, or to all that is wrong."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest

from guardproxy.config import (
    FLAGS,
    VARIABLES,
    Auth,
    ConfigError,
    Listen,
    ListenTls,
    Loaded,
    Log,
    Match,
    Override,
    Pool,
    Secret,
    Settings,
    Upstream,
    User,
    changes,
    describe,
    load,
    needs_restart,
    settings_table,
)
from guardproxy.leaves import LEAVES

NOTHING: Mapping[str, str] = {}
KEY = b64encode(b"k" * 32).decode()
VERIFIER = f"SCRAM-SHA-256$4096:{KEY}${KEY}:{KEY}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gp.yaml"


def loaded(
    file: Path, text: str, environ: Mapping[str, str] = NOTHING, flags: Mapping[str, str] = NOTHING
) -> Loaded:
    file.write_text(text)
    return load(file, environ, flags)


def problems(
    file: Path, text: str, environ: Mapping[str, str] = NOTHING, flags: Mapping[str, str] = NOTHING
) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(file, text, environ, flags)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return list(refused.value.problems)


# Where a value comes from


def test_without_anything_every_default_is_in_force() -> None:
    found = load(None, NOTHING, NOTHING)
    assert found.settings == Settings()
    assert found.origins == dict.fromkeys(LEAVES, "default")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "pool:\nlisten: {}\n"])
def test_an_empty_file_is_right(file: Path, text: str) -> None:
    assert loaded(file, text).settings == Settings()


def test_flag_beats_environment_beats_file_beats_default(file: Path) -> None:
    text = "pool: {max_server_connections: 1, min_server_connections: 0, max_waiting: 1}"
    environ = {"GUARDPROXY_POOL_MAX_SERVER_CONNECTIONS": "2", "GUARDPROXY_POOL_MAX_WAITING": "2"}
    found = loaded(file, text, environ, {"pool.max_server_connections": "3"})
    assert found.settings.pool == Pool(max_server_connections=3, max_waiting=2)
    assert {key: found.origins[key] for key in found.origins if key.startswith("pool.m")} == {
        "pool.max_server_connections": "flag --max-server-connections",
        "pool.max_prepared_statements": "default",
        "pool.max_waiting": "environment GUARDPROXY_POOL_MAX_WAITING",
        "pool.min_server_connections": f"file {file}",
        "pool.mode": "default",
    }


def test_every_setting_has_a_variable_of_its_own() -> None:
    assert set(VARIABLES.values()) == set(LEAVES)
    assert VARIABLES["GUARDPROXY_LISTEN_TLS_MODE"] == "listen.tls.mode"


def test_every_setting_can_be_set_by_a_variable(tmp_path: Path) -> None:
    (tmp_path / "pem").touch()
    special = {
        "listen.unix_socket_dir": str(tmp_path),
        "auth.method": "scram-sha-256",
        "auth.users": '{"asker": {"password": "hunter2"}}',
        "auth.query": "select $1",
        "auth.query_user": "asker",
        "overrides": '[{"match": {"user": "a"}, "query_wait_timeout": "1s"}]',
        "pool.suspect_functions": "shop.tenant, lock_all",
        "http.enabled": "false",
        "http.allowed_hosts": "guard, guard.example",
        "http.token": "0123456789abcdef",
        "http.token_file": str(tmp_path / "token"),
        "http.require_token": "true",
        "http.quitquitquit": "true",
        "watch.terminate_idle.older_than": "17s",
        "watch.terminate_idle.idle_in_transaction": "17s",
    }
    (tmp_path / "token").write_text("fedcba9876543210\n")
    environ = {
        name: special.get(key) or _other_value(key, tmp_path / "pem")
        for name, key in VARIABLES.items()
    }
    found = load(None, environ, NOTHING)
    assert "default" not in found.origins.values()
    assert not [key for key, *_ in changes(Settings(), found.settings) if key not in found.origins]
    assert {VARIABLES[o.removeprefix("environment ")] for o in found.origins.values()} == set(
        LEAVES
    )


def _other_value(key: str, pem: Path) -> str:
    leaf = LEAVES[key]
    if leaf.kind == "file":
        return str(pem)
    if leaf.kind == "duration":
        return "7s"
    if isinstance(leaf.default, bool):
        return "false" if leaf.default else "true"
    return leaf.choices[-1] if leaf.choices else "17"


def test_every_flag_sets_a_setting() -> None:
    texts = {"upstream.host": "db", "listen.host": "::1", "pool.mode": "passthrough"}
    found = load(None, NOTHING, {key: texts.get(key, "7") for key in FLAGS})
    assert {key: found.origins[key] for key in FLAGS} == {k: f"flag {f}" for k, f in FLAGS.items()}
    assert (found.settings.listen.host, found.settings.listen.port) == ("::1", 7)
    assert found.settings.upstream.addresses == (("db", 7),)
    assert found.settings.pool.mode == "passthrough"


def test_users_and_overrides_of_a_variable_take_the_place_of_the_files(file: Path) -> None:
    text = "auth: {users: {a: {password: x}}}"
    found = loaded(file, text, {"GUARDPROXY_AUTH_USERS": "b: {password: y}"})
    assert found.settings.auth.users == {"b": User(password=Secret("y"))}
    assert found.origins["auth.users.b.password"] == "environment GUARDPROXY_AUTH_USERS"


def test_service_links_the_files_own_name_and_what_builds_it_are_no_settings() -> None:
    environ = {
        "GUARDPROXY_CONFIG": "gp.yaml",
        "GUARDPROXY_PURE": "1",
        "GUARDPROXY_SERVICE_HOST": "10.0.0.1",
        "GUARDPROXY_SERVICE_PORT": "6432",
        "GUARDPROXY_SERVICE_PORT_PG": "6432",
        "GUARDPROXY_PORT": "tcp://10.0.0.1:6432",
        "GUARDPROXY_PORT_6432_TCP": "tcp://10.0.0.1:6432",
        "GUARDPROXY_PORT_6432_TCP_ADDR": "10.0.0.1",
        "GUARDPROXY_EU_SERVICE_HOST": "10.0.0.1",
        "GUARDPROXY_EU_PORT": "tcp://10.0.0.1:6432",
    }
    assert load(None, environ, NOTHING).settings == Settings()


# What is wrong


def test_all_problems_of_all_sources_are_told_at_once(file: Path) -> None:
    text = """
listn: {}
pool:
  query_wait_timeout: 20
  max_server_connections: many
  idle_session_timeout: 5min
upstream: db
limits: {max_client_conections: 5}
listen: {port: 70000, tls: {mode: requir}}
timeouts: {shutdown_timeout: 1h:30}
"""
    environ = {
        "GUARDPROXY_POOL_SIZE": "3",
        "GUARDPROXY_POOL_MOD": "session",
        "GUARDPROXY_POOL_MAX_WAITING": "-1",
        "HOME": "/",
    }
    assert problems(file, text, environ, {"listen.port": "x"}) == [
        "listn: no such setting; did you mean listen?",
        "pool.query_wait_timeout: 20 has no unit; write 20s or 20ms",
        "pool.max_server_connections: 'many' is wrong: it must be a whole number, or auto",
        "pool.idle_session_timeout: no such setting; did you mean timeouts.idle_session_timeout?",
        "upstream: is a section; its settings stand below it, such as upstream.host",
        "limits.max_client_conections: no such setting; did you mean max_client_connections?",
        "listen.port: '70000' is wrong: it must be a whole number <= 65535",
        "listen.tls.mode: 'requir' is none of disable, allow, require, verify-full;"
        " did you mean require?",
        "timeouts.shutdown_timeout: '1h:30' is not a duration; write one like 15min, 20s or 250ms",
        "GUARDPROXY_POOL_SIZE: no such setting; did you mean GUARDPROXY_POOL_MODE?",
        "GUARDPROXY_POOL_MOD: no such setting; did you mean GUARDPROXY_POOL_MODE?",
        "pool.max_waiting: '-1' is wrong: it must be a whole number >= 0"
        " (GUARDPROXY_POOL_MAX_WAITING)",
        "listen.port: 'x' is wrong: it must be a whole number (--listen)",
    ]


def test_a_wrong_value_is_told_though_another_source_beats_it(file: Path) -> None:
    said = problems(file, "pool: {mode: x}", NOTHING, {"pool.mode": "session"})
    assert said == ["pool.mode: 'x' is none of transaction, session, passthrough"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool:\n  mode: [\n", "3: not YAML: "),
        ("pool: {}\npool: {}\n", "2: pool stands twice, first in line 1; keep one"),
        ("[a]", " takes a mapping of sections (listen:, upstream:, …)"),
        ("run", " takes a mapping of sections (listen:, upstream:, …)"),
        ("a: \x00", " is not UTF-8 text without control characters"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_its_line(
    file: Path, text: str, said: str
) -> None:
    [problem] = problems(file, text)
    assert problem.startswith(f"{file}:{said}")


def test_a_missing_file_is_named_and_the_rest_still_checked(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as refused:
        load(missing, {"GUARDPROXY_POOL_MODE": "x"}, NOTHING)
    assert refused.value.problems == (
        f"{missing}: cannot read: No such file or directory",
        "pool.mode: 'x' is none of transaction, session, passthrough (GUARDPROXY_POOL_MODE)",
    )


def test_a_space_forgotten_after_a_colon_is_seen(file: Path) -> None:
    said = problems(file, "pool: {mode:session, max_waiting: 1}")
    assert said == ["pool.mode…: no such setting; a space is missing after the colon"]


# What does not fit together

USERS = "users: {asker: {password: x}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "listen: {tls: {mode: require}}",
            "listen.tls.mode: require needs listen.tls.cert and listen.tls.key",
        ),
        (
            "listen: {tls: {cert: PEM}}",
            "listen.tls.key: listen.tls.cert needs its private key here",
        ),
        ("listen: {tls: {key: PEM}}", "listen.tls.cert: listen.tls.key needs its certificate here"),
        (
            "listen: {tls: {mode: verify-full, cert: PEM, key: PEM}}",
            "listen.tls.mode: verify-full needs listen.tls.ca",
        ),
        (
            "upstream: {tls: {cert: PEM}}",
            "upstream.tls.key: upstream.tls.cert needs its private key here",
        ),
        (
            "upstream: {tls: {mode: verify-ca}}",
            "upstream.tls.mode: verify-ca needs upstream.tls.ca",
        ),
        (
            "upstream: {host: 'a,b,c', port: '1,2'}",
            "upstream.port: has 2 ports for 3 in upstream.host; give one for all, or one for each",
        ),
        (
            "upstream: {port: '1,2'}",
            "upstream.port: has 2 ports for 1 in upstream.host; give one for all, or one for each",
        ),
        (
            "pool: {max_server_connections: 4, min_server_connections: 5}",
            "pool.min_server_connections: 5 is more than the 4 of pool.max_server_connections;"
            " lower it, or raise the cap",
        ),
        (
            "auth: {method: scram-sha-256}",
            "auth.method: scram-sha-256 needs auth.users or auth.query",
        ),
        (
            "auth: {method: scram-sha-256, query: select $1}",
            "auth.query: needs auth.query_user, who runs it",
        ),
        (
            "auth: {method: scram-sha-256, query: select $1, query_user: x, " + USERS + "}",
            "auth.query_user: x is not in auth.users; add it there with its password",
        ),
        (
            "auth: {method: scram-sha-256, query: select $1, query_user: x,"
            f" users: {{x: {{verifier: '{VERIFIER}'}}}}}}",
            "auth.query_user: x has only a verifier in auth.users; give its password",
        ),
        (
            "auth: {query_user: asker, " + USERS + "}",
            "auth.query_user: is of no use without auth.query; leave it out",
        ),
        (
            "auth: {query: select $1, query_user: asker, " + USERS + "}",
            "auth.query: is of no use with auth.method password; leave it out",
        ),
        (
            "pool: {max_server_connections: auto}",
            "pool.max_server_connections: auto needs watch.user, who asks PostgreSQL, and a"
            " watch.interval",
        ),
        (
            "{pool: {max_server_connections: auto}, watch: {user: watcher, interval: 0}}",
            "pool.max_server_connections: auto needs watch.user, who asks PostgreSQL, and a"
            " watch.interval",
        ),
        (
            "watch: {terminate_idle: {older_than: 15min}}",
            "watch.terminate_idle.older_than: needs watch.user, who ends them",
        ),
        (
            "watch: {user: watcher, terminate_idle: {idle_in_transaction: 15s}}",
            "watch.terminate_idle.idle_in_transaction: is less than two of watch.interval;"
            " raise it, or look more often",
        ),
    ],
)
def test_combinations_that_do_not_fit(file: Path, text: str, said: str) -> None:
    file.with_name("pem").touch()
    text = text.replace("PEM", str(file.with_name("pem")))
    assert problems(file, text) == [said]


@pytest.mark.parametrize(
    "text",
    [
        "listen: {tls: {mode: verify-full, cert: PEM, key: PEM, ca: PEM}}",
        "upstream: {tls: {mode: verify-full, ca: PEM}}",
        "upstream: {host: 'a,b', port: '1,2'}",
        "upstream: {host: 'a,b', port: 1}",
        "pool: {max_server_connections: 4, min_server_connections: 4}",
        "auth: {method: scram-sha-256, " + USERS + "}",
        "auth: {method: scram-sha-256, query: select $1, query_user: asker, " + USERS + "}",
        "{pool: {max_server_connections: auto, min_server_connections: 9}, watch: {user: w}}",
        "watch: {user: w, interval: 0, terminate_idle: {older_than: 1s, dry_run: false}}",
        "watch: {user: w, password: x, terminate_idle: {older_than: 20s, when: {idle: 3}}}",
    ],
)
def test_combinations_that_fit(file: Path, text: str) -> None:
    file.with_name("pem").touch()
    assert loaded(file, text.replace("PEM", str(file.with_name("pem")))).settings != Settings()


def test_a_value_that_is_wrong_by_itself_is_not_told_twice(file: Path) -> None:
    text = """
listen: {tls: {mode: require, cert: /none, key: /none}}
upstream: {host: "a,,b", port: "1,2"}
"""
    assert [said.partition(":")[0] for said in problems(file, text)] == [
        "listen.tls.cert",
        "listen.tls.key",
        "upstream.host",
    ]


# Reload


def test_changes_are_told_with_both_texts() -> None:
    old = Settings(
        auth=Auth(users={"a": User(password=Secret("x")), "b": User(password=Secret("x"))})
    )
    new = Settings(
        auth=Auth(users={"a": User(password=Secret("y")), "c": User(password=Secret("x"))}),
        pool=Pool(query_wait_timeout=60.0),
        overrides=(Override(match=Match(user="a"), idle_session_timeout=0.0),),
    )
    assert changes(old, old) == []
    assert sorted(changes(old, new)) == [
        ("auth.users.a.password", "***", "***"),
        ("auth.users.b.password", "***", "none"),
        ("auth.users.c.password", "none", "***"),
        ("overrides.0.idle_session_timeout", "none", "0"),
        ("overrides.0.match.user", "none", "a"),
        ("pool.query_wait_timeout", "20s", "1min"),
    ]


def test_the_first_user_is_one_change() -> None:
    new = Settings(auth=Auth(users={"a": User(password=Secret("x"))}))
    assert changes(Settings(), new) == [("auth.users.a.password", "none", "***")]
    assert changes(new, Settings()) == [("auth.users.a.password", "***", "none")]


@pytest.mark.parametrize(
    ("new", "keys"),
    [
        (Settings(), ()),
        (Settings(listen=Listen(host="::1", port=1)), ("listen.host", "listen.port")),
        (Settings(listen=Listen(unix_socket_dir="/run")), ("listen.unix_socket_dir",)),
        (Settings(listen=Listen(tls=ListenTls(mode="require"))), ("listen.tls.mode",)),
        (Settings(listen=Listen(tls=ListenTls(cert="a", key="b", ca="c"))), ()),
        (Settings(pool=Pool(mode="passthrough", max_server_connections=1)), ("pool.mode",)),
        (Settings(upstream=Upstream(host="db"), log=Log(level="debug")), ()),
    ],
)
def test_what_needs_a_restart(new: Settings, keys: tuple[str, ...]) -> None:
    assert needs_restart(Settings(), new) == keys


# What people read


def test_describe_shows_each_setting_with_its_origin_in_line(file: Path) -> None:
    query = "select usename,\n  passwd from pg_shadow where usename = $1"
    text = """
auth:
  method: scram-sha-256
  users: {a: {password: hunter2}}
  query_user: a
pool: {suspect_functions: [lock_all, shop.tenant]}
overrides: [{match: {user: b}, idle_session_timeout: 90s}]
"""
    lines = describe(loaded(file, text, {"GUARDPROXY_AUTH_QUERY": query})).splitlines()
    assert [line.split(" = ")[0].strip() for line in lines if f"# file {file}" in line] == [
        "auth.method",
        "auth.users.a.password",
        "auth.query_user",
        "pool.suspect_functions",
        "overrides.0.match.user",
        "overrides.0.idle_session_timeout",
    ]
    said = {line.split(" = ")[0].strip(): line.split(" = ", 1)[1].split("  # ") for line in lines}
    assert said["auth.users.a.password"][0].strip() == "***"
    assert said["overrides.0.idle_session_timeout"][0].strip() == "90s"
    assert said["pool.suspect_functions"][0].strip() == "lock_all, shop.tenant"
    assert said["timeouts.idle_session_timeout"] == [f"{'15min':<40}", "default"]
    assert said["auth.query"] == [" ".join(query.split()), "environment GUARDPROXY_AUTH_QUERY"]
    assert len({line.index(" = ") for line in lines}) == 1
    assert len({line.index("  # ") for line in lines if "auth.query " not in line}) == 1


def test_the_table_has_each_setting_with_its_default_and_meaning() -> None:
    head, rule, *rows = settings_table().splitlines()
    assert (head, rule) == ("| key | default | meaning |", "| --- | --- | --- |")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [cell[0] for cell in cells] == [f"`{key}`" for key in LEAVES]
    assert {len(cell) for cell in cells} == {3}
    table = {key: (default, meaning) for key, default, meaning in cells}
    assert table["`pool.query_wait_timeout`"][0] == "`20s`"
    assert table["`timeouts.idle_session_timeout`"][0] == "`15min`"
    assert table["`listen.tls.cert`"][0] == "none"
    assert table["`log.format`"][1].endswith(": `text`, `json`")
