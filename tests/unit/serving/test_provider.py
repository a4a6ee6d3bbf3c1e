"""AdapterDeployments of a provider's models: their pools, their pods, and when they are Ready."""

from hashlib import sha256
from typing import Any

import pytest

from serving_builders import World, a_delegated_job, a_job, a_pod, an_adep, condition, digest, of_provider, said

VERTEX = {"provider": {"vertex": {"project": "acme", "location": "us-central1"}}}


def digest_of(provider_model: str) -> str:
    return f"sha256:{sha256(provider_model.encode()).hexdigest()}"


def pod_of(world: World, name: str) -> dict[str, Any]:
    """The pool's pods."""
    deployment = world.cache.get("Deployment", "team", world.pool_of(name))
    assert deployment is not None
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


class TestPool:
    def test_gateways_are_told_whom_to_ask_for_what(self) -> None:
        world = World().add(of_provider(server={"secretRef": {"name": "key"}}))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("support")]
        assert desired.wire() == {
            "namespace": "team",
            "pool": world.pool_of("support"),
            "provider": {"openai": {"baseUrl": "https://models.example/v1", "baseModel": "gpt"}},
            "secretRef": {"name": "key"},
            "adapters": [
                {
                    "deployment": "support",
                    "model": "support",
                    "digest": digest_of("ft:tuned"),
                    "providerModel": "ft:tuned",
                    "secretRef": {"name": "key"},
                }
            ],
        }
        config = world.cache.get("ConfigMap", "team", world.pool_of("support"))
        assert config is not None
        assert '"providerModel":"ft:tuned"' in config["data"]["pool.json"].replace(" ", "")

    @pytest.mark.parametrize(
        "server",
        [
            pytest.param({"runtime": VERTEX}, id="another provider"),
            pytest.param({"runtime": {"provider": {"openai": {}}}}, id="another address"),
            pytest.param({"secretRef": {"name": "other"}}, id="another key"),
            pytest.param({"pool": "other"}, id="another pool"),
        ],
    )
    def test_other_settings_are_another_pool(self, server: dict[str, Any]) -> None:
        world = World().add(of_provider("one"), of_provider("two", server=server))
        world.settle()
        assert world.pool_of("one") != world.pool_of("two")

    def test_models_of_one_provider_share_the_pods_and_another_one_changes_none(self) -> None:
        world = World().add(of_provider("one"))
        world.settle()
        before = world.cache.get("Deployment", "team", world.pool_of("one"))
        world.add(of_provider("two", "ft:other"))
        world.settle()
        after = world.cache.get("Deployment", "team", world.pool_of("one"))
        assert before is not None
        assert after is not None
        assert before["spec"] == after["spec"]
        assert world.pools() == [world.pool_of("two")]

    def test_a_pools_name_does_not_depend_on_what_was_added_since(self) -> None:
        """Another name would restart every server at an upgrade of the operator."""
        world = World().add(an_adep("one"))
        world.settle()
        assert world.pool_of("one") == "pool-default-e59c34b7ea"


class TestPods:
    def test_they_hold_the_gateway_alone_restricted_and_see_the_secret_as_files(self) -> None:
        world = World().add(of_provider(server={"secretRef": {"name": "key"}}))
        world.settle()
        pod = pod_of(world, "support")
        assert "initContainers" not in pod
        [gateway] = pod["containers"]
        assert (gateway["image"], gateway["args"]) == ("operator:1", ["finetune_gateway", "serve"])
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        assert gateway["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"]: mount.get("readOnly", False) for mount in gateway["volumeMounts"]} == {
            "/etc/finetune": True,
            "/tmp": False,
            "/var/run/finetune/secrets/key": True,
            "/var/run/finetune/token": True,
        }
        assert {volume["name"] for volume in pod["volumes"]} == {"config", "tmp", "secret-0", "token"}
        assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"

    def test_the_tenants_identity_and_where_they_run(self) -> None:
        open_to_it = {"metadata": {"annotations": {"finetune.dev/allow": "true"}}}
        runtime = {"provider": {**VERTEX["provider"], "pod": {"nodeSelector": {"egress": "yes"}}}}
        world = World(uncached={"ServiceAccount/tuner": open_to_it})
        world.add(of_provider(server={"runtime": runtime, "serviceAccountName": "tuner"})).settle()
        pod = pod_of(world, "support")
        assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("tuner", {"egress": "yes"})


class TestReady:
    @pytest.fixture
    def world(self) -> World:
        made = World().add(of_provider())
        made.settle()
        made.add(a_pod("one", made.pool_of("support")))
        return made

    def test_every_ready_pod_got_a_token(self, world: World) -> None:
        digest = digest_of("ft:tuned")
        world.report(world.pool_of("support"), "one", said(desired_digest=digest, digest=digest))
        world.settle()
        assert world.ready()[:2] == ("True", "Serving")
        status = world.adep("support")["status"]
        assert status["adapter"] == {
            "digest": digest,
            "providerModel": "ft:tuned",
            "provider": {"openai": {"baseUrl": "https://models.example/v1", "baseModel": "gpt"}},
        }
        assert status["url"] == "http://support.team.svc/v1"

    @pytest.mark.parametrize("reason", ["ProviderError", "AccessDenied", "SecretNotFound"])
    def test_a_probe_that_fails_is_the_reason_with_its_sentence(self, world: World, reason: str) -> None:
        message = "The provider at models.example answered 429: slow down"
        digest = digest_of("ft:tuned")
        word = said(desired_digest=digest, digest=None, state="Failed", reason=reason, message=message)
        world.report(world.pool_of("support"), "one", word)
        world.settle()
        assert world.ready() == ("False", reason, f"Pod one: {message}.")
        assert not world.is_stalled(), "it is tried again"
        assert world.adep("support")["status"]["readyReplicas"] == 0


