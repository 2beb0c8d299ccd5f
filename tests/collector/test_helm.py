"""The Helm chart: lints, renders, fits the Kubernetes schemas, refuses what it cannot do, agrees with the collector's settings."""

from __future__ import annotations

import importlib.util
import json

import kubernetes_validate
import pytest
import yaml

from cutaway_collector import settings
from helm_helpers import CHART, ROOT, helm, render, template

KUBERNETES = ("1.27", "1.37")
"""The oldest that Chart.yaml allows and the newest whose schemas we have."""

VALUE_SETS = {
    "defaults": {},
    "server_from_secret": {"clickhouse": {"secret": {"name": "clickhouse-dsn"}}},
    "server_from_url": {"clickhouse": {"url": "http://clickhouse:8123"}, "persistence": {"storageClassName": "fast"}},
    "trial": {"persistence": {"enabled": False},
              "settings": {"queue_bytes_max": 67108864, "score_device": "cpu", "retention_days": 3}},
    "closed": {"insecureBind": False, "tls": {"secret": "certificate"}, "keys": {"secret": "keys"},
               "serviceMonitor": {"enabled": True, "endpoint": {"authorization": {"credentials": {"name": "key", "key": "key"}}}}},
    "everything": {
        "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {"matchLabels": {"team": "models"}}}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "settings": {"drain_seconds_max": 45}, "podLabels": {"team": "models"}, "podAnnotations": {"a": "b"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}], "imagePullSecrets": [{"name": "pull"}], "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], "priorityClassName": "high",
        "serviceAccount": {"create": False, "name": "existing"},
        "service": {"type": "LoadBalancer", "annotations": {"note": "inside only"}},
    },
}


def pod_of(objects):
    return objects["StatefulSet"]["spec"]["template"]["spec"]


def environment_of(objects):
    return {item["name"]: item.get("value", "") for item in pod_of(objects)["containers"][0]["env"]}


def test_lint_is_clean():
    """`helm lint --strict` finds nothing."""
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_objects_fit_the_kubernetes_schemas(values, kubernetes, tmp_path):
    """Every object but the operator's own kind is valid, without unknown fields, on the oldest and newest Kubernetes."""
    objects = render(values, tmp_path)
    assert {"StatefulSet", "Service"} <= objects.keys()
    for kind, document in objects.items():
        if kind != "ServiceMonitor":
            kubernetes_validate.validate(document, kubernetes, strict=True)


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_the_collector_accepts_the_pods_environment(values, tmp_path):
    """The collector reads the rendered variables as settings: same values, reachable from outside, stopped after its drain."""
    objects = render(values, tmp_path)
    environment = environment_of(objects)
    known = {row.env for row in settings.table()}
    assert {name for name in environment if name.startswith("CUTAWAY_")} <= known
    loaded = settings.load({}, environment)
    for name, value in values.get("settings", {}).items():
        assert value == getattr(loaded, name)
    ports = {port["name"]: port["containerPort"] for port in pod_of(objects)["containers"][0]["ports"]}
    assert {loaded.otlp_grpc: ports["otlp-grpc"], loaded.otlp_http: ports["otlp-http"], loaded.ui: ports["ui"]} == {
        f"0.0.0.0:{port}": port for port in ports.values()}
    assert pod_of(objects)["terminationGracePeriodSeconds"] > loaded.drain_seconds_max


def test_embedded_storage_writes_to_the_claimed_volume_alone(tmp_path):
    """By default chDB and the spool lie on the pod's claim, and nothing else of the file system can be written but /tmp."""
    objects = render({}, tmp_path)
    (container,) = pod_of(objects)["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/var/lib/cutaway": "data", "/tmp": "tmp"}
    assert [claim["metadata"]["name"] for claim in objects["StatefulSet"]["spec"]["volumeClaimTemplates"]] == ["data"]
    environment = environment_of(objects)
    for name in ("CUTAWAY_DATA", "CUTAWAY_SPOOL", "NUMBA_CACHE_DIR"):
        assert environment[name].startswith(tuple(f"{mount}/" for mount in mounts))
    assert "CUTAWAY_CLICKHOUSE" not in environment


def test_a_server_with_a_password_is_named_by_a_secret(tmp_path):
    """The URL comes from the secret, the embedded store is off, and only the spool uses the volume."""
    objects = render(VALUE_SETS["server_from_secret"], tmp_path)
    variables = {item["name"]: item for item in pod_of(objects)["containers"][0]["env"]}
    assert variables["CUTAWAY_CLICKHOUSE"]["valueFrom"] == {"secretKeyRef": {"name": "clickhouse-dsn", "key": "url"}}
    assert "CUTAWAY_DATA" not in variables
    assert "CUTAWAY_SPOOL" in variables


