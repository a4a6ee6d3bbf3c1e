"""Serving on a real cluster: adapters come, change, fail and go while the others answer; a job's adapter outlives the job.

The tests of a class share a namespace and, where they can, one server pod: it takes half a minute to start.
"""

import base64
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from demo.kubectl import CommandFailed, Kubectl, Object, condition, is_true, wait_until
from e2e_jobs import data_config_map, finished, fresh_namespace, jsonl, object_when, rows, tiny_job
from finetune_api.artifacts import Manifest
from finetune_api.v1alpha1.finetunejob_status import ResolvedBaseModel
from finetune_storage import commit_folder, open_store
from served_pool import PROMPT, TOKENS, make_adapters, write_adapter

pytestmark = pytest.mark.e2e

SPLIT_EXAMPLE = Path(__file__).parents[2] / "examples" / "04-split-traffic" / "adapterdeployment.yaml"
# Two cores must hold a server, a job and whatever else the cluster serves.
SMALL = {"transformers": {"resources": {"cpu": "300m", "memory": "1Gi"}, "maxLoraRank": 16}}
SMALL_JOB = {"kubernetes": {"resources": {"cpu": "300m", "memory": "2Gi"}}}


@dataclass
class Stored:
    """A base and adapters in the cluster's object store, with what transformers and PEFT let them say."""

    base: Path
    base_uri: str
    base_digest: str
    secret: Path
    texts: dict[str, str]

    def adapter(self, folder: Path, **base: str) -> dict[str, str]:
        """Commit an adapter; what spec.adapter says of it."""
        uri = f"{self.base_uri}-{folder.name}"
        trained_on = ResolvedBaseModel(**({"uri": self.base_uri, "digest": self.base_digest} | base))
        manifest = Manifest(kind="Adapter", files=[], base_model=trained_on)
        return {"uri": uri, "digest": commit_folder(open_store(uri, self.secret), folder, "", manifest)}


@pytest.fixture(scope="module")
def stored(
    connect_store: Callable[[], AbstractContextManager[Any]],
    credentials: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stored]:
    folder = tmp_path_factory.mktemp("serving")
    secret = folder / "secret"
    secret.mkdir()
    for key, value in credentials.items():
        (secret / key).write_text(base64.b64decode(value).decode())
    with connect_store() as store:
        (secret / "AWS_ENDPOINT_URL").write_text(store.meta.endpoint_url)
        made, uri = make_adapters(folder, seed=3), f"s3://models/e2e/{uuid.uuid4().hex[:8]}"
        digest = commit_folder(open_store(uri, secret), made.base, "", Manifest(kind="Model", files=[]))
        yield Stored(made.base, uri, digest, secret, made.texts)


@pytest.fixture(scope="class")
def team(cluster: Kubectl, credentials: dict[str, str]) -> Iterator[Kubectl]:
    """A namespace for a class of tests."""
    with fresh_namespace(cluster, credentials) as kubectl:
        yield kubectl


def deployment(stored: Stored, name: str, adapter: dict[str, Any], **server: Any) -> Object:
    """An AdapterDeployment of an uploaded adapter (or, with jobRef, of a job's)."""
    base = {} if "jobRef" in adapter else {"baseModel": {"uri": stored.base_uri}, "secretRef": {"name": "s3"}}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": name},
        "spec": {"adapter": adapter, "server": {"runtime": SMALL, **base, **server}},
    }


def adep_when(kubectl: Kubectl, name: str, what: str, seen: Callable[[Object], bool], seconds: float = 240) -> Object:
    """The AdapterDeployment as soon as ``seen`` holds for it."""
    return object_when(kubectl, "adapterdeployments.finetune.dev", name, what, seen, seconds)


def is_ready(found: Object) -> bool:
    """Ready, and about this generation."""
    seen = condition(found, "Ready")
    fresh = seen is not None and seen["observedGeneration"] == found["metadata"]["generation"]
    return fresh and is_true(found, "Ready")


