"""The page, in a headless Chromium: what a person sees of a real guard, and can do there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from guardproxy.ops.documents import ROWS
from tests.integration.browser import Browser
from tests.integration.conftest import NewGuard, NewPostgres
from tests.integration.guard import Guard
from tests.integration.queueing import NOTIFY, Waiter, held
from tests.integration.raw import Raw, startup
from tests.integration.waiting import eventually
from tests.integration.watching import WATCH, prepare
from tests.integration.windows import TOKEN, Windows

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """One that nothing was wrong for, with the settings of somebody new."""
    chromium.prefer("light")
    chromium.resize(1400, 900)
    yield chromium
    assert chromium.complaints() == []
    chromium.go("about:blank")


def opened(browser: Browser, guard: Guard) -> Windows:
    windows = Windows(guard)
    browser.go(windows.url)
    browser.run("localStorage.clear()")
    live(browser)
    return windows


def live(browser: Browser) -> None:
    eventually(lambda: class_of(browser, "#live") == "live on", why="the page shows the guard")


def class_of(browser: Browser, css: str) -> str:
    return str(browser.run("return document.querySelector(arguments[0]).className", css))


def count(browser: Browser, css: str) -> int:
    return int(browser.run("return document.querySelectorAll(arguments[0]).length", css))


def background(browser: Browser) -> str:
    return str(browser.run("return getComputedStyle(document.body).backgroundColor"))


def test_all_is_quiet(browser: Browser, guard: NewGuard) -> None:
    opened(browser, guard(pool={"max_server_connections": 7}))
    assert browser.text("#headline") == "Nobody waits. 0 of 7 servers are needed just now."
    assert browser.text("#table") == "No client is connected."
    assert count(browser, ".chart canvas") == 2
    assert "PostgreSQL" not in browser.text("#tabs")  # nobody watches it


def test_while_the_watcher_looks_who_comes_past_the_guard_is_there(
    browser: Browser, guard: NewGuard, new_postgres: NewPostgres
) -> None:
    own = prepare(new_postgres())
    windows = opened(browser, place := guard(own, watch=WATCH))
    with own.connect(application_name="past the guard") as direct, Raw(place) as client:
        client.login()
        browser.wait_for("#tabs", "PostgreSQL")
        browser.click("#tabs button:nth-child(4)")
        row = browser.wait_for("tbody", "past the guard")
        assert str(direct.info.backend_pid) in row
        eventually(
            lambda: windows.metric("postgresql_connections", origin="direct", state="idle") == 1,
            why="the metric tells it too",
        )


def test_nothing_comes_from_anywhere_else(browser: Browser, guard: NewGuard) -> None:
    windows = opened(browser, guard())
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    loaded = browser.run(script)
    assert len(loaded) > 5
    assert [name for name in loaded if not name.startswith(windows.url)] == []


def test_a_full_cap_says_who_holds_it_and_why(browser: Browser, guard: NewGuard) -> None:
    place = guard(pool={"max_server_connections": 2, **NOTIFY})
    with held(place) as one, held(place) as other, Waiter(place) as waiter:
        one.query("listen news")
        other.query("begin")
        assert one.served()
        other.read_until(b"Z")
        waiter.ask()
        opened(browser, place)
        browser.wait_for("#headline", "1 client waits for a server, the first for")
        assert browser.text("#why") == "Of 2 servers 1 idle in a transaction, 1 pinned."
        rows = browser.text("tbody tr").splitlines()
        assert len(rows) == 3
        assert "idle in transaction" in rows[0]
        assert "left its transaction open" in rows[0]
        assert "listen news" in rows[1]
        assert "no server is free for it" in rows[2]
        eventually(lambda: class_of(browser, "#verdict").endswith("full"), why="it is serious")
        browser.click("#tabs button:nth-child(2)")
        eventually(lambda: len(browser.text("tbody tr").splitlines()) == 2, why="the servers")


def test_what_clients_call_themselves_is_text(browser: Browser, guard: NewGuard) -> None:
    place = guard()
    quoted = '"{}"'.format(HOSTILE.replace('"', '""'))
    with place.connect(application_name=HOSTILE) as connection, Raw(place) as stranger:
        connection.execute(f"select 1 /* {HOSTILE} */ as {quoted}")
        stranger.send(startup(user=HOSTILE, database=HOSTILE))
        opened(browser, place)
        assert "<img src=x onerror=" in browser.wait_for("tbody", "<img src=x")
        for selector in ("tbody img", "tbody script", "body > img"):
            assert count(browser, selector) == 0
        assert browser.run("return document.title") == "guardproxy"


def test_more_rows_than_are_shown_are_told(browser: Browser, guard: NewGuard) -> None:
    place = guard()
    with ExitStack() as stack:
        for _ in range(ROWS + 5):
            stack.enter_context(Raw(place)).login()
        with place.connect(application_name="needle"):
            opened(browser, place)
            browser.wait_for("#more", f"{ROWS} of {ROWS + 6} shown")
            assert count(browser, "tbody tr") == ROWS
            browser.type("#filter", "needle")
            browser.wait_for("#more", f"1 of {ROWS + 6}")
            assert "needle" in browser.text("tbody tr")


def who(browser: Browser) -> list[str]:
    return browser.text("tbody td:nth-child(3)").split()


def test_columns_sort(browser: Browser, guard: NewGuard) -> None:
    place = guard()
    with Raw(place) as first, Raw(place) as second:
        first.login("bob")
        second.login("alice")
        opened(browser, place)
        for order in (["alice@app", "bob@app"], ["bob@app", "alice@app"]):
            browser.run("[...document.querySelectorAll('th button')][2].click()")
            eventually(lambda: who(browser) == order, why=f"sorted as {order}")  # noqa: B023


def test_without_a_token_set_it_is_read_only_and_says_why(
    browser: Browser, guard: NewGuard
) -> None:
    place = guard()
    with Raw(place) as client:
        client.login()
        opened(browser, place)
        browser.wait_for("tbody", "alice@app")
        assert browser.text("td.act") == ""
        assert browser.text("#token-button") == "read-only"
        browser.click("#token-button")
        browser.wait_for("#dialog-text", "http.token")


def test_a_client_is_closed_with_the_token_and_not_without(
    browser: Browser, guard: NewGuard
) -> None:
    place = guard(http={"token": TOKEN})
    with Raw(place) as victim:
        victim.login()
        opened(browser, place)
        browser.wait_for("td.act", "Close")
        for token, said in (("a-wrong-one-of-them", "the token is wrong"), (TOKEN, "is closed.")):
            browser.click("td.act button")
            browser.wait_for("#dialog-title", "Close client")
            browser.click("#dialog-yes")
            browser.wait_for("#dialog-title", "The guard's token")
            browser.type("#dialog-input", token)
            browser.click("#dialog-yes")
            browser.wait_for("#toast", said)
        assert victim.read()[0] == b"E"
        browser.wait_for("#table", "No client is connected.")
        assert TOKEN not in browser.run(
            "return JSON.stringify([{...localStorage}, document.cookie])"
        )
    refused = [line for line in browser.complaints() if "401" not in line]
    assert refused == []


def test_idle_clients_are_closed_together(browser: Browser, guard: NewGuard) -> None:
    place = guard(http={"token": TOKEN})
    with Raw(place) as idle, place.connect(autocommit=False) as busy:
        idle.login()
        busy.execute("select 1")
        opened(browser, place)
        browser.run("document.querySelector('#older-than option').value = '0'")
        browser.run("document.querySelector('#older-than').selectedIndex = 0")
        browser.click("#close-idle button")
        browser.wait_for("#dialog-title", "Close all clients idle")
        browser.click("#dialog-yes")
        browser.type("#dialog-input", f"{TOKEN}\ue007")  # and Enter
        browser.wait_for("#toast", "1 client closed.")
        assert idle.read()[0] == b"E"
        assert busy.execute("select 2").fetchone() == (2,)


def test_it_asks_for_the_token_where_reading_needs_it(browser: Browser, guard: NewGuard) -> None:
    place = guard(http={"token": TOKEN, "require_token": True})
    browser.go(Windows(place).url)
    browser.wait_for("#dialog-title", "The guard's token")
    browser.type("#dialog-input", f"{TOKEN}\ue007")
    browser.wait_for("#headline", "Nobody waits.")
    assert [line for line in browser.complaints() if "401" not in line] == []


def test_dark_and_light_follow_the_system_until_told_otherwise(
    browser: Browser, guard: NewGuard
) -> None:
    windows = opened(browser, guard())
    light = background(browser)
    browser.prefer("dark")
    dark = background(browser)
    assert light != dark
    browser.click("#theme")  # dark
    browser.click("#theme")  # light
    assert background(browser) == light
    browser.go(windows.url)  # it is remembered
    live(browser)
    assert background(browser) == light
    browser.click("#theme")  # as the system
    assert background(browser) == dark


def test_a_narrow_window_needs_no_scrolling_sideways(browser: Browser, guard: NewGuard) -> None:
    place = guard()
    with Raw(place) as client:
        client.login()
        browser.resize(500, 800)  # headless Chromium knows none narrower
        opened(browser, place)
        browser.wait_for("tbody", "alice@app")
        script = "return [document.documentElement.scrollWidth, innerWidth]"
        needed, there = browser.run(script)
        assert needed <= there


def test_a_guard_that_is_gone_is_not_shown_as_if_it_were_there(
    chromium: Browser, guard: NewGuard
) -> None:
    place = guard()
    chromium.resize(1400, 900)
    opened(chromium, place)
    place.terminate()
    chromium.wait_for("#live", "no answer")
    assert chromium.run("return document.body.className") == "stale"
    chromium.go("about:blank")
    chromium.complaints()  # that it could not connect
