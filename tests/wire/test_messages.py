"""What we write PostgreSQL can read, what others write we read, and nonsense is refused."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import GuardError, ProtocolViolation, QueueFull, ServerRefused, ShuttingDown
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames

words = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)


def split(data: bytes) -> list[tuple[str, bytes]]:
    frames = Frames()
    frames.feed(data)
    found = [(chr(kind), body) for kind, body in frames]
    assert len(frames) == 0
    return found


# -- the startup packet ----------------------------------------------------------------------------


@given(st.dictionaries(words, words | st.just(""), max_size=5))
def test_a_startup_message_is_read_as_it_was_written(parameters: dict[str, str]) -> None:
    whole = messages.startup_message(parameters)
    startup = messages.parse_startup(whole)
    assert startup.parameters == parameters
    assert (startup.version, startup.packet) == (messages.PROTOCOL_3_0, whole)
    assert len(whole) == struct.unpack("!i", whole[:4])[0]


def test_parameters_need_not_be_utf_8() -> None:
    whole = messages.packet(messages.PROTOCOL_3_0, b"user\0caf\xe9\0\0")
    startup = messages.parse_startup(whole)
    assert messages.startup_message(startup.parameters) == whole


def test_protocol_extensions_are_known_by_their_prefix() -> None:
    startup = messages.parse_startup(
        messages.startup_message({"user": "u", "_pq_.a": "1", "_pq_.b": "2"})
    )
    assert startup.unknown_options == ["_pq_.a", "_pq_.b"]


@pytest.mark.parametrize(
    "body", [b"", b"user\0u\0", b"user\0\0", b"user", b"user\0u\0\0x", b"\0u\0\0", b"user\0u\0\0\0"]
)
def test_a_startup_packet_without_its_terminator_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid startup packet layout"):
        messages.parse_startup(messages.packet(messages.PROTOCOL_3_0, body))


@pytest.mark.parametrize(("major", "minor"), [(2, 0), (4, 0), (1, 0), (1234, 5679)])
def test_other_protocols_are_refused_by_number(major: int, minor: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"unsupported frontend protocol {major}.{minor}"):
        messages.parse_startup(messages.packet(major << 16 | minor, b"user\0u\0\0"))


@given(st.binary(max_size=60))
def test_any_packet_is_read_or_refused(body: bytes) -> None:
    try:
        startup = messages.parse_startup(messages.packet(messages.PROTOCOL_3_0, body))
    except ProtocolViolation:
        return
    assert messages.startup_message(startup.parameters) == startup.packet or len(
        startup.parameters
    ) < body.count(b"\0")  # a name given twice


def test_a_cancel_request_is_the_key_and_nothing_else() -> None:
    assert messages.cancel_request(b"\0\0\0\1key!") == b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\1key!"


# -- what we send a server -------------------------------------------------------------------------


def test_a_query_ends_with_a_nul() -> None:
    assert messages.query("SELECT 'é'") == b"Q\0\0\0\x10SELECT '\xc3\xa9'\0"


def test_run_apart_binds_values_under_names_of_its_own() -> None:
    sent = split(messages.run_apart("SELECT $1", [("it's",), ("\udce9",), (None,)]))
    assert sent == [
        ("C", b"Sguardproxy\0"),
        ("P", b"guardproxy\0SELECT $1\0\0\0"),
        ("B", b"guardproxy\0guardproxy\0\0\0\0\1\0\0\0\4it's\0\0"),
        ("E", b"guardproxy\0\0\0\0\0"),
        ("C", b"Pguardproxy\0"),
        ("B", b"guardproxy\0guardproxy\0\0\0\0\1\0\0\0\1\xe9\0\0"),
        ("E", b"guardproxy\0\0\0\0\0"),
        ("C", b"Pguardproxy\0"),
        ("B", b"guardproxy\0guardproxy\0\0\0\0\1\xff\xff\xff\xff\0\0"),
        ("E", b"guardproxy\0\0\0\0\0"),
        ("C", b"Pguardproxy\0"),
        ("C", b"Sguardproxy\0"),
        ("S", b""),
    ]


@given(words, st.binary(max_size=50))
def test_sasl_initial_is_read_as_it_was_written(mechanism: str, data: bytes) -> None:
    [(kind, body)] = split(messages.sasl_initial(mechanism, data))
    assert (kind, messages.parse_sasl_initial(body)) == ("p", (mechanism, data))


@pytest.mark.parametrize(
    "body", [b"", b"SCRAM", b"SCRAM\0\0\0", b"S\0\0\0\0\5four", b"S\0\xff\xff\xff\xff"]
)
def test_a_malformed_sasl_initial_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        messages.parse_sasl_initial(body)


# -- what a server sends ---------------------------------------------------------------------------


def test_a_data_row_is_read_with_its_nulls() -> None:
    row = b"\0\3\0\0\0\2ab\xff\xff\xff\xff\0\0\0\0"
    assert messages.parse_data_row(row) == ["ab", None, ""]


@given(words, words)
def test_a_parameter_status_is_read_as_it_was_written(name: str, value: str) -> None:
    [(kind, body)] = split(messages.parameter_status(name, value))
    assert (kind, messages.parse_parameter_status(body)) == ("S", (name, value))


READERS: list[Callable[[bytes], object]] = [
    messages.parse_data_row,
    messages.parse_parameter_status,
    messages.parse_fields,
    messages.parse_sasl_initial,
    messages.refusal,
    messages.as_fatal,
]


@pytest.mark.parametrize("read", READERS)
@given(body=st.binary(max_size=60))
def test_mutated_bytes_raise_only_documented_errors(
    read: Callable[[bytes], object], body: bytes
) -> None:
    try:
        read(body)
    except GuardError:
        pass


# -- what we send a client -------------------------------------------------------------------------


def test_the_small_messages_are_postgresqls() -> None:
    assert messages.authentication(0) == b"R\0\0\0\x08\0\0\0\0"
    assert messages.ready_for_query(messages.IDLE) == b"Z\0\0\0\5I"
    assert messages.backend_key_data(b"12345678") == b"K\0\0\0\x0c12345678"
    assert messages.password_message(b"s") == b"p\0\0\0\6s\0"


def test_we_speak_3_0_and_no_extension() -> None:
    [(kind, body)] = split(messages.negotiate_protocol_version(["_pq_.x", "_pq_.y"]))
    assert (kind, body) == ("v", b"\0\3\0\0" + b"\0\0\0\2" + b"_pq_.x\0_pq_.y\0")


def test_an_error_of_ours_has_the_fields_a_driver_reads() -> None:
    [(kind, body)] = split(messages.fatal(ShuttingDown("bye", "now", "come back")))
    assert kind == "E"
    assert body.endswith(b"\0\0")
    assert messages.parse_fields(body) == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "57P01",
        "M": "bye",
        "D": "now",
        "H": "come back",
    }


def test_an_error_without_detail_has_no_empty_fields() -> None:
    [(_, body)] = split(messages.fatal(ShuttingDown("bye")))
    assert set(messages.parse_fields(body)) == {"S", "V", "C", "M"}


def test_postgresqls_own_words_pass_verbatim() -> None:
    said = b'SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user "u"\0Rauth_failed\0\0'
    assert messages.fatal(messages.refusal(said)) == messages.message(messages.ERROR, said)


def test_an_error_that_ends_a_client_is_fatal_whatever_it_was() -> None:
    refused = messages.refusal(b"SFEHLER\0VERROR\0C22023\0Mfalscher Wert\0\0")
    assert (refused.sqlstate, refused.message) == ("22023", "falscher Wert")
    [(_, body)] = split(messages.fatal(refused))
    assert body == b"SFATAL\0VFATAL\0C22023\0Mfalscher Wert\0\0"


def test_a_refusal_without_fields_is_still_one() -> None:
    refused = messages.refusal(b"\0")
    assert isinstance(refused, ServerRefused)
    assert (refused.sqlstate, refused.message) == ("XX000", "")


def test_a_notice_is_no_error() -> None:
    [(kind, body)] = split(messages.notice("waiting", "3 before you"))
    fields = messages.parse_fields(body)
    assert (kind, fields["V"], fields["C"], fields["D"]) == ("N", "NOTICE", "00000", "3 before you")


# -- what is bound ---------------------------------------------------------------------------------


def bind(formats: list[int], values: list[bytes | None]) -> bytes:
    parts = [struct.pack(f"!h{len(formats)}hh", len(formats), *formats, len(values))]
    parts += [struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values]
    return b"portal\0name\0" + b"".join(parts) + b"\0\0"


values = st.lists(st.none() | st.text(max_size=5).map(str.encode), max_size=4)


@given(st.lists(st.integers(0, 1), max_size=3), values)
def test_each_bound_value_is_read(formats: list[int], bound: list[bytes | None]) -> None:
    body = bind(formats, bound)
    for number, value in enumerate(bound, 1):
        assert messages.bound_text(body, number) == (value or b"").decode()
    assert messages.bound_text(body, len(bound) + 1) == ""


def test_a_value_that_is_not_whole_is_not_told() -> None:
    body = bind([], [b"work_mem"])
    assert [messages.bound_text(body[:cut], 1) for cut in (-2, -3, -12, 12)] == [
        "work_mem",
        None,
        None,
        None,
    ]


@given(st.binary(max_size=30), st.integers(1, 5))
def test_a_malformed_bind_has_no_value_or_some_text(body: bytes, number: int) -> None:
    found = messages.bound_text(body, number)
    assert found is None or found.encode(errors="surrogateescape") in body


def test_a_value_that_is_cut_off_is_none() -> None:
    assert messages.bound_text(bind([], [b"work_mem"])[:-15], 1) is None
    assert messages.bound_text(b"portal", 1) is None


def test_the_sqlstate_of_an_error_is_found_without_its_other_fields() -> None:
    body = messages.fatal(QueueFull("full"))[5:]
    assert messages.sqlstate(body) == "53300"
    for wrong in (b"", b"\0", b"SERROR\0C42P0", b"SERROR\0C42P011\0\0", b"SERROR\0Mno\0\0"):
        assert messages.sqlstate(wrong) == ""
