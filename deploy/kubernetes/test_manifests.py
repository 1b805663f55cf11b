"""The manifests, without a cluster: the schemas of Kubernetes, of KEDA and of the Prometheus operator,
what they say of each other, and `rollcall check` on the configuration that they carry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VERSION = "1.34"
"""The oldest Kubernetes for which the manifests are meant: `hostUsers` and `ordinals` are stable there."""

# Of the definitions of others, the part that is used here, in our own words: an unknown field is an error.
SELECTOR = {"type": "object", "properties": {"matchLabels": {"type": "object"}}, "additionalProperties": False}
POLICY = {
    "type": "object",
    "properties": {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "value", "periodSeconds"],
                "properties": {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
CUSTOM: dict[tuple[str, str], dict[str, Any]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): {
        "type": "object",
        "required": ["scaleTargetRef", "triggers"],
        "properties": {
            "scaleTargetRef": {
                "type": "object",
                "required": ["name"],
                "properties": {name: {"type": "string"} for name in ("apiVersion", "kind", "name")},
                "additionalProperties": False,
            },
            "pollingInterval": {"type": "integer", "minimum": 1},
            "minReplicaCount": {"type": "integer", "minimum": 0},
            "maxReplicaCount": {"type": "integer", "minimum": 1},
            "advanced": {
                "type": "object",
                "properties": {
                    "horizontalPodAutoscalerConfig": {
                        "type": "object",
                        "properties": {
                            "behavior": {
                                "type": "object",
                                "properties": {"scaleUp": POLICY, "scaleDown": POLICY},
                                "additionalProperties": False,
                            }
                        },
                        "additionalProperties": False,
                    }
                },
                "additionalProperties": False,
            },
            "triggers": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "metadata"],
                    "properties": {
                        "type": {"const": "metrics-api"},
                        "metadata": {
                            "type": "object",
                            "required": ["url", "valueLocation", "targetValue"],
                            # All of them are texts there, numbers too.
                            "additionalProperties": {"type": "string"},
                        },
                    },
                    "additionalProperties": False,
                },
            },
        },
        "additionalProperties": False,
    },
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "type": "object",
        "required": ["endpoints", "selector"],
        "properties": {
            "selector": SELECTOR,
            "endpoints": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "port": {"type": "string"},
                        "path": {"type": "string"},
                        "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                        "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+s$"},
                        "relabelings": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    name: {"type": "string"} for name in ("action", "targetLabel", "replacement")
                                },
                                "additionalProperties": False,
                            },
                        },
                    },
                    "additionalProperties": False,
                },
            },
        },
        "additionalProperties": False,
    },
}


def manifests() -> Iterator[dict[str, Any]]:
    for file in sorted(HERE.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text(encoding="utf-8"))


ALL = list(manifests())


def named(kind: str, name: str) -> dict[str, Any]:
    found = [one for one in ALL if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}"
    return found[0]


def title(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


@pytest.mark.parametrize("manifest", ALL, ids=title)
def test_a_manifest_is_as_its_schema_wants_it(manifest: dict[str, Any]) -> None:
    schema = CUSTOM.get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    else:
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.validate(manifest["spec"], schema)


def test_a_mistake_would_be_found() -> None:
    server = yaml.safe_load(yaml.safe_dump(named("Deployment", "rollcall")))
    server["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(server, VERSION, strict=True)
    scaled = yaml.safe_load(yaml.safe_dump(named("ScaledObject", "python")))
    scaled["spec"]["triggers"][0]["metadata"]["targetValue"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled["spec"], CUSTOM["keda.sh/v1alpha1", "ScaledObject"])


def configuration() -> dict[str, Any]:
    return yaml.safe_load(named("ConfigMap", "rollcall")["data"]["config.yaml"])


def test_the_configuration_that_they_carry_passes_the_check(tmp_path: Path) -> None:
    for folder in ("tls", "tokens"):
        (tmp_path / folder).mkdir()
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=rollcall", "-addext", "subjectAltName=DNS:rollcall-workers", "-days", "2"]
    files = ["-keyout", str(tmp_path / "tls/tls.key"), "-out", str(tmp_path / "tls/tls.crt")]
    subprocess.run([*make, *names, *files], check=True, capture_output=True)
    (tmp_path / "tls/tls.key").chmod(0o440)
    (tmp_path / "tokens/python").write_text("0123456789abcdef0123456789abcdef", encoding="utf-8")
    text = named("ConfigMap", "rollcall")["data"]["config.yaml"].replace("/etc/rollcall", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    check = subprocess.run([target / "debug/rollcall", "check", config], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "warning" not in (check.stdout + check.stderr).lower(), check.stdout + check.stderr


def test_what_they_say_of_each_other_is_so() -> None:
    config, workers = configuration(), named("StatefulSet", "python")
    pool, scaled = config["pools"][0], named("ScaledObject", "python")["spec"]
    # Its pods are called as the pool's workers are.
    assert pool["name"] == workers["metadata"]["name"] == scaled["scaleTargetRef"]["name"]
    assert workers["spec"]["ordinals"]["start"] == 1
    assert (pool["scaling"]["min"], pool["scaling"]["max"]) == (scaled["minReplicaCount"], scaled["maxReplicaCount"])
    url = scaled["triggers"][0]["metadata"]["url"]
    assert url.endswith(f"/v1/pools/{pool['name']}")
    # Where they dial is where the server listens, by a name that is there.
    port = int(config["server"]["workers_listen"]["listen"].rpartition(":")[2])
    service = named("Service", "rollcall-workers")
    assert service["spec"]["ports"][0]["port"] == port
    args = workers["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--connect=wss://{service['metadata']['name']}:{port}" in args
    # The window is where KEDA and Prometheus look, and the policy lets them.
    window = named("Service", "rollcall-window")
    assert f"http://{window['metadata']['name']}:{window['spec']['ports'][0]['port']}/" in url
    selector = named("ServiceMonitor", "rollcall")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= window["metadata"]["labels"].items()
    policy = named("NetworkPolicy", "rollcall")["spec"]
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    server = named("Deployment", "rollcall")["spec"]["template"]
    assert opened == {port["name"] for each in server["spec"]["containers"] for port in each["ports"]}
    for one in ("Deployment", "rollcall"), ("StatefulSet", "python"):
        template = named(*one)["spec"]["template"]
        assert policy_of(template["metadata"]["labels"]), one
        grace = template["spec"]["terminationGracePeriodSeconds"]
        assert grace >= (300 if one[1] == "python" else 30), "as long as what is under way may take"


def policy_of(labels: dict[str, str]) -> list[str]:
    policies = [one for one in ALL if one["kind"] == "NetworkPolicy"]
    chosen = (one["spec"]["podSelector"]["matchLabels"] for one in policies)
    return [name for select in chosen if select.items() <= labels.items() for name in select.values()]