def not_ready(reason: str) -> Callable[[Object], bool]:
    """Ready=False with a reason."""

    def seen(found: Object) -> bool:
        ready = condition(found, "Ready")
        return ready is not None and (ready["status"], ready["reason"]) == ("False", reason)

    return seen


def message(found: Object) -> str:
    """The sentence beside Ready."""
    ready = condition(found, "Ready")
    assert ready is not None
    return str(ready["message"])


def said_by(kubectl: Kubectl, service: str, *models: str) -> list[str]:
    """What models answer through a Service."""
    with kubectl.port_forward(f"service/{service}", 80) as port:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        answers = []
        for model in models:
            answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0)
            assert answer.model == model
            answers.append(answer.choices[0].text)
        return answers


def server_pods(kubectl: Kubectl) -> set[tuple[str, int]]:
    """uids of the server pods, with their containers' restarts."""
    found = set()
    for pod in kubectl.list("pods", "finetune.dev/pool"):
        status = pod["status"]
        containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        found.add((pod["metadata"]["uid"], sum(container["restartCount"] for container in containers)))
    return found


class TestAdapters:
    """In this order: two adapters on one base, a better one, a bad one, one less, none."""

    def test_two_adapters_share_a_pod_and_answer_as_peft_itself_does(self, team: Kubectl, stored: Stored) -> None:
        team.apply(deployment(stored, "red", stored.adapter(stored.base.parent / "red")))
        team("wait", "adapterdeployments.finetune.dev/red", "--for=condition=Ready", "--timeout=240s")
        before = server_pods(team)
        team.apply(deployment(stored, "blue", stored.adapter(stored.base.parent / "blue")))
        blue = adep_when(team, "blue", "Ready", is_ready, 30)
        assert server_pods(team) == before, "the second adapter restarted nothing"
        assert said_by(team, "blue", "blue", "red", "base") == [stored.texts[name] for name in ("blue", "red", "base")]
        assert blue["status"]["url"] == f"http://blue.{team.namespace}.svc/v1"
        assert blue["status"]["pods"][0]["digest"] == blue["spec"]["adapter"]["digest"]

    def test_a_new_digest_takes_over_without_a_restart(self, team: Kubectl, stored: Stored) -> None:
        before = server_pods(team)
        team.apply(deployment(stored, "red", stored.adapter(stored.base.parent / "gold")))
        adep_when(team, "red", "Ready with the new digest", is_ready, 30)
        assert said_by(team, "red", "red") == [stored.texts["gold"]]
        assert server_pods(team) == before

    @pytest.mark.parametrize("bad", ["digest", "base", "rank"])
    def test_a_bad_adapter_is_named_by_both_values_and_the_old_one_serves(
        self, team: Kubectl, stored: Stored, tmp_path: Path, bad: str
    ) -> None:
        if bad == "digest":
            real = stored.adapter(stored.base.parent / "blue")
            reason, adapter = "DigestMismatch", real | {"digest": "sha256:" + "0" * 64}
            values = [real["digest"], adapter["digest"]]
        elif bad == "base":
            folder = write_adapter(tmp_path / "foreign", stored.base, seed=4)
            adapter = stored.adapter(folder, uri="s3://models/other", digest="sha256:" + "1" * 64)
            reason, values = "BaseModelMismatch", ["s3://models/other", stored.base_digest]
        else:
            adapter = stored.adapter(write_adapter(tmp_path / "high", stored.base, seed=5, rank=17))
            reason, values = "RankTooHigh", ["rank 17", "at most 16"]
        good = stored.adapter(stored.base.parent / "blue")
        team.apply(deployment(stored, "blue", adapter))
        refused = adep_when(team, "blue", reason, not_ready(reason), 60)
        assert [value for value in values if value not in message(refused)] == []
        assert f"{good['digest']} still serves" in message(refused)
        assert is_true(refused, "Stalled")
        assert said_by(team, "blue", "blue", "red") == [stored.texts["blue"], stored.texts["gold"]]
        team.apply(deployment(stored, "blue", good))
        adep_when(team, "blue", "Ready again", is_ready, 30)

    def test_a_taken_name_is_refused(self, team: Kubectl, stored: Stored) -> None:
        second = deployment(stored, "second", stored.adapter(stored.base.parent / "red"))
        second["spec"]["traffic"] = {"model": "red"}
        team.apply(second)
        found = adep_when(team, "second", "NameTaken", not_ready("NameTaken"), 30)
        assert "AdapterDeployment red" in message(found)
        team("delete", "adapterdeployments.finetune.dev/second")

    def test_deleting_one_leaves_the_others_and_deleting_all_leaves_nothing(
        self, team: Kubectl, stored: Stored
    ) -> None:
        before = server_pods(team)
        team("delete", "adapterdeployments.finetune.dev/red")
        wait_until("red is gone", lambda: "red" not in models(team, "blue"), 30)
        assert said_by(team, "blue", "blue", "base") == [stored.texts["blue"], stored.texts["base"]]
        assert server_pods(team) == before
        team("delete", "adapterdeployments.finetune.dev/blue")
        wait_until("nothing is left", lambda: not leftovers(team), 60)


