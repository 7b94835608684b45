"""The recipes of deploy/: valid by their schemas, safe by their settings, at one with the guard."""

import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from guardproxy import cli
from guardproxy.config import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
HEALTHCHECK = DEPLOY / "healthcheck.py"
PORT = 6432


# Kubernetes


KUBERNETES = ("sidecar.yaml", "job.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    every = [document for name in KUBERNETES for document in documents(name)]
    [document] = [document for document in every if document["kind"] == kind]
    return document


def pod(kind: str = "Deployment") -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(kind)["spec"]["template"]["spec"]
    return spec


def sidecar(kind: str = "Deployment") -> dict[str, Any]:
    [container] = pod(kind)["initContainers"]
    assert isinstance(container, dict)
    return container


def sidecar_settings() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(of_kind("ConfigMap")["data"]["guardproxy.yaml"])
    return settings


either = pytest.mark.parametrize("kind", ["Deployment", "Job"])


# The first version with native sidecars on by default, and the newest of which a schema is at hand.
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_accepts_every_document(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_would_see_a_mistake() -> None:
    document = of_kind("Deployment")
    document["spec"]["template"]["spec"]["initContainers"][0]["restartpolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.29", strict=True)


@either
def test_guard_is_a_native_sidecar(kind: str) -> None:
    """So it starts first, ends last, and does not keep a Job from being complete."""
    container = sidecar(kind)
    assert container["restartPolicy"] == "Always"
    assert container["args"][0] == "run"
    cli.run.make_context("run", container["args"][1:], resilient_parsing=True)


@either
def test_the_kubelet_asks_where_the_guard_answers(kind: str) -> None:
    """At the pod's address, so not on loopback."""
    container = sidecar(kind)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    http = sidecar_settings()["http"]
    assert ip_address(http["host"]).is_unspecified
    assert http["port"] == ports["guardproxy-http"]
    probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    assert {probe["port"] for probe in probes.values()} == {"guardproxy-http"}
    for name, probe in probes.items():
        assert probe["path"] == "/" + name.removesuffix("Probe")
    wanted = {"startupProbe", "livenessProbe"} | ({"readinessProbe"} if kind != "Job" else set())
    assert probes.keys() == wanted


@either
def test_guard_runs_with_no_privilege(kind: str) -> None:
    context = sidecar(kind)["securityContext"]
    assert context["runAsNonRoot"]
    assert context["runAsUser"] == context["runAsGroup"] == 65532
    assert context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"cpu", "memory"} <= sidecar(kind)["resources"]["requests"].keys()
    assert "memory" in sidecar(kind)["resources"]["limits"]


@either
def test_pod_waits_for_django_and_then_for_the_guard(kind: str) -> None:
    [main] = pod(kind)["containers"]
    hook = main.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
    django = 30 + int(hook[1])
    guard = seconds(sidecar_settings()["timeouts"]["shutdown_timeout"])
    assert pod(kind)["terminationGracePeriodSeconds"] > django + guard


def test_django_hears_of_the_end_when_nobody_sends_it_requests_any_more() -> None:
    [web] = pod()["containers"]
    assert web["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_a_job_is_over_when_its_command_is() -> None:
    assert pod("Job")["restartPolicy"] == "Never"
    [command] = pod("Job")["containers"]
    assert command["command"][:3] == ["python", "manage.py", "migrate"]


@either
def test_config_is_mounted_where_the_guard_reads_it(kind: str) -> None:
    container = sidecar(kind)
    config = Path(container["args"][container["args"].index("--config") + 1])
    mounts = {Path(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(kind)["volumes"]}
    volume = volumes[mounts[config.parent]]
    assert volume["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    assert config.name in of_kind("ConfigMap")["data"]
    authority = Path(sidecar_settings()["upstream"]["tls"]["ca"])
    assert "secret" in volumes[mounts[authority.parent]]


def test_the_guard_accepts_the_config(tmp_path: Path) -> None:
    # The Secret with PostgreSQL's authority is there in the pod only.
    authority = tmp_path / "ca.crt"
    authority.touch()
    config = tmp_path / "guardproxy.yaml"
    text = str(of_kind("ConfigMap")["data"]["guardproxy.yaml"])
    config.write_text(text.replace(sidecar_settings()["upstream"]["tls"]["ca"], str(authority)))
    settings = load(config, {}, {}).settings
    assert settings.listen.host == "127.0.0.1"
    assert settings.upstream.tls.mode == "verify-full"
    assert settings.timeouts.shutdown_timeout == 10
    assert settings.reload.interval > 0


@either
def test_django_in_the_pod_connects_to_the_guard(kind: str) -> None:
    [web] = pod(kind)["containers"]
    environment = {entry["name"]: entry for entry in web["env"]}
    assert environment["DATABASE_HOST"]["value"] == sidecar_settings()["listen"]["host"]
    assert int(environment["DATABASE_PORT"]["value"]) == sidecar_settings()["listen"]["port"]
    assert "secretKeyRef" in environment["DATABASE_PASSWORD"]["valueFrom"]


# Compose


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def compose_environment() -> dict[str, str]:
    return {key: str(value) for key, value in compose()["guard"]["environment"].items()}


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_compose_file_follows_the_compose_spec() -> None:
    checked = check_compose(DEPLOY / "compose.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_compose_schema_would_see_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("read_only:", "readonly:"))
    assert check_compose(wrong).returncode == 1


def test_compose_puts_django_on_the_loopback_of_the_guard() -> None:
    web, guard = compose()["web"], compose()["guard"]
    assert web["network_mode"] == "service:guard"
    assert "ports" not in web
    assert web["depends_on"]["guard"]["condition"] == "service_healthy"
    assert guard["depends_on"]["db"]["condition"] == "service_healthy"
    assert (web["environment"]["DATABASE_HOST"], web["environment"]["DATABASE_PORT"]) == (
        "127.0.0.1",
        str(PORT),
    )
    # Nobody else may come to a door at which passwords are said in clear.
    assert not [port for port in guard["ports"] if str(PORT) in port]


def test_compose_gives_the_guard_no_privilege_and_time_to_stop() -> None:
    guard = compose()["guard"]
    assert guard["read_only"] is True
    assert guard["cap_drop"] == ["ALL"]
    stop = seconds(compose_environment()["GUARDPROXY_TIMEOUTS_SHUTDOWN_TIMEOUT"])
    assert seconds(guard["stop_grace_period"]) > stop


def test_the_guard_accepts_the_environment() -> None:
    settings = load(None, compose_environment(), {}).settings
    assert settings.upstream.host in compose()
    assert (settings.listen.host, settings.listen.port) == ("127.0.0.1", PORT)


def test_compose_builds_this_dockerfile() -> None:
    build = compose()["guard"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


# Image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text())
    lines = text.replace("\\\n", " ").splitlines()
    split = [line.strip().partition(" ") for line in lines if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in split]


def final_stage() -> dict[str, str]:
    """The last instruction of each kind in the stage that becomes the image."""
    said = instructions()
    start = max(index for index, (word, _) in enumerate(said) if word == "FROM")
    return dict(said[start:])


def test_image_is_slim_and_its_base_can_be_chosen() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    assert instructions()[0] == ("ARG", "BASE=python:3.12-slim")
    assert "RUN" not in final_stage()


def test_image_runs_as_nobody_and_stops_on_sigterm() -> None:
    stage = final_stage()
    assert stage["USER"] == "65532:65532"
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["EXPOSE"] == str(PORT)


def test_image_needs_no_shell() -> None:
    stage = final_stage()
    assert Path(json.loads(stage["ENTRYPOINT"])[0]).name == "guardproxy"
    assert json.loads(stage["CMD"]) == ["run"]
    [python, isolated, script] = json.loads(stage["HEALTHCHECK"].partition("CMD")[2])
    assert (python, isolated) == ("/opt/guardproxy/bin/python", "-I")
    assert Path(script).name == HEALTHCHECK.name


def test_everything_copied_is_let_through_by_dockerignore() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copies = [shlex.split(rest) for word, rest in instructions() if word == "COPY"]
    sources = {name for words in copies if "--from=build" not in words for name in words[:-1]}
    assert sources <= allowed
    assert all((ROOT / name).exists() for name in sources)


# Health check


@contextmanager
def one_answer(answer: bytes) -> Iterator[int]:
    """A listener that reads one request, answers it and hangs up."""

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            received.append(link.recv(100))
            link.sendall(answer)

    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
    assert received == [bytes.fromhex("0000000804d2162f")]


def check_health(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(HEALTHCHECK), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("answer", "status"), [(b"N", 0), (b"S", 0), (b"E", 1), (b"", 1)])
def test_health_is_an_answer_to_an_ssl_request(answer: bytes, status: int) -> None:
    with one_answer(answer) as port:
        checked = check_health(f"127.0.0.1:{port}")
    assert checked.returncode == status, checked.stderr


def test_health_check_asks_where_the_environment_says() -> None:
    with one_answer(b"N") as port:
        checked = check_health(GUARDPROXY_LISTEN_HOST="127.0.0.1", GUARDPROXY_LISTEN_PORT=str(port))
    assert checked.returncode == 0, checked.stderr


def test_nobody_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    checked = check_health(f"127.0.0.1:{port}")
    assert checked.returncode == 1
    assert f"127.0.0.1:{port}" in checked.stderr


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])
