"""The Kubernetes example, as far as reading it can tell: no cluster runs here."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from api.health import OPERATIONS
from shared.configuration.variables import VARIABLES
from tests.command_line import parsed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OBJECTS = [
    each
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for each in yaml.safe_load_all(path.read_text())
]
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
SETTINGS = {variable.name: variable for variable in VARIABLES}
GRACE_SECONDS = {"web": 25, "relay": 25, "worker": int(SETTINGS["DRAIN_SECONDS"].default)}
STREAMS_CLOSE_SECONDS = 10
SERVING = ("web", "relay")
DEPLOYED = (*SERVING, "worker")
PLACEHOLDER = "only-the-worker-has-it"


def of_kind(kind: str) -> dict[str, dict]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def pods() -> dict[str, dict]:
    """The pods' templates, by what runs in them."""
    return {
        name: each["spec"]["template"]
        for kind in ("Deployment", "Job")
        for name, each in of_kind(kind).items()
    }


def container(name: str) -> dict:
    (only,) = pods()[name]["spec"]["containers"]
    return only


def selects(selector: dict, labels: dict) -> bool:
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_every_file_is_part_of_it():
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        *KUSTOMIZATION["resources"],
        "kustomization.yaml",
    }
    assert pods().keys() == {*DEPLOYED, "migrate"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_kustomize_takes_it():
    made = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    objects = list(yaml.safe_load_all(made.stdout))
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {
        "turnkeeper"
    }
    images = {
        one["image"]
        for each in objects
        if each["kind"] in {"Deployment", "Job"}
        for one in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"registry.example.com/turnkeeper:local"}


@pytest.mark.parametrize("name", [*DEPLOYED, "migrate"])
def test_every_process_runs_with_as_few_rights_as_it_can(name: str):
    pod, one = pods()[name]["spec"], container(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert one["resources"]["limits"]["memory"]
    assert one["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", [*DEPLOYED, "migrate"])
def test_the_command_line_knows_every_command(name: str):
    arguments = container(name)["args"]
    assert arguments[0] == name
    if name != "worker":
        options = parsed(arguments)
        for port in container(name).get("ports", ()):
            assert port["name"] == "metrics" or options.bind == f"0.0.0.0:{port['containerPort']}"


def settings_of(name: str) -> Iterator[str]:
    one = container(name)
    yield from (each["name"] for each in one.get("env", ()))
    if any("configMapRef" in each for each in one["envFrom"]):
        (generated,) = KUSTOMIZATION["configMapGenerator"]
        yield from (literal.partition("=")[0] for literal in generated["literals"])


@pytest.mark.parametrize("name", [*DEPLOYED, "migrate"])
def test_every_setting_exists_and_none_is_a_secret(name: str):
    assert set(settings_of(name)) <= SETTINGS.keys()
    for each in container(name).get("env", ()):
        assert each["value"] == PLACEHOLDER
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert "ENVIRONMENT=production" in generated["literals"]
    assert not [
        literal for literal in generated["literals"] if re.match(r"[A-Z_]*(KEY|PASSWORD|_URL)=", literal)
    ]


def test_only_workers_have_the_providers_key_and_only_migrations_the_owners_login():
    secrets = {
        name: {each["secretRef"]["name"] for each in container(name)["envFrom"] if "secretRef" in each}
        for name in pods()
    }
    assert secrets == {
        "web": {"turnkeeper-servers"},
        "relay": {"turnkeeper-servers"},
        "worker": {"turnkeeper-servers", "turnkeeper-provider"},
        "migrate": {"turnkeeper-servers", "turnkeeper-owner"},
    }
    page = (ROOT / "docs" / "howto" / "run-on-kubernetes.md").read_text()
    for name in set().union(*secrets.values()):
        assert f"create secret generic {name} " in page


@pytest.mark.parametrize("name", SERVING)
def test_probes_ask_for_paths_that_exist(name: str):
    one, paths = container(name), {operation.path for operation in OPERATIONS}
    probes = {probe: one[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {each["path"] for each in probes.values()} == paths == {"/healthz", "/readyz"}
    assert {each["port"] for each in probes.values()} == {one["ports"][0]["name"]}
    # Without Redis or workers turns are accepted all the same: that must not take every process out.
    assert probes["readinessProbe"]["path"] == probes["livenessProbe"]["path"] == "/healthz"


def test_the_workers_probe_is_the_images_own():
    for probe in ("startupProbe", "readinessProbe"):
        program, script, *arguments = container("worker")[probe]["exec"]["command"]
        assert (program, arguments) == ("python", ["worker"])
        assert f"COPY deploy/health.py {script}" in (ROOT / "Dockerfile").read_text()
        assert container("worker")[probe]["timeoutSeconds"] >= 5, "the check itself takes up to four seconds"
    assert "livenessProbe" not in container("worker")


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_process_has_longer_to_end_than_it_needs(name: str):
    hook = (
        container(name).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    )
    if name in SERVING:
        assert parsed(container(name)["args"]).grace == GRACE_SECONDS[name]
    needed = int(hook[1]) + GRACE_SECONDS[name] + STREAMS_CLOSE_SECONDS
    assert pods()[name]["spec"]["terminationGracePeriodSeconds"] >= needed + 5
    assert "DRAIN_SECONDS" not in set(settings_of(name))


@pytest.mark.parametrize("name", DEPLOYED)
def test_nothing_takes_all_processes_of_a_kind_at_once(name: str):
    deployment, budget = of_kind("Deployment")[name], of_kind("PodDisruptionBudget")[name]
    labels = pods()[name]["metadata"]["labels"]
    assert deployment["spec"]["replicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["maxUnavailable"] == 1
    assert (
        budget["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"] == labels
    )


def test_only_workers_reach_the_outside_and_only_what_serves_is_reached():
    policies = of_kind("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reached: dict[str, set[str]] = {name: set() for name in pods()}
    entered: dict[str, set[str]] = {}
    for policy in policies.values():
        for name in reached:
            if not selects(policy["spec"]["podSelector"], pods()[name]["metadata"]["labels"]):
                continue
            for rule in policy["spec"].get("egress", ()):
                reached[name] |= {"outside" if "ipBlock" in peer else "inside" for peer in rule["to"]}
            for rule in policy["spec"].get("ingress", ()):
                entered.setdefault(name, set()).update(port["port"] for port in rule["ports"])
    assert {name for name, places in reached.items() if "outside" in places} == {"worker"}
    assert entered == {"web": {"http", "metrics"}, "relay": {"http", "metrics"}, "worker": {"metrics"}}


def test_metrics_are_where_prometheus_is_let_in():
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    first = int(dict(literal.split("=") for literal in generated["literals"])["METRICS_PORT"])
    ports = {
        name: {each["name"]: each["containerPort"] for each in container(name)["ports"]} for name in DEPLOYED
    }
    # As the setting says: web there, relay at the next, worker at the one after.
    assert [ports[name]["metrics"] for name in DEPLOYED] == [first, first + 1, first + 2]


def test_workers_are_scaled_by_the_age_of_the_queue():
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "worker"
    (metric,) = scaler["spec"]["metrics"]
    name = metric["external"]["metric"]["name"]
    assert name == "turnkeeper_queue_oldest_seconds"
    assert f"`{name}`" in (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert scaler["spec"]["minReplicas"] >= 2


def test_streams_go_to_the_relay_and_silence_is_no_error():
    (ingress,) = of_kind("Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    routes = {each["path"]: each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
    assert routes == {"/v1/stream": "relay", "/v1/turns": "relay", "/": "web"}
    words = {name.partition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert int(words["proxy-read-timeout"]) > 60
    assert words["proxy-buffering"] == "off"
    assert words["proxy-next-upstream"] == "error"
    assert words["proxy-body-size"] == "1m"
