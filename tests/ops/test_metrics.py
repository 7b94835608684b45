"""ops/metrics.py: what Prometheus is told, and that clients cannot make it grow."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families as parsed

from guardproxy.errors import Reason
from guardproxy.ops.metrics import MAX_POOLS, GuardCollector, registry
from guardproxy.stats import Tally
from guardproxy.views import Origin, PoolView
from tests.ops.looks import Guard, activity, backend, pool

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(guard: Guard) -> Samples:
    text = generate_latest(registry(guard, guard)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parsed(text)
        for sample in family.samples
    }


def exposed(guard: Guard) -> CollectorRegistry:
    return registry(guard, guard)


def of(samples: Samples, metric: str, **labels: str) -> float:
    return samples[f"guardproxy_{metric}", tuple(sorted(labels.items()))]


def busy() -> Guard:
    """One with something of everything."""
    guard = Guard(
        seen={
            "endings": {("client", Reason.CLIENT_GONE): 3, ("server", Reason.SHUTDOWN): 1},
            "errors": {"53300": 4},
            "reloads": {"ok": 2},
            "log_lines_dropped": 6,
            "upstream_moves": 2,
            "faults": {"server": 1},
            "waiting": 5,
            "longest_wait": 1.5,
        },
        all_pools=[pool(pinned={"listen": 2}, waiting=5, longest_wait=1.5), pool("blog", "it's")],
    )
    guard.seen_activity = activity(backend(1), backend(2, Origin.OURS, state="active"))
    guard.ended = {"terminated": 2, "would_terminate": 0}
    guard.timings.errors.count("42P01")
    guard.timings.wait.observe(0.001)
    return guard


def test_a_pool_by_state() -> None:
    samples = scraped(busy())
    app = {"database": "shop", "user": "app"}
    assert of(samples, "clients", state="idle", **app) == 1
    assert of(samples, "servers", state="leased", **app) == 1
    assert of(samples, "clients_pinned", reason="listen", **app) == 2
    assert of(samples, "pool_waiting", **app) == 5
    assert of(samples, "queries_total", **app) == 10
    assert of(samples, "logins_total", **app) == 1


def test_the_whole() -> None:
    samples = scraped(busy())
    assert of(samples, "server_connections_max") == 20
    assert of(samples, "longest_wait_seconds") == 1.5
    assert of(samples, "reloads_total", result="ok") == 2
    assert of(samples, "reloads_total", result="failed") == 0
    assert of(samples, "log_lines_dropped_total") == 6
    assert of(samples, "upstream_moves_total") == 2
    assert of(samples, "faults_total", kind="server") == 1
    assert of(samples, "faults_total", kind="exception") == 0
    assert of(samples, "endings_total", kind="client", reason="client_gone") == 3
    assert of(samples, "errors_total", origin="guard", sqlstate="53300") == 4
    assert of(samples, "errors_total", origin="postgresql", sqlstate="42P01") == 1


def test_postgresqls_own_view_while_somebody_looks() -> None:
    samples = scraped(busy())
    assert of(samples, "postgresql_connections", origin="direct", state="idle") == 1
    assert of(samples, "postgresql_connections", origin="ours", state="active") == 1
    assert of(samples, "postgresql_connections_max") == 100
    assert of(samples, "postgresql_connections_room") == 90
    assert of(samples, "watch_ended_total", result="terminated") == 2
    assert of(samples, "watch_failing") == 0
    assert not [name for name, _ in scraped(Guard()) if "postgresql" in name or "watch" in name]


def test_a_histogram_counts_up() -> None:
    samples = scraped(busy())
    assert of(samples, "wait_seconds_bucket", le="0.000512") == 0
    assert of(samples, "wait_seconds_bucket", le="0.001024") == 1
    assert of(samples, "wait_seconds_bucket", le="+Inf") == 1
    assert of(samples, "wait_seconds_count") == 1
    assert of(samples, "wait_seconds_sum") == 0.001


def test_the_process_and_python_are_told_too() -> None:
    names = {name for name, _ in scraped(busy())}
    assert {"process_open_fds", "process_cpu_seconds_total", "python_info"} <= names
    assert "guardproxy_build_info" in names


def test_openmetrics_parses_strictly() -> None:
    text = openmetrics(exposed(busy())).decode()
    assert len(list(strictly(text))) > 30


def test_promtool_finds_nothing_to_complain_about() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "needs promtool, of Debian's prometheus"
    text = generate_latest(exposed(busy()))
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_two_scrapes_tell_the_same_and_nothing_piles_up() -> None:
    own = exposed(busy())
    first, second = generate_latest(own), generate_latest(own)
    ours = [line for line in first.splitlines() if line.startswith(b"guardproxy_")]
    assert ours == [line for line in second.splitlines() if line.startswith(b"guardproxy_")]


# Names as clients send them: any text, with what is left of bytes that are not UTF-8.
names = st.text(st.characters(codec=None), max_size=80)


@given(st.lists(st.tuples(names, names), max_size=3 * MAX_POOLS, unique=True), st.data())
def test_whatever_names_clients_choose_series_are_bounded(
    chosen: list[tuple[str, str]], data: st.DataObject
) -> None:
    guard = Guard(all_pools=[pool(*name, tally=Tally(queries=1)) for name in chosen])
    collector = GuardCollector(guard, guard)
    for _ in range(2):
        guard.all_pools = data.draw(st.permutations(guard.all_pools))
        queries = _queries(collector)
        assert len(queries) <= MAX_POOLS + 1
        assert sum(queries.values()) == len(chosen)  # nobody is left out
    generate_latest(registry(guard, guard)).decode()


def _queries(collector: GuardCollector) -> dict[tuple[str, ...], float]:
    (family,) = (each for each in collector.collect() if each.name == "guardproxy_queries")
    counted = Counter(tuple(sample.labels.values()) for sample in family.samples)
    assert max(counted.values(), default=1) == 1, "a series twice"
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def many(start: int, end: int) -> list[PoolView]:
    return [pool(f"db{number}", tally=Tally(queries=1)) for number in range(start, end)]


def test_who_has_a_series_keeps_it_and_a_free_place_is_taken() -> None:
    guard = Guard(all_pools=many(50, 150))
    collector = GuardCollector(guard, guard)
    assert ("db149", "app") in _queries(collector)
    guard.all_pools = many(0, 150)  # others come, and would be first by name
    found = _queries(collector)
    assert ("db149", "app") in found
    assert found["other", "other"] == 50
    guard.all_pools = many(0, 60)
    assert len(_queries(collector)) == 60


def test_a_pool_that_is_called_other_has_no_series_twice() -> None:
    guard = Guard(all_pools=[pool("other", "other", tally=Tally(queries=1)), *many(0, 150)])
    found = _queries(GuardCollector(guard, guard))
    assert found["other", "other"] == 52