def models(kubectl: Kubectl, service: str) -> list[str]:
    """Names at /v1/models."""
    with kubectl.port_forward(f"service/{service}", 80) as port:
        return [model.id for model in OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none").models.list()]


def leftovers(kubectl: Kubectl) -> list[str]:
    """Children of pools that still exist."""
    found = kubectl("get", "deployments,configmaps,services", "-l", "finetune.dev/pool", "-o", "name")
    return found.split()


def answered(kubectl: Kubectl, service: str, model: str, sessions: int = 24) -> dict[tuple[str, str], set[int]]:
    """Sessions by the share that answered them and by what it said."""
    found: dict[tuple[str, str], set[int]] = {}
    with kubectl.port_forward(f"service/{service}", 80) as port:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        for session in range(sessions):
            raw = client.completions.with_raw_response.create(
                model=model,
                prompt=PROMPT,
                max_tokens=TOKENS,
                temperature=0,
                extra_headers={"X-Session-Id": str(session)},
            )
            key = (raw.headers["X-Finetune-Adapter"], raw.parse().choices[0].text)
            found.setdefault(key, set()).add(session)
    return found


def provided(name: str, url: str, provider_model: str, **server: Any) -> Object:
    """An AdapterDeployment of a model that a service with OpenAI's API has."""
    provider = {"openai": {"baseUrl": url, "baseModel": "base"}}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": name},
        "spec": {"adapter": {"providerModel": provider_model}, "server": {"runtime": {"provider": provider}, **server}},
    }


