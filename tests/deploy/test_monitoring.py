"""The alerts and the dashboard of deploy/: promtool takes them, the guard tells what they ask."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from tests.ops.test_metrics import busy, exposed

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "guardproxy.json"
NAMES = re.compile(r"\b(?:guardproxy|process)_\w+")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> list[str]:
    """All of the dashboard, with Grafana's own interval filled in."""
    written = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "5m") for expression in written]


def known() -> set[str]:
    """The names of all samples a guard tells."""
    lines = generate_latest(exposed(busy())).decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_the_alerts_are_rules() -> None:
    checked = promtool("check", "rules", ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    checked = promtool("test", "rules", ALERTS.with_name("alerts_test.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_readmes_example_is_a_configuration_of_prometheus(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"```yml\n(.*?)```", (DEPLOY.parent / "README.md").read_text(), re.DOTALL
    )
    (tmp_path / "prometheus.yml").write_text(example)
    checked = promtool("check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_is_tested_both_ways() -> None:
    names = {rule["alert"] for rule in alerts()}
    for test in yaml.safe_load(ALERTS.with_name("alerts_test.yaml").read_text())["tests"]:
        assert {each["alertname"] for each in test["alert_rule_test"]} == names


def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"a:{at}", "expr": text} for at, text in enumerate(expressions())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


@pytest.mark.parametrize("text", [rule["expr"] for rule in alerts()] + expressions())
def test_what_is_asked_for_is_there(text: str) -> None:
    assert set(NAMES.findall(text)) <= known()
    assert NAMES.search(text) or text.startswith("up{")


def test_the_dashboard_shows_every_metric_of_a_pool() -> None:
    asked = set(NAMES.findall(" ".join(expressions())))
    assert {"guardproxy_clients", "guardproxy_servers", "guardproxy_clients_pinned"} <= asked


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_the_dashboard_asks_the_source_one_chooses() -> None:
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