TUNER = {"ServiceAccount/tuner": {"metadata": {"annotations": {"finetune.dev/allow": "true"}}}}


class TestDelegatedJobs:
    def test_vertexs_endpoint_is_served_where_it_is_with_the_jobs_identity(self) -> None:
        world = World(uncached=TUNER).add(a_delegated_job("tuned", "d"), an_adep("one", job="tuned"))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("one")]
        assert desired.provider is not None
        assert desired.provider.wire() == {
            "vertex": {"project": "acme", "location": "us-central1", "baseModel": "gemini"}
        }
        assert [each.wire() for each in desired.adapters] == [
            {
                "deployment": "one",
                "model": "one",
                "digest": digest("d"),
                "providerModel": "projects/acme/locations/us-central1/endpoints/9",
            }
        ]
        assert pod_of(world, "one")["serviceAccountName"] == "tuner"
        assert world.adep("one")["status"]["adapter"]["uri"] == "s3://models/tuned/endpoint"

    def test_openais_model_is_asked_as_a_chat_with_the_jobs_key(self) -> None:
        world = World().add(a_delegated_job(kind="OpenAI"), an_adep("one", job="tuned", traffic={"model": "bot"}))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("one")]
        assert desired.provider is not None
        assert desired.provider.wire() == {
            "openai": {"baseUrl": "https://models.example/v1", "baseModel": "gpt", "completions": "Chat"}
        }
        assert desired.secret_ref is not None
        assert desired.secret_ref.name == "key"
        assert desired.adapters[0].provider_model == "ft:gpt:1"

    def test_what_the_api_server_fills_in_for_the_runtime_counts_as_left_out(self) -> None:
        server = {"replicas": 2, "runtime": {"transformers": {}}}
        world = World().add(a_delegated_job(kind="OpenAI"), an_adep("one", job="tuned", server=server))
        world.settle()
        assert world.reports.desired["team", world.pool_of("one")].provider is not None

    def test_a_runtime_secret_or_account_of_ones_own_wins(self) -> None:
        mine: dict[str, Any] = {
            "runtime": {"provider": {"openai": {"completions": "Forward"}}},
            "secretRef": {"name": "mine"},
        }
        world = World().add(a_delegated_job(kind="OpenAI"), an_adep("one", job="tuned", server=mine))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("one")]
        assert desired.provider is not None
        assert desired.provider.wire() == {"openai": {"completions": "Forward"}}
        assert desired.secret_ref is not None
        assert desired.secret_ref.name == "mine"

    def test_it_outlives_its_job(self) -> None:
        world = World(uncached=TUNER).add(a_delegated_job(), an_adep("one", job="tuned"))
        world.settle()
        pool = world.pool_of("one")
        before = world.reports.desired["team", pool]
        world.remove("FineTuneJob", "tuned")
        world.settle()
        assert (world.pool_of("one"), world.reports.desired["team", pool]) == (pool, before)

    def test_settings_of_a_server_that_does_not_run_it_are_refused(self) -> None:
        server = {"runtime": {"transformers": {"maxLoraRank": 8}}}
        world = World().add(a_delegated_job(), an_adep("one", job="tuned", server=server))
        world.settle()
        assert world.ready("one")[1] == "Unsupported"
        assert "leave server.runtime.transformers out" in world.ready("one")[2]
        assert world.pools() == []

    def test_one_whose_gate_did_not_pass_is_not_served(self) -> None:
        failed = a_delegated_job()
        failed["status"]["conditions"] = [condition("GatePassed", "False", "GateFailed", "Accuracy 0.1")]
        world = World().add(failed, an_adep("one", job="tuned"))
        world.settle()
        assert world.ready("one")[1] == "GateFailed"


class TestRefused:
    def test_an_empty_provider_of_an_older_crd(self) -> None:
        world = World().add(of_provider(server={"runtime": {"provider": {}}}))
        world.settle()
        assert world.ready()[1:] == ("Unsupported", "runtime provider needs openai or vertex.")

    def test_a_job_that_made_an_adapter_of_its_own(self) -> None:

        world = World().add(a_job("tuned"), an_adep("one", job="tuned", server={"runtime": VERTEX}))
        world.settle()
        assert world.ready("one")[1] == "Unsupported"
        assert "leave server.runtime.provider out" in world.ready("one")[2]
        assert world.pools() == []


class TestSplit:
    def test_between_an_own_adapter_and_a_providers_model(self) -> None:
        shares = [{"adapter": "Self", "weight": 50}, {"adapter": "far", "weight": 50}]
        world = World().add(an_adep("near", traffic={"split": shares}), of_provider("far"))
        world.settle()
        digest = digest_of("ft:tuned")
        world.add(a_pod("there", world.pool_of("far")))
        world.report(world.pool_of("far"), "there", said("far", desired_digest=digest, digest=digest))
        world.settle()
        desired = world.reports.desired["team", world.pool_of("near")]
        assert [share.wire() for share in desired.adapters[0].split or []] == [
            {"adapter": "Self", "weight": 50},
            {"adapter": "far", "weight": 50, "url": "http://far.team.svc/v1", "model": "far"},
        ]
