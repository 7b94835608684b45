"""What a session has set, and the way from one session's settings to another's."""

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.parameters import Parameters, change, in_order, of_startup, settable
from tests.session.transcript import said

values = st.dictionaries(st.sampled_from(["a", "b", "role"]), st.sampled_from("12"), max_size=3)


def test_equal_settings_are_one_object() -> None:
    first = Parameters.of({"a": "1", "b": "2"})
    assert Parameters.of({"b": "2", "a": "1"}) is first
    assert Parameters.of({"a": "1"}) is not first


def test_what_differs_is_set_and_what_is_as_at_the_login_reset() -> None:
    before, after = Parameters.of({"a": "1", "b": "2"}), Parameters.of({"a": "0", "c": "3"})
    clean = Parameters.of({"a": "0"})
    assert change(before, after, clean) == said("C", "SetConfig a NULL b NULL c 3")


@given(values, values, values)
def test_a_change_names_all_that_differs_and_nothing_else(
    before: dict[str, str], after: dict[str, str], clean: dict[str, str]
) -> None:
    sent = change(Parameters.of(before), Parameters.of(after), Parameters.of(clean))
    names = {name for name in before | after if before.get(name) != after.get(name)}
    for name in ("a", "b", "role"):
        bound = len(name).to_bytes(4, "big") + name.encode()
        assert (b"\0\2" + bound in sent) == (name in names)


def test_the_encoding_comes_first_and_rights_last() -> None:
    pairs = [("role", "r"), ("a", "1"), ("session_authorization", "s"), ("client_encoding", "UTF8")]
    assert [name for name, _ in in_order(pairs)] == [
        "client_encoding",
        "a",
        "session_authorization",
        "role",
    ]


def test_rights_are_given_back_before_all() -> None:
    """What the next client may set, a role before it may not have been allowed to."""
    pairs = [("a", "1"), ("client_encoding", "UTF8"), ("role", None)]
    assert [name for name, _ in in_order(pairs)] == ["role", "client_encoding", "a"]


def test_what_nobody_can_set_is_no_setting() -> None:
    reported = {"TimeZone": "UTC", "server_version": "18.0", "is_superuser": "off"}
    assert settable(reported) == {"TimeZone": "UTC"}


def test_of_the_startup_parameters_those_not_reported_are_to_be_remembered() -> None:
    wanted = {"timezone": "UTC", "Work_Mem": "1MB"}
    assert of_startup(wanted, {"TimeZone": "UTC"}) == {"work_mem": "1MB"}
