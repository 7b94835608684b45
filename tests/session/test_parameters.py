"""What a session has set, and the way from one session's settings to another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.parameters import Parameters, change, in_order, of_startup, settable
from tests.session.transcript import said

values = st.dictionaries(st.sampled_from(["a", "b", "role"]), st.sampled_from("12"), max_size=3)


def test_equal_settings_are_one_object() -> None:
    first = Parameters.of({"a": "1", "b": "2"})
    assert Parameters.of({"b": "2", "a": "1"}) is first
    assert Parameters.of({"a": "1"}) is not first


def changed(before: dict[str, str], after: dict[str, str], clean: dict[str, str]) -> bytes:
    return change(Parameters.of(before), Parameters.of(after), Parameters.of(clean))


def test_what_is_not_the_clients_is_reset_and_then_what_differs_is_set() -> None:
    """Some exclude each other, as log_statement_stats and log_parser_stats do."""
    assert changed({"b": "2", "d": "4"}, {"a": "0", "d": "4"}, {}) == said(
        "C", "SetConfig b NULL a 0"
    )


def test_what_is_reported_is_set_though_it_was_so_at_the_servers_login() -> None:
    """The default may be another since, by a reload; the client believes what it was told."""
    assert changed({"a": "1"}, {"a": "0"}, {"a": "0"}) == said("C", "SetConfig a 0")


@given(values, values)
def test_a_change_names_all_that_differs_and_nothing_else(
    before: dict[str, str], after: dict[str, str]
) -> None:
    sent = changed(before, after, {})
    names = {name for name in before | after if before.get(name) != after.get(name)}
    if names and "role" in before | after:
        names.add("role")
    for name in ("a", "b", "role"):
        bound = len(name).to_bytes(4, "big") + name.encode()
        assert (b"\0\2" + bound in sent) == (name in names)


def test_the_same_bytes_are_another_text_in_another_encoding() -> None:
    before = {"client_encoding": "LATIN1", "a": "ä", "b": "b", "role": "ä"}
    sent = changed(before, before | {"client_encoding": "UTF8"}, {"client_encoding": "UTF8"})
    assert sent == said("C", "SetConfig role NULL client_encoding UTF8 a ä role ä")


@pytest.mark.parametrize("name", ["TimeZone", "DateStyle", "xmloption"])
def test_plans_are_forgotten_where_they_have_read_literals_otherwise(name: str) -> None:
    assert changed({name: "a"}, {name: "b"}, {}) == said("C", f"SetAnew {name} b")
    assert changed({name: "a"}, {name: "a", "c": "d"}, {}) == said("C", "SetConfig c d")


def test_a_server_with_stale_plans_forgets_them_though_no_setting_differs() -> None:
    same = Parameters.of({"TimeZone": "a"})
    assert change(same, same, same, stale=True) == said("C", "SetAnew")
    other = Parameters.of({"TimeZone": "a", "b": "c"})
    assert change(same, other, same, stale=True) == said("C", "SetAnew b c")


def test_the_encoding_comes_first_and_rights_last() -> None:
    pairs = [("role", "r"), ("a", "1"), ("session_authorization", "s"), ("client_encoding", "UTF8")]
    assert [name for name, _ in in_order(pairs)] == [
        "client_encoding",
        "a",
        "session_authorization",
        "role",
    ]


@pytest.mark.parametrize("after", [{}, {"role": "r"}, {"role": "s"}])
def test_rights_are_given_back_before_all(after: dict[str, str]) -> None:
    """What the next client may set, a role before it may not have been allowed to."""
    role = f" role {after['role']}" if after else ""
    assert changed({"role": "r"}, after | {"a": "1"}, {}) == said(
        "C", f"SetConfig role NULL a 1{role}"
    )


def test_rights_as_they_were_need_nothing() -> None:
    same = {"role": "r", "session_authorization": "s"}
    assert changed(same, same, {"session_authorization": "t"}) == b""


def test_with_the_authorization_goes_the_role() -> None:
    before, clean = {"session_authorization": "s"}, {"session_authorization": "t"}
    assert changed(before, clean, clean) == said(
        "C", "SetConfig session_authorization NULL role NULL"
    )


def test_a_timeout_of_one_client_does_not_end_the_set_up_of_another() -> None:
    before, after = {"statement_timeout": "1ms"}, {"statement_timeout": "2ms", "a": "1"}
    assert changed(before, after, {}) == said(
        "C", "SetConfig statement_timeout NULL a 1 statement_timeout 2ms"
    )


def test_what_nobody_can_set_is_no_setting() -> None:
    reported = {"TimeZone": "UTC", "server_version": "18.0", "is_superuser": "off"}
    assert settable(reported) == {"TimeZone": "UTC"}


def test_of_the_startup_parameters_those_not_reported_are_to_be_remembered() -> None:
    wanted = {"timezone": "UTC", "Work_Mem": "1MB"}
    assert of_startup(wanted, {"TimeZone": "UTC"}) == {"work_mem": "1MB"}