class TestSplitsAndProviders:
    """In this order. The provider is a service with OpenAI's API that the cluster has anyway: a pool's own."""

    def test_a_split_is_sticky_and_changes_without_a_restart(self, team: Kubectl, stored: Stored) -> None:
        example = yaml.safe_load(SPLIT_EXAMPLE.read_text())["spec"]["traffic"]
        red = deployment(stored, "red", stored.adapter(stored.base.parent / "red"))
        red["spec"]["traffic"] = example
        team.apply(red)
        team("wait", "adapterdeployments.finetune.dev/red", "--for=condition=Ready", "--timeout=240s")
        before = server_pods(team)
        found = answered(team, "red", "red")
        assert set(found) == {("Base", stored.texts["base"]), ("Self", stored.texts["red"])}
        assert answered(team, "red", "red") == found, "every session keeps its answerer"
        red["spec"]["traffic"] = {**example, "split": [{"adapter": "Base", "weight": 100}]}
        team.apply(red)
        adep_when(team, "red", "Ready with the new split", is_ready, 30)
        assert set(answered(team, "red", "red")) == {("Base", stored.texts["base"])}
        assert server_pods(team) == before

    def test_what_is_not_loaded_gets_nothing_and_is_named(self, team: Kubectl, stored: Stored) -> None:
        red = deployment(stored, "red", stored.adapter(stored.base.parent / "red"))
        red["spec"]["traffic"] = {"split": [{"adapter": "Self", "weight": 50}, {"adapter": "hosted", "weight": 50}]}
        team.apply(red)
        found = adep_when(team, "red", "SplitIncomplete", not_ready("SplitIncomplete"), 30)
        assert "hosted (AdapterDeployment hosted does not exist)" in message(found)
        assert found["status"]["split"][1]["message"] == "AdapterDeployment hosted does not exist"
        assert set(answered(team, "red", "red")) == {("Self", stored.texts["red"])}

    def test_a_providers_model_answers_from_a_pod_that_holds_the_gateway_alone(
        self, team: Kubectl, stored: Stored
    ) -> None:
        team.apply(provided("hosted", f"http://red.{team.namespace}.svc/v1", "base"))
        hosted = adep_when(team, "hosted", "Ready", is_ready)
        assert said_by(team, "hosted", "hosted", "base") == [stored.texts["base"]] * 2
        pods = team.list("pods", f"finetune.dev/pool={hosted['status']['pool']}")
        assert [[each["name"] for each in pod["spec"]["containers"]] for pod in pods] == [["gateway"]]
        assert "initContainers" not in pods[0]["spec"]
        assert hosted["status"]["adapter"]["providerModel"] == "base"

    def test_a_split_leads_to_it_across_pools_once_it_answers(self, team: Kubectl, stored: Stored) -> None:
        adep_when(team, "red", "Ready", is_ready, 30)
        assert set(answered(team, "red", "red")) == {("Self", stored.texts["red"]), ("hosted", stored.texts["base"])}

    def test_a_provider_that_refuses_is_named_with_its_sentence_until_it_does_not(self, team: Kubectl) -> None:
        url = f"http://red.{team.namespace}.svc/v1"
        team.apply(provided("hosted", url, "no-such-model"))
        found = adep_when(team, "hosted", "ProviderError", not_ready("ProviderError"), 60)
        assert "answered 404" in message(found)
        assert "no-such-model" in message(found)
        team.apply(provided("hosted", url, "red"))
        adep_when(team, "hosted", "Ready again", is_ready, 60)

    def test_a_missing_key_is_named(self, team: Kubectl) -> None:
        team.apply(provided("keyless", f"http://red.{team.namespace}.svc/v1", "red", secretRef={"name": "none"}))
        found = adep_when(team, "keyless", "SecretNotFound", not_ready("SecretNotFound"), 120)
        assert "Secret 'none' has no key OPENAI_API_KEY" in message(found)
        team("delete", "adapterdeployments.finetune.dev/keyless")


