"""What a session has set, and the way from one session's settings to another's."""

from collections.abc import Mapping

from guardproxy.session.parameters import Parameters, in_order, missing, of_startup, settable


def test_equal_settings_are_one_object() -> None:
    first = Parameters.of({"a": "1", "b": "2"})
    assert Parameters.of({"b": "2", "a": "1"}) is first
    assert Parameters.of({"a": "1"}) is not first


def lacking(
    after: Mapping[str, str], before: Mapping[str, str] | None = None, **clean: str
) -> list[tuple[str, str]]:
    before = after if before is None else before
    return missing(Parameters.of(before), Parameters.of(after), Parameters.of(clean))


def test_what_the_server_does_not_have_by_itself_is_set() -> None:
    """Whatever the session before had: it has been reset."""
    for before in ({}, {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}):
        assert lacking({"a": "1", "b": "2"}, before) == [("a", "1"), ("b", "2")]
    assert lacking({"a": "1", "b": "2"}, a="1") == [("b", "2")]
    assert lacking({}, {"a": "1"}, a="1") == []


def test_what_is_reported_is_set_though_it_was_so_at_the_servers_login() -> None:
    """The default may be another since, by a reload; the client believes what it was told."""
    assert lacking({"a": "0"}, {"a": "1"}, a="0") == [("a", "0")]


def test_the_same_bytes_are_another_text_in_another_encoding() -> None:
    wanted = {"client_encoding": "UTF8", "a": "ä", "b": "b"}
    assert missing(*[Parameters.of(wanted)] * 3) == []
    assert lacking(wanted, client_encoding="LATIN1", a="ä", b="b") == [
        ("client_encoding", "UTF8"),
        ("a", "ä"),
    ]


def test_the_encoding_comes_first_and_what_hinders_the_rest_last() -> None:
    names = ("statement_timeout", "role", "a", "session_authorization", "client_encoding", "b")
    assert [name for name, _ in in_order((name, "1") for name in names)] == [
        *("client_encoding", "a", "b", "session_authorization", "role", "statement_timeout"),
    ]


def test_what_nobody_can_set_is_no_setting() -> None:
    reported = {"TimeZone": "UTC", "server_version": "18.0", "is_superuser": "off"}
    assert settable(reported) == {"TimeZone": "UTC"}


def test_of_the_startup_parameters_those_not_reported_are_to_be_remembered() -> None:
    wanted = {"timezone": "UTC", "Work_Mem": "1MB"}
    assert of_startup(wanted, {"TimeZone": "UTC"}) == {"work_mem": "1MB"}
