"""The chart as Helm renders it: values that are refused, what pods and roles may do. Needs helm (HELM or PATH), no cluster."""

import json
import subprocess
from typing import Any

import pytest
import yaml

from demo.kubectl import find_tool
from demo.release import CHART
from finetune_operator.settings import from_environment

pytestmark = pytest.mark.apiserver  # not for the API server but for helm, which comes with the local cluster

DEFAULT = yaml.safe_load((CHART / "values.yaml").read_text())
LEAST = yaml.safe_load((CHART / "ci" / "default-values.yaml").read_text())
ALL_ON = {
    "watchNamespaces": ["team-a", "team-b"],
    "report": {"tls": {"secretName": "report-cert"}},
    "networkPolicy": {"enabled": True},
    "quickstart": {"enabled": True, "namespaces": ["team-a"]},
    "imagePullSecrets": [{"name": "pull"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "podAnnotations": {"a": "b"},
    "serviceAccount": {"annotations": {"a": "b"}},
}

Object = dict[str, Any]


def helm(*args: str, values: Object) -> str:
    """What Helm prints. Raises CalledProcessError with its complaint in stderr."""
    command = [find_tool("helm"), *args, "-f", str(CHART / "ci" / "default-values.yaml"), "-f", "-"]
    return subprocess.run(command, input=json.dumps(values), check=True, capture_output=True, text=True).stdout


def rendered(values: Object | None = None) -> list[Object]:
    """The release's objects."""
    text = helm("template", "ft", str(CHART), "-n", "system", "--kube-version", "1.34.0", values=values or {})
    return [found for found in yaml.safe_load_all(text) if found]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds."""
    return [found for found in objects if found["kind"] in kinds]


def complaint(values: Object) -> str:
    """What Helm says about values it refuses."""
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(values)
    return str(refused.value.stderr)


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "everything on"])
def test_lint_has_nothing_to_say(values: Object) -> None:
    assert "0 chart(s) failed" in helm("lint", str(CHART), "--strict", values=values)


@pytest.mark.parametrize(
    ("values", "path", "expected"),
    [
        pytest.param({"replicas": 2}, "", "replicas", id="an unknown value"),
        pytest.param({"image": {"name": "x"}}, "/image", "name", id="an unknown value further in"),
        pytest.param({"concurrency": 0}, "/concurrency", "minimum", id="no workers"),
        pytest.param({"concurrency": "8"}, "/concurrency", "integer", id="text for a number"),
        pytest.param({"resyncSeconds": 0.01}, "/resyncSeconds", "minimum", id="no time between resyncs"),
        pytest.param(
            {"serviceAccount": {"existing": "mine", "annotations": {"a": "b"}}},
            "/serviceAccount/annotations",
            "maxProperties",
            id="annotations for a service account of somebody else",
        ),
        pytest.param({"crds": {"keep": "yes"}}, "/crds/keep", "boolean", id="text for a switch"),
        pytest.param({"watchNamespaces": "team-a"}, "/watchNamespaces", "array", id="text for a list"),
        pytest.param({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0", "pattern", id="not a namespace"),
        pytest.param({"image": {"digest": "abc"}}, "/image/digest", "pattern", id="not a digest"),
        pytest.param({"resources": {"limit": {}}}, "/resources", "limit", id="a misspelt resource list"),
        pytest.param({"imagePullSecrets": ["pull"]}, "/imagePullSecrets/0", "object", id="a bare secret name"),
        pytest.param({"quickstart": {"buckets": []}}, "/quickstart/buckets", "minItems", id="a store without buckets"),
        pytest.param({"quickstart": {"buckets": ["A b"]}}, "/quickstart/buckets/0", "pattern", id="not a bucket"),
        pytest.param({"quickstart": {"namespaces": []}}, "/quickstart/namespaces", "minItems", id="a store for nobody"),
        pytest.param({"report": {"tls": "cert"}}, "/report/tls", "object", id="a bare certificate name"),
    ],
)
def test_refused_values(values: Object, path: str, expected: str) -> None:
    said = complaint(values)
    assert f"at '{path}'" in said
    assert expected.lower() in said.lower()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        pytest.param({"image": {"repository": ""}}, "image.repository", id="operator"),
        pytest.param({"trainer": {"image": {"repository": ""}}}, "trainer.image.repository", id="trainer"),
    ],
)
def test_a_missing_image_is_named(values: Object, name: str) -> None:
    assert f"{name} is required: build the image" in complaint(values)


def test_a_digest_wins_over_a_tag() -> None:
    digest = "sha256:" + "a" * 64
    (deployment,) = of_kind(rendered({"image": {"tag": "1", "digest": digest}}), "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"example/finetune-operator@{digest}"


def unlisted(schema: Object, values: Object, path: str = "") -> list[str]:
    """Values of values.yaml the schema does not know by name, and objects it leaves open."""
    found = [] if schema.get("additionalProperties") is False or "properties" not in schema else [f"{path}: open"]
    for name, value in values.items():
        child = schema.get("properties", {}).get(name)
        if child is None:
            found.append(f"{path}.{name}")
        elif isinstance(value, dict) and "$ref" not in child:
            found += unlisted(child, value, f"{path}.{name}")
    return found


def test_the_schema_knows_every_value_and_nothing_else() -> None:
    assert unlisted(json.loads((CHART / "values.schema.json").read_text()), DEFAULT) == []


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """Pod specs by workload name."""
    return {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in of_kind(objects, "Deployment")}


def test_every_pod_is_restricted() -> None:
    specs = pod_specs(rendered(ALL_ON))
    assert set(specs) == {"ft-finetune-operator", "ft-finetune-operator-s3"}
    for spec in specs.values():
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert {"livenessProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["defaults", "everything on"])
def test_the_operator_understands_its_environment(values: Object) -> None:
    spec = pod_specs(rendered(values))["ft-finetune-operator"]
    env = {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
    folder = env.pop("FINETUNE_REPORT_TLS_DIR", None)  # a folder of the pod, not of this machine
    settings = from_environment(env)
    assert settings.operator_image == "example/finetune-operator:0.1.0"
    assert settings.trainer_image == "example/finetune-trainer:0.1.0"
    assert settings.watch_namespaces == tuple(values.get("watchNamespaces", ()))
    scheme = "https" if folder else "http"
    assert settings.report_url == f"{scheme}://ft-finetune-operator.system.svc:8080"
    assert (settings.concurrency, settings.resync_seconds) == (8, 60.0)
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert ports == {"report": settings.report_port, "probes": settings.probe_port}
    mounts = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert folder is None or folder in mounts


def test_reports_reach_the_operator() -> None:
    objects = rendered()
    (service,) = of_kind(objects, "Service")
    (deployment,) = of_kind(objects, "Deployment")
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["ports"] == [{"name": "report", "port": 8080, "targetPort": "report"}]


def rules(role: Object) -> list[tuple[str, str, str]]:
    """(group, resource, verb) of a role."""
    return [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def test_cluster_wide_rights_are_one_cluster_role() -> None:
    objects = rendered({"rbac": {"userRoles": False}})
    (role,) = of_kind(objects, "ClusterRole")
    assert ("authentication.k8s.io", "tokenreviews", "create") in rules(role)
    assert ("batch", "jobs", "create") in rules(role)
    assert of_kind(objects, "Role", "RoleBinding") == []


def test_listed_namespaces_leave_one_right_in_the_cluster() -> None:
    objects = rendered({"watchNamespaces": ["team-a", "team-b"], "rbac": {"userRoles": False}})
    (cluster_role,) = of_kind(objects, "ClusterRole")
    assert rules(cluster_role) == [("authentication.k8s.io", "tokenreviews", "create")]
    assert [role["metadata"]["namespace"] for role in of_kind(objects, "Role")] == ["team-a", "team-b"]
    assert [binding["metadata"]["namespace"] for binding in of_kind(objects, "RoleBinding")] == ["team-a", "team-b"]
    cluster_wide = of_kind(rendered({"rbac": {"userRoles": False}}), "ClusterRole")[0]
    for role in of_kind(objects, "Role"):
        assert [*rules(cluster_role), *rules(role)] == rules(cluster_wide)


FORBIDDEN = {"secrets", "pods/exec", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "nodes"}


def test_the_operator_cannot_touch() -> None:
    (role,) = of_kind(rendered({"rbac": {"userRoles": False}}), "ClusterRole")
    granted = rules(role)
    assert not FORBIDDEN & {resource for _, resource, _ in granted}
    assert not any("*" in right for right in granted)
    written = {"create", "update", "patch", "delete"}
    assert {(r, v) for g, r, v in granted if g == "finetune.dev" and v in written and "/finalizers" not in r} == {
        ("finetunejobs", "patch"),  # metadata.finalizers of delegated jobs; RBAC knows no smaller right
        ("finetunejobs", "delete"),
        ("adapterdeployments", "create"),
        ("finetunejobs/status", "patch"),
        ("adapterdeployments/status", "patch"),
    }, "a controller never writes a spec"


def test_people_get_rights_by_aggregation() -> None:
    view, edit = (
        role for role in of_kind(rendered(), "ClusterRole") if role["metadata"]["name"].startswith("finetune-")
    )
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    assert view["metadata"]["labels"][f"{aggregate}view"] == "true"
    assert f"{aggregate}view" not in edit["metadata"]["labels"]
    assert {verb for _, _, verb in rules(view)} == {"get", "list", "watch"}
    assert {resource for _, resource, _ in rules(edit)} == {"finetunejobs", "adapterdeployments"}, "no status"


@pytest.mark.parametrize(
    ("crds", "count", "kept"),
    [
        pytest.param({}, 2, True, id="installed and kept"),
        pytest.param({"keep": False}, 2, False, id="removed with the release"),
        pytest.param({"enabled": False}, 0, False, id="somebody else's"),
    ],
)
def test_crds(crds: Object, count: int, kept: bool) -> None:
    found = of_kind(rendered({"crds": crds}), "CustomResourceDefinition")
    assert len(found) == count
    for crd in found:
        assert (crd["metadata"].get("annotations") == {"helm.sh/resource-policy": "keep"}) == kept


def test_the_quick_start_store_is_off_unless_asked_for() -> None:
    assert "Secret" not in {found["kind"] for found in rendered()}


def test_quick_start_keys_open_the_store() -> None:
    objects = rendered({"quickstart": {"enabled": True, "namespaces": ["team-a", "team-b"]}})
    store, *users = of_kind(objects, "Secret")
    identity = json.loads(store["stringData"]["s3.json"])["identities"][0]["credentials"][0]
    assert [user["metadata"]["namespace"] for user in users] == ["team-a", "team-b"]
    (service,) = (s for s in of_kind(objects, "Service") if s["metadata"]["name"].endswith("-s3"))
    for user in users:
        assert user["metadata"]["name"] == "s3"
        assert user["stringData"] == {
            "AWS_ACCESS_KEY_ID": identity["accessKey"],
            "AWS_SECRET_ACCESS_KEY": identity["secretKey"],
            "AWS_ENDPOINT_URL": f"http://{service['metadata']['name']}.system.svc:{service['spec']['ports'][0]['port']}",
            "AWS_REGION": "us-east-1",
        }


def test_quick_start_keys_can_be_given() -> None:
    given = {"accessKey": "12345", "secretKey": "0123456789"}
    values = {"quickstart": {"enabled": True, **given}}
    _, user = of_kind(rendered(values), "Secret")
    assert rendered(values) == rendered(values), "as Argo CD renders, which sees no Secret of before"
    assert user["stringData"]["AWS_ACCESS_KEY_ID"] == "12345"
    assert user["stringData"]["AWS_SECRET_ACCESS_KEY"] == "0123456789"
