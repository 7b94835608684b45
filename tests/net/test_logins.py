"""net/logins.py: what logins ask of PostgreSQL, each question once however many wait for it."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Auth, Pool, Secret, Timeouts, User
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from guardproxy.wire.scram import MECHANISM, ClientExchange, ScramKeys, Verifier
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage

SECRET = "correct horse"
REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.fixture
def asking(stage: Stage) -> Stage:
    """PostgreSQL asks django for a password."""
    stage.postgres.passwords["django"] = SECRET
    return stage


def logged_in(client: Client) -> bool:
    return client.hear()[-1:] == ["Z I"]


# -- password --------------------------------------------------------------------------------------


def test_where_postgres_asks_for_nothing_neither_do_we(stage: Stage) -> None:
    assert "R 3" not in stage.connect().log_in().hear()


def test_the_first_login_is_tried_on_postgres_and_its_server_kept(asking: Stage) -> None:
    client = asking.connect().log_in(password=SECRET)
    assert client.hear()[:2] == ["R 3", "R 0"]
    assert asking.populations() == {"idle": 1}
    assert asking.postgres.logins == 1


def test_three_hundred_at_once_make_one_trial(asking: Stage) -> None:
    clients = [asking.connect() for _ in range(300)]
    packet = messages.startup_message({"user": "django", "database": "shop"})
    for client in clients:
        client.wire.send(packet + messages.password_message(SECRET.encode()))
    asking.run()
    assert all(logged_in(client) for client in clients)
    assert asking.postgres.logins == 1
    assert asking.postgres.dialled == 2  # does it ask, and is this the password


def test_the_next_is_known_without_asking(asking: Stage) -> None:
    asking.connect().log_in(password=SECRET)
    dialled = asking.postgres.dialled
    assert logged_in(asking.connect().log_in(password=SECRET))
    assert asking.postgres.dialled == dialled


def test_a_wrong_password_is_refused_in_postgres_words(asking: Stage) -> None:
    client = asking.connect().log_in(password="wrong")
    said = client.refusal()
    assert (said["S"], said["C"]) == ("FATAL", "28P01")
    assert said["M"] == 'password authentication failed for user "django"'
    assert client.ended is Reason.LOGIN_REFUSED
    assert asking.populations() == {}


def test_a_wrong_password_does_not_harm_who_knows_the_right_one(asking: Stage) -> None:
    asking.connect().log_in(password=SECRET)
    asking.connect().log_in(password="wrong")
    dialled = asking.postgres.dialled
    assert logged_in(asking.connect().log_in(password=SECRET))
    assert asking.postgres.dialled == dialled


def test_wrong_and_right_at_the_same_time_are_two_trials(asking: Stage) -> None:
    packet = messages.startup_message({"user": "django", "database": "shop"})
    right, wrong = asking.connect(), asking.connect()
    right.wire.send(packet + messages.password_message(SECRET.encode()))
    wrong.wire.send(packet + messages.password_message(b"wrong"))
    asking.run()
    assert logged_in(right)
    assert wrong.refusal()["C"] == "28P01"


def test_a_changed_password_needs_nothing_of_us(asking: Stage) -> None:
    asking.connect().log_in(password=SECRET).leave()
    asking.postgres.passwords["django"] = "new"
    assert logged_in(asking.connect().log_in(password="new"))
    account = next(iter(asking.pooler.entrance.logins.accounts.values()))
    assert account.credential is not None
    assert account.credential.password == "new"


def test_an_old_password_is_good_no_longer_than_cache_ttl(stages: Stages) -> None:
    stage = stages(auth=Auth(cache_ttl=60.0))
    stage.postgres.passwords["django"] = SECRET
    stage.connect().log_in(password=SECRET).leave()
    stage.postgres.passwords["django"] = "new"
    stage.wait(61.0)
    assert stage.connect().log_in(password=SECRET).refusal()["C"] == "28P01"


def test_with_no_cache_every_login_is_tried(stages: Stages) -> None:
    stage = stages(auth=Auth(cache_ttl=0.0))
    stage.postgres.passwords["django"] = SECRET
    for _ in range(3):
        assert logged_in(stage.connect().log_in(password=SECRET))
    assert stage.postgres.logins == 3


def test_what_was_proved_opens_further_servers(asking: Stage) -> None:
    for _ in range(2):
        asking.connect().log_in(password=SECRET).query("SELECT 1")
    assert asking.populations() == {"leased": 2}


def test_a_password_postgres_refuses_for_a_server_is_forgotten(asking: Stage) -> None:
    asking.connect().log_in(password=SECRET).query("SELECT 1")
    second = asking.connect().log_in(password=SECRET)
    second.hear()
    asking.postgres.passwords["django"] = "new"
    second.query("SELECT 1")
    assert second.refusal()["C"] == "28P01"
    account = next(iter(asking.pooler.entrance.logins.accounts.values()))
    assert account.credential is None


def test_an_empty_password_is_no_password(asking: Stage) -> None:
    client = asking.connect().log_in(password="")
    assert client.refusal()["C"] == "28P01"
    assert asking.postgres.logins == 0


def test_a_database_that_does_not_exist_is_told_as_postgres_does(stage: Stage) -> None:
    client = stage.connect().log_in(database="nowhere")
    assert client.refusal()["M"] == 'database "nowhere" does not exist'


def test_names_nobody_got_in_with_are_forgotten(asking: Stage) -> None:
    for name in ("a", "b", "c"):
        asking.connect().log_in(database=name, password=SECRET)
    asking.sweep()
    assert asking.pooler.entrance.logins.accounts == {}


# -- a PostgreSQL that is away for a moment --------------------------------------------------------


def restarted_during(stage: Stage, client: Client) -> None:
    stage.postgres.down = None
    stage.wait(3.0)


def test_a_right_password_waits_for_postgres(asking: Stage) -> None:
    asking.postgres.down = REFUSED
    client = asking.connect().log_in(password=SECRET)
    restarted_during(asking, client)
    assert logged_in(client)


def test_a_wrong_password_is_still_wrong_after_a_failed_connect(stages: Stages) -> None:
    """The trial that is tried again is tried with what this client said."""
    stage = stages()
    stage.postgres.passwords["django"] = SECRET
    stage.connect().log_in(password=SECRET)
    stage.postgres.down = REFUSED
    client = stage.connect().log_in(password="wrong")
    client.hear()
    restarted_during(stage, client)
    assert client.refusal().get("C") == "28P01"
    assert stage.pooler.totals.logins == 1


def test_nobody_gets_in_unasked_after_a_failed_connect(stages: Stages) -> None:
    """ "Does PostgreSQL ask?" is not answered with the password we know."""
    stage = stages(auth=Auth(cache_ttl=5.0))
    stage.postgres.passwords["django"] = SECRET
    stage.connect().log_in(password=SECRET)
    stage.wait(6.0)
    stage.postgres.down = REFUSED
    client = stage.connect().log_in()
    restarted_during(stage, client)
    assert client.hear() == ["R 3"]


def test_who_hangs_up_during_its_trial_leaves_the_others_to_it(asking: Stage) -> None:
    asking.postgres.down = REFUSED
    first, second = (asking.connect().log_in(password=SECRET) for _ in range(2))
    first.hang_up()
    restarted_during(asking, second)
    assert logged_in(second)


def test_the_last_to_hang_up_takes_the_question_with_it(asking: Stage) -> None:
    asking.postgres.down = REFUSED
    clients = [asking.connect().log_in(password=SECRET) for _ in range(3)]
    for client in clients:
        client.hang_up()
    assert asking.pooler.admission.waiting == 0
    asking.postgres.down = None
    asking.wait(3.0)
    assert asking.postgres.live == []


# -- scram-sha-256 ---------------------------------------------------------------------------------


def scram(client: Client, password: str) -> str:
    """Log in with SCRAM; returns the last thing it was told."""
    client.log_in()
    assert client.hear() == ["R 10"]
    exchange = ClientExchange()
    client.send(messages.sasl_initial(MECHANISM, exchange.first()))
    server_first = client.wire.taken()[9:]
    keys = ScramKeys.derive(password, *exchange.salt_and_iterations(server_first))
    client.send(message(messages.PASSWORD, exchange.final(server_first, keys)))
    return client.hear()[-1]


def test_scram_users_prove_themselves_to_us(stages: Stages) -> None:
    users = {"django": User(password=Secret(SECRET))}
    stage = stages(auth=Auth(method="scram-sha-256", users=users))
    stage.postgres.passwords["django"] = SECRET
    client = stage.connect()
    assert scram(client, SECRET) == "Z I"
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]


@pytest.mark.parametrize("user", ["django", "nobody"])
def test_wrong_password_and_unknown_user_look_alike(stages: Stages, user: str) -> None:
    users = {user: User(password=Secret(SECRET))} if user == "django" else {}
    stage = stages(auth=Auth(method="scram-sha-256", users=users))
    assert scram(stage.connect(), "wrong") == "E 28P01"
    assert stage.postgres.dialled == 0


LOOK_UP = Auth(
    method="scram-sha-256",
    users={"guard": User(password=Secret("guard's own"))},
    query="SELECT user, verifier FROM users WHERE user = $1",
    query_user="guard",
)


def test_verifiers_can_come_from_auth_query(stages: Stages) -> None:
    stage = stages(auth=LOOK_UP)
    stage.postgres.verifiers["django"] = _as_text(Verifier.of(SECRET))
    stage.postgres.passwords["guard"] = "guard's own"
    assert scram(stage.connect(), SECRET) == "Z I"
    asked = stage.postgres.backends[0]
    assert (asked.user, asked.queries) == ("guard", [LOOK_UP.query, "DISCARD ALL"])
    assert scram(stage.connect(), SECRET) == "Z I"
    assert len(asked.queries) == 2  # known by now


@pytest.mark.parametrize("verifier", [None, "md5abc"])
def test_who_is_not_found_or_has_no_scram_verifier_is_refused(
    stages: Stages, verifier: str | None
) -> None:
    stage = stages(auth=LOOK_UP)
    if verifier:
        stage.postgres.verifiers["django"] = verifier
    assert scram(stage.connect(), SECRET) == "E 28P01"
    assert bool(stage.log.of("auth_query_no_verifier")) == bool(verifier)


def test_a_database_auth_query_cannot_enter_looks_like_a_wrong_password(stages: Stages) -> None:
    stage = stages(auth=LOOK_UP)
    stage.postgres.databases = ()
    assert scram(stage.connect(), SECRET) == "E 28P01"
    assert stage.log.of("auth_query_failed")


def _as_text(verifier: Verifier) -> str:
    from base64 import b64encode

    salt, stored, server = (
        b64encode(part).decode()
        for part in (verifier.salt, verifier.stored_key, verifier.server_key)
    )
    return f"SCRAM-SHA-256${verifier.iterations}:{salt}${stored}:{server}"


def test_trust_asks_nobody(stages: Stages) -> None:
    stage = stages(auth=Auth(method="trust"))
    assert logged_in(stage.connect().log_in())


# -- the queue and logins --------------------------------------------------------------------------


def test_a_login_waits_for_its_server_as_all_do(stages: Stages) -> None:
    stage = stages(
        pool=Pool(mode="session", max_server_connections=1, query_wait_timeout=5.0),
        timeouts=Timeouts(client_login_timeout=60.0),
    )
    first = stage.holder()
    second = stage.connect().log_in(database="blog")
    stage.wait(4.0)
    assert second.hear() == []
    first.leave()
    assert logged_in(second)


def test_and_is_told_when_there_was_none_in_time(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, query_wait_timeout=5.0))
    stage.holder()
    second = stage.connect().log_in(database="blog")
    stage.wait(5.1)
    assert second.refusal()["C"] == "53300"
    assert stage.pooler.admission.waiting == 0


def test_a_full_queue_refuses_logins_too(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, max_waiting=0))
    stage.holder()
    second = stage.connect().log_in(database="blog")
    assert second.ended is Reason.QUEUE_FULL
    third = stage.connect().log_in(database="blog")
    assert third.ended is Reason.QUEUE_FULL