def test_with_tls_and_keys_the_pod_is_closed(tmp_path):
    """Certificate and keys come from secrets, probes speak TLS, and the collector that reads this environment demands keys."""
    objects = render(VALUE_SETS["closed"], tmp_path)
    (container,) = pod_of(objects)["containers"]
    loaded = settings.load({}, environment_of(objects))
    assert (loaded.auth_required, loaded.insecure_bind) == (True, False)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod_of(objects)["volumes"] if "secret" in volume}
    for path, secret in ((loaded.tls_certificate, "certificate"), (loaded.tls_key, "certificate"), (loaded.keys, "keys")):
        assert secret == secrets[mounts[path.rpartition("/")[0]]]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert "HTTPS" == container[probe]["httpGet"]["scheme"]
    (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    assert ("https", "key") == (endpoint["scheme"], endpoint["authorization"]["credentials"]["name"])


def test_one_hardened_pod(tmp_path):
    """One replica and no disruption budget (it would block drains); no root, no token, no writable root, no privileges."""
    objects = render({}, tmp_path)
    assert objects["StatefulSet"]["spec"]["replicas"] == 1
    assert "PodDisruptionBudget" not in objects
    pod = pod_of(objects)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert objects["ServiceAccount"]["automountServiceAccountToken"] is False
    context = pod["containers"][0]["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def test_probes_ask_the_ui(tmp_path):
    """Liveness and start-up ask /healthz, readiness asks /readyz, on the UI's port."""
    (container,) = pod_of(render({}, tmp_path))["containers"]
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert asked == {"startup": {"path": "/healthz", "port": "ui"}, "liveness": {"path": "/healthz", "port": "ui"},
                     "readiness": {"path": "/readyz", "port": "ui"}}


def test_services_and_monitors_find_the_pod(tmp_path):
    """Service, monitor and policy select labels that the pod or the Service carries, and ports that exist."""
    objects = render(VALUE_SETS["everything"], tmp_path)
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for selector in (objects["Service"]["spec"]["selector"], objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
                     objects["StatefulSet"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    monitor = objects["ServiceMonitor"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    named = {port["name"] for port in objects["Service"]["spec"]["ports"]}
    assert monitor["spec"]["endpoints"] == [{"port": "ui", "path": "/metrics", "interval": "30s"}]
    assert named == {"otlp-grpc", "otlp-http", "ui"} == {port["name"] for port in pod_of(objects)["containers"][0]["ports"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "cluster"}, "mode"),
        ({"replicas": 3}, "replicas"),
        ({"settings": {"retention_day": 3}}, "retention_day"),
        ({"settings": {"retention_days": "a month"}}, "retention_days"),
        ({"settings": {"retention_days": -1}}, "retention_days"),
        ({"settings": {"insecure_bind": True}}, "insecure_bind"),
        ({"settings": {"score_device": "tpu"}}, "score_device"),
        ({"clickhouse": {"url": "http://user:secret@host:8123"}}, "url"),
        ({"service": {"ports": {"ui": 70000}}}, "ui"),
        ({"persistence": {"size": "large"}}, "size"),
        ({"insecureBind": False}, "needs tls.secret and keys.secret"),
        ({"insecureBind": False, "tls": {"secret": "certificate"}}, "needs tls.secret and keys.secret"),
        ({"clickhouse": {"url": "http://host:8123", "secret": {"name": "dsn"}}}, "Leave one out"),
        ({"terminationGracePeriodSeconds": 20}, "Leave it out for 30"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_bad_values_are_refused_by_name(values, words, tmp_path):
    """A bad value, an unknown key or a contradiction stops the rendering with the name of what is wrong."""
    done = template(values, tmp_path)
    assert done.returncode != 0
    assert words in done.stderr


def _generator():
    spec = importlib.util.spec_from_file_location("generate_schema", ROOT / "helm" / "generate_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_is_generated_from_the_settings():
    """values.schema.json is what the settings table gives today; else run `python helm/generate_schema.py`."""
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == _generator().text()


def test_every_value_is_in_the_schema_and_the_other_way_round():
    """values.yaml names each value of the schema, so that reading it is enough."""
    def keys(properties, prefix=""):
        for name, item in properties.items():
            yield prefix + name
            if item.get("properties") and name != "settings":
                yield from keys(item["properties"], f"{prefix}{name}.")

    def given(values, prefix=""):
        for name, value in values.items():
            yield prefix + name
            if isinstance(value, dict) and prefix + name not in ("resources", "podSecurityContext", "securityContext"):
                yield from given(value, f"{prefix}{name}.")

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(given(values)) | {"global"} == set(keys(_generator().schema()["properties"]))


def test_the_charts_default_drain_is_the_collectors():
    """The grace period is computed from the same default that the collector has."""
    default = next(row.default for row in settings.table() if row.name == "drain_seconds_max")
    assert f"$drain := {default} " in (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")


def test_the_dockerfile_runs_as_the_charts_user(tmp_path):
    """Image and pod agree on the user, the volume's place and the ports."""
    text = (ROOT / "collector" / "Dockerfile").read_text(encoding="utf-8")
    objects = render({}, tmp_path)
    pod = pod_of(objects)
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in text
    assert "EXPOSE " + " ".join(str(port["containerPort"]) for port in pod["containers"][0]["ports"]) in text
    assert 'ENTRYPOINT ["cutaway"]' in text
