"""files.py: which files a configuration stands on, and when they are others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from guardproxy.config import Loaded, load
from guardproxy.files import look, named, paths, rewritten


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """A configuration with a certificate, an authority and a password in files."""
    for name in ("tls.crt", "tls.key", "ca.crt", "secret"):
        (tmp_path / name).write_text(name)
    config = tmp_path / "guardproxy.yaml"
    config.write_text(f"""
        listen: {{tls: {{cert: {tmp_path}/tls.crt, key: {tmp_path}/tls.key}}}}
        upstream: {{tls: {{ca: {tmp_path}/ca.crt}}}}
        auth: {{users: {{a: {{password_file: {tmp_path}/secret}}, b: {{password: x}}}}}}
    """)
    return load(config, {}, {})


def test_the_configuration_and_all_files_it_names(loaded: Loaded, tmp_path: Path) -> None:
    assert named(loaded.settings) == {
        "listen.tls.cert": f"{tmp_path}/tls.crt",
        "listen.tls.key": f"{tmp_path}/tls.key",
        "upstream.tls.ca": f"{tmp_path}/ca.crt",
        "auth.users.a.password_file": f"{tmp_path}/secret",
    }
    assert paths(loaded) == [f"{tmp_path}/guardproxy.yaml", *named(loaded.settings).values()]
    assert paths(load(None, {}, {})) == []


def swap_link(file: Path) -> None:
    """As the kubelet does: another file behind the same name, of the same age and size."""
    other = file.with_name("another")
    other.write_text("y")
    os.utime(other, (0, 0))
    link = file.with_name("link")
    link.symlink_to(other)
    link.replace(file)


def write_within_the_tick(file: Path) -> None:
    file.write_text("y")
    os.utime(file, (0, 0))


@pytest.mark.parametrize("change", [swap_link, write_within_the_tick, Path.unlink])
def test_a_look_sees_contents(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    os.utime(file, (0, 0))
    before = look([str(file)])
    assert look([str(file)]) == before
    change(file)
    assert look([str(file)]) != before


def test_the_same_contents_are_no_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    before = look([str(file)])
    file.unlink()
    file.write_text("x")
    os.utime(file, (9, 9))
    assert look([str(file)]) == before


def test_what_was_rewritten_is_told_by_its_key(loaded: Loaded, tmp_path: Path) -> None:
    """But not a password: that its own key tells."""
    before = look(paths(loaded))
    (tmp_path / "tls.crt").write_text("another")
    (tmp_path / "secret").write_text("another")
    (tmp_path / "guardproxy.yaml").write_text((tmp_path / "guardproxy.yaml").read_text() + "#")
    after = look(paths(loaded))
    told = rewritten(loaded.settings, loaded.settings, before, after)
    assert [str(change) for change in told] == [f"listen.tls.cert: {tmp_path}/tls.crt has changed"]


def test_a_file_in_anothers_place_is_a_change_of_the_setting(loaded: Loaded) -> None:
    assert rewritten(load(None, {}, {}).settings, loaded.settings, {}, look(paths(loaded))) == []
