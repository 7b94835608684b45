"""ops/install.py: the SQL that is printed. (tests/integration runs it.)"""

from __future__ import annotations

import re

import pytest

from guardproxy.ops.activity import MARK
from guardproxy.ops.install import CannotApply, apply, script


def test_every_variable_is_filled() -> None:
    text = script("guardproxy", ["django", "report"])
    assert not re.search(r""":["']?(schema|owner|grantee|mark)""", text)
    assert text.count('create role "guardproxy_owner"') == 1
    assert text.count(f"classid = {MARK}") == 2
    assert 'to "django";' in text
    assert 'to "report";' in text


def test_it_is_one_transaction() -> None:
    lines = script("guardproxy", ["django"]).splitlines()
    assert (lines.count("begin;"), lines.count("commit;"), lines[-1]) == (1, 1, "commit;")


def test_names_cannot_break_out() -> None:
    text = script('o"; drop table t; --', ["x'y"])
    assert 'create schema if not exists "o""; drop table t; --"' in text
    assert "rolname = 'o\"; drop table t; --_owner'" in text
    assert "rolname = 'it''s_owner'" in script("it's")


@pytest.mark.parametrize("name", ["", "a\0b", "a$$b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="a name"):
        script(name)


def test_functions_are_pinned_and_nobodys() -> None:
    text = script("guardproxy")
    assert text.count("security definer set search_path = pg_catalog, pg_temp") == 2
    assert text.count("from public;") == 2


@pytest.mark.parametrize("dsn", ["hunter2", "host=db hunter2", "postgres://u:hunter2@db:x:y/"])
def test_what_is_no_address_is_not_shown(dsn: str) -> None:
    with pytest.raises(CannotApply) as refused:
        apply(dsn, "select 1")
    assert "hunter2" not in str(refused.value)