class TestJobs:
    def test_a_jobs_adapter_serves_once_its_gate_passed_and_outlives_the_job(
        self, team: Kubectl, stored: Stored, tiny_base: str
    ) -> None:
        team.apply(deployment(stored, "tuned", {"jobRef": {"name": "tiny"}}))
        adep_when(team, "tuned", "waits", not_ready("WaitingForJob"), 30)
        team.apply(data_config_map(jsonl(rows())), tiny_job(tiny_base, backend=SMALL_JOB))
        job = finished(team, "tiny")
        assert is_true(job, "Complete"), job["status"]
        ready = adep_when(team, "tuned", "Ready", is_ready)
        assert ready["status"]["adapter"]["digest"] == job["status"]["artifact"]["digest"]
        team("delete", "finetunejob", "tiny")
        [before] = said_by(team, "tuned", "tuned")
        team("delete", "pod", "-l", "finetune.dev/pool")
        adep_when(team, "tuned", "not Ready without a pod", lambda found: not is_ready(found), 60)
        adep_when(team, "tuned", "Ready from storage alone", is_ready)
        assert said_by(team, "tuned", "tuned") == [before]

    def test_a_failed_gate_is_not_served(self, team: Kubectl, stored: Stored, tiny_base: str) -> None:
        evaluation = {"gate": [{"metric": "Loss", "maxRatioToBase": 0.0001}]}
        team.apply(
            data_config_map(jsonl(rows())), tiny_job(tiny_base, "hopeless", evaluation=evaluation, backend=SMALL_JOB)
        )
        team.apply(deployment(stored, "hopeless", {"jobRef": {"name": "hopeless"}}, pool="other"))
        finished(team, "hopeless")
        found = adep_when(team, "hopeless", "GateFailed", not_ready("GateFailed"), 30)
        assert "Loss" in message(found)
        assert is_true(found, "Stalled")
        assert "pool" not in found["status"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "change", "says"),
        [
            ("merged", {"mode": "Merged"}, "supported is Adapter"),
            ("rollout", {"rollout": {"steps": []}}, "rollout"),
            ("scaled", {"autoscaling": {"max": 2}}, "server.replicas"),
        ],
    )
    def test_what_is_not_there_yet_stalls_with_a_sentence(
        self, team: Kubectl, stored: Stored, name: str, change: dict[str, Any], says: str
    ) -> None:
        body = deployment(stored, name, {"uri": f"{stored.base_uri}-red", "digest": "sha256:" + "0" * 64})
        body["spec"] |= change
        team.apply(body)
        found = adep_when(team, name, "Unsupported", not_ready("Unsupported"), 30)
        assert says in message(found)
        assert is_true(found, "Stalled")

    def test_a_base_that_is_not_there_is_said_by_the_pod(self, team: Kubectl, stored: Stored) -> None:
        body = deployment(stored, "no-base", stored.adapter(stored.base.parent / "red"))
        body["spec"]["server"]["baseModel"]["uri"] = f"{stored.base_uri}-none"
        team.apply(body)
        found = adep_when(team, "no-base", "the reason", lambda found: "ModelNotFound" in message_or(found), 120)
        assert not_ready("PodNotStarting")(found)
        assert f"{stored.base_uri}-none" in message(found)
        team("delete", "adapterdeployments.finetune.dev/no-base")

    def test_a_missing_secret_is_named(self, team: Kubectl, stored: Stored) -> None:
        body = deployment(stored, "no-secret", stored.adapter(stored.base.parent / "red"), secretRef={"name": "none"})
        team.apply(body)
        found = adep_when(team, "no-secret", "the reason", lambda found: "SecretNotFound" in message_or(found), 120)
        assert "'none'" in message(found)
        team("delete", "adapterdeployments.finetune.dev/no-secret")

    def test_an_image_that_cannot_be_pulled_is_named(self, team: Kubectl, stored: Stored) -> None:
        runtime = {"transformers": {**SMALL["transformers"], "image": "localhost:1/none:1"}}
        team.apply(deployment(stored, "no-image", stored.adapter(stored.base.parent / "red"), runtime=runtime))
        found = adep_when(team, "no-image", "the reason", lambda found: "localhost:1/none:1" in message_or(found), 120)
        assert not_ready("PodNotStarting")(found)
        team("delete", "adapterdeployments.finetune.dev/no-image")

    def test_a_service_account_must_be_open_to_it(self, team: Kubectl, stored: Stored) -> None:
        team.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "admin"}})
        body = deployment(stored, "as-admin", stored.adapter(stored.base.parent / "red"), serviceAccountName="admin")
        team.apply(body)
        found = adep_when(team, "as-admin", "NotAllowed", not_ready("NotAllowed"), 30)
        assert "finetune.dev/allow" in message(found)
        with pytest.raises(CommandFailed):
            team("get", "deployment", found["status"]["pool"])


def message_or(found: Object) -> str:
    """The sentence beside Ready, or nothing yet."""
    return str((condition(found, "Ready") or {}).get("message", ""))
