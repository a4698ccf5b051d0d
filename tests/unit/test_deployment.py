"""The deployment files keep what they promise, as far as reading them can tell: no engine runs here."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shared.configuration.variables import VARIABLES
from shared.errors import PROBLEMS, ProblemCode, problem_type
from tests.command_line import parsed

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
OURS = ("web", "relay", "worker", "migrate")
ONE_SHOT = ("migrate",)
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NGINX_FILE = ROOT / "deploy" / "nginx.conf"
NGINX = NGINX_FILE.read_text()
SETTINGS = {variable.name: variable for variable in VARIABLES}
NO_KEY = "only-the-worker-has-it"
SECRET = re.compile(r"PASSWORD|KEY|SECRET|TOKEN(?!S)|AUTH$")
INTERPOLATION = re.compile(r"\$\{([A-Z_]+)(:?[-?+][^}]*)?\}")


def procfile() -> dict[str, list[str]]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: command.split() for name, _, command in (line.partition(": ") for line in lines if line)}


def seconds(duration: str) -> int:
    """`45s` or `2m` as seconds."""
    amount, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()
    return int(amount) * {"s": 1, "m": 60}[unit]


def scalars(node: object) -> Iterator[str]:
    match node:
        case dict():
            for value in node.values():
                yield from scalars(value)
        case list():
            for value in node:
                yield from scalars(value)
        case str():
            yield node


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_or_ends_by_itself(name: str):
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert service["restart"] == "no"
        assert "healthcheck" not in service
    else:
        assert service["restart"] == "unless-stopped"
        check = service["healthcheck"]
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        assert seconds(check["timeout"]) <= seconds(check["interval"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_runs_with_as_few_rights_as_it_can(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    user = "10001:10001" if name in OURS else service["user"]
    assert user.split(":")[0] not in {"", "0", "root"}


def test_no_secret_has_a_default():
    for name, rule in INTERPOLATION.findall(COMPOSE_TEXT):
        if SECRET.search(name):
            assert rule.startswith(":?") or rule == ":-", f"{name}{rule}"


def test_no_secret_is_written_down():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable):
                assert value == NO_KEY or INTERPOLATION.fullmatch(value), f"{name}: {variable}"
    for text in scalars(COMPOSE):
        for userinfo in re.findall(r"://([^@/\s]*)@", text):
            assert INTERPOLATION.fullmatch(userinfo.partition(":")[2]), text


def test_every_variable_of_the_compose_file_is_documented():
    howto = (ROOT / "docs" / "howto" / "run-behind-nginx.md").read_text()
    own = set(re.findall(r"`([A-Z_]+)`", "\n".join(re.findall(r"^\| (`.*?`) \|", howto, re.MULTILINE))))
    named = {name for name, _ in INTERPOLATION.findall(COMPOSE_TEXT)}
    assert named - SETTINGS.keys() == own


@pytest.mark.parametrize("name", OURS)
def test_every_setting_that_a_service_gets_exists(name: str):
    assert SERVICES[name]["environment"].keys() <= SETTINGS.keys()


def test_a_default_stands_in_the_settings_alone():
    for name, rule in INTERPOLATION.findall(COMPOSE_TEXT):
        if name in SETTINGS:
            assert rule == ":-" or rule.startswith(":?"), f"{name}{rule}"


def test_the_compose_file_runs_the_processes_of_the_procfile():
    processes = procfile()
    assert processes.pop("release") == ["turnkeeper", "migrate"]
    assert processes.keys() == set(OURS) - set(ONE_SHOT)
    for name, command in processes.items():
        assert command[:2] == ["turnkeeper", name]
        options = {word for word in command if word.startswith("--")}
        assert options == {word for word in SERVICES[name]["command"] if word.startswith("--")}


@pytest.mark.parametrize("name", OURS)
def test_the_command_line_knows_every_command(name: str):
    command = SERVICES[name]["command"]
    assert command[0] == name
    if name == "worker":
        assert command == ["worker"]
    else:
        parsed(command)


def test_a_process_has_longer_to_end_than_it_needs():
    drain_seconds = int(SETTINGS["DRAIN_SECONDS"].default)
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= drain_seconds + 15
    assert "DRAIN_SECONDS" not in SERVICES["worker"]["environment"]
    for name in ("web", "relay"):
        grace_seconds = parsed(SERVICES[name]["command"]).grace
        assert seconds(SERVICES[name]["stop_grace_period"]) >= grace_seconds + 10


def test_nothing_starts_before_what_it_needs_is_ready():
    for name in ("web", "relay", "worker"):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["nginx"]["depends_on"].keys() == {"web", "relay"}


def test_the_networks_let_nobody_reach_more_than_it_needs():
    members: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    assert members == {
        "public": {"nginx"},
        "front": {"nginx", "web", "relay"},
        "data": {"web", "relay", "worker", "migrate", "postgres", "redis"},
        "metrics": {"web", "relay", "worker"},
        "provider": {"worker"},
    }
    internal = {name for name, network in COMPOSE["networks"].items() if (network or {}).get("internal")}
    assert internal == {"front", "data", "metrics"}
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert all(port.startswith("${HTTP_BIND:-127.0.0.1}:") for port in SERVICES["nginx"]["ports"])


def test_only_the_worker_has_the_providers_key_and_only_migrations_the_owners_login():
    keys = {"ANTHROPIC_API_KEY", "MCP_LLM_API_KEY"}
    for name in OURS:
        environment = SERVICES[name]["environment"]
        assert ("DATABASE_OWNER_URL" in environment) == (name == "migrate")
        held = {environment[key] for key in keys & environment.keys()}
        if name == "worker":
            assert held == {"${ANTHROPIC_API_KEY:-}", "${MCP_LLM_API_KEY:-}"}
        else:
            assert held <= {NO_KEY}


def test_production_rules_are_on():
    assert {SERVICES[name]["environment"]["ENVIRONMENT"] for name in ("web", "relay", "worker")} == {
        "production"
    }


def test_redis_asks_for_its_password_and_never_drops_a_key():
    lines = COMPOSE["configs"]["valkey"]["content"].splitlines()
    assert "requirepass ${REDIS_PASSWORD:?set it}" in lines
    assert "maxmemory-policy noeviction" in lines
    assert not any("PASSWORD" in word for word in SERVICES["redis"]["command"])


def test_postgres_repeats_no_content_in_its_log():
    words = SERVICES["postgres"]["command"]
    assert {"log_min_error_statement=panic", "log_parameter_max_length_on_error=0"} <= set(words)


def test_the_image_is_built_from_locked_packages_and_runs_as_nobody_special():
    stages = DOCKERFILE.split("\nFROM ")
    assert len(stages) == 3
    installs = re.findall(r"pip \S+ \S+ install [^\n]*", DOCKERFILE)
    assert len(installs) == 2
    assert "--require-hashes -r requirements-image.lock" in installs[0]
    assert "--no-index" in installs[1]
    assert re.search(r"^USER 10001:10001$", stages[-1], re.MULTILINE)
    assert "pip" not in stages[-1]
    assert not re.search(r"^(ARG|ENV) .*(KEY|PASSWORD|TOKEN|SECRET)", DOCKERFILE, re.MULTILINE)
    python = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-slim", DOCKERFILE, re.MULTILINE).group(1)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert python in {"3.11", "3.12", "3.13"}


def test_everything_that_is_copied_into_the_image_is_let_through_and_there():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {line[1:] for line in rules if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        copied |= {source.rstrip("/") for source in line.split()}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_nginx_waits_longer_than_the_service_is_silent():
    timeouts = dict(re.findall(r"^\s*(proxy_\w+_timeout) (\d+)s;", NGINX, re.MULTILINE))
    assert int(timeouts["proxy_read_timeout"]) > 60
    assert int(timeouts["proxy_send_timeout"]) > 15
    assert int(timeouts["proxy_connect_timeout"]) <= 10


def test_nginx_passes_upgrades_on_and_repeats_no_request():
    assert "proxy_http_version 1.1;" in NGINX
    assert "proxy_set_header Upgrade $http_upgrade;" in NGINX
    assert "proxy_set_header Connection $connection_upgrade;" in NGINX
    # `non_idempotent` would send a POST again that may have been accepted, and `timeout` is no refusal.
    assert re.findall(r"proxy_next_upstream ([^;]*);", NGINX) == ["error"]


def test_nginx_buffers_no_stream():
    for path in ("= /v1/stream", r"~ ^/v1/turns/[^/]+/events$", r"~ ^/v1/sessions/[^/]+/turns$"):
        block = re.search(rf"location {re.escape(path)} \{{(.*?)\}}", NGINX, re.DOTALL).group(1)
        assert "proxy_buffering off;" in block
        assert "proxy_pass http://$web" not in block


def test_nginx_passes_nothing_on_to_the_ports_of_metrics():
    assert set(re.findall(r"(?:web|relay):(\d+)", NGINX)) == {"8080", "8081"}
    assert "metrics" not in NGINX.lower()


def test_nginx_takes_bodies_of_a_mebibyte_and_refuses_in_the_services_words():
    assert "client_max_body_size 1m;" in NGINX
    for code in (ProblemCode.PAYLOAD_TOO_LARGE, ProblemCode.UNAVAILABLE):
        problem = PROBLEMS[code]
        said = f'{{"type":"{problem_type(code)}","title":"{problem.title}","status":{problem.status},"code":"{code}"'
        assert said in NGINX


def test_nginx_logs_no_query_and_no_header_of_the_client():
    (log_format,) = re.findall(r"log_format plain[^;]*;", NGINX)
    named = set(re.findall(r"\$(\w+)", log_format))
    assert named == {
        "time_iso8601",
        "request_method",
        "uri",
        "status",
        "request_time",
        "body_bytes_sent",
        "sent_http_x_request_id",
    }
    assert "error_log /dev/stderr crit;" in NGINX


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed here")
def test_nginx_takes_its_configuration():
    tested = subprocess.run(
        ["nginx", "-t", "-c", str(NGINX_FILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert tested.returncode == 0, tested.stderr


def test_the_workflow_runs_the_script_with_pinned_actions_and_no_rights():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 30
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("requirements.lock", 21),
        ("requirements-image.lock", 21),
        ("requirements-dev.lock", 21),
        ("requirements-audit.lock", 21),
        ("requirements-prices.lock", 3),
    ],
)
def test_every_locked_package_has_its_hashes(name: str, least: int):
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
    assert len(entries) >= least
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_the_ci_script_is_valid_bash_and_can_be_run():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    bash = shutil.which("bash")
    assert subprocess.run([bash, "-n", str(script)], timeout=60, check=False).returncode == 0
    text = script.read_text()
    assert "make check" in text
    assert "make test" in text
    assert int(re.search(r"LIMIT_SECONDS=(\d+)", text).group(1)) <= 25 * 60
