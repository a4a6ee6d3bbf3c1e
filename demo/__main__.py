"""``python -m demo``: install the chart, make the data, run the example jobs, serve, ask, compare.

Every step looks at what is there first, so that it can be killed and run again. Exit code 0 only if the tuned adapter
passed its gate and answered better than its base.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import boto3
import yaml

from demo import release, show
from demo.kubectl import CommandFailed, Kubectl, Object, condition, is_true, wait_until
from demo.release import NAMESPACE, OURS, RELEASE, SYSTEM, is_ours

ROOT = Path(__file__).parents[1]
EXAMPLES = ("01-pretrain-a-base", "02-tune-and-gate", "03-serve")
JOBS = ("stdlib-base", "stdlib-areas")
MODEL = "stdlib-areas"
DATA_PREFIX = "demo-data-"
QUESTIONS = 100


IMAGES = ("operator", "trainer", "seaweedfs")
PINNED = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def read_images(path: str) -> dict[str, str]:
    """The references in the file that IMAGES names. Raises CommandFailed where they are not such as the demo can install."""
    wanted = 'a JSON file {"operator": "repository@sha256:…", "trainer": "…", "seaweedfs": "…"}'
    if not path:
        raise CommandFailed(f"which images? Set IMAGES to the path of {wanted}; README.md says where they come from")
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise CommandFailed(f"IMAGES={path} must be {wanted}, and cannot be read: {error}") from error
    for name in IMAGES:
        image = found.get(name) if isinstance(found, dict) else None
        if not isinstance(image, str) or not PINNED.fullmatch(image):
            raise CommandFailed(f"{name} in {path} must be pinned, repository@sha256:…, and is {json.dumps(image)}")
    return {name: found[name] for name in IMAGES}


def helm_values(images: dict[str, str]) -> Object:
    """The chart's values for the demo: pinned images, quick-start object store."""
    named = {name: dict(zip(("repository", "digest"), ref.split("@"), strict=True)) for name, ref in images.items()}
    return {
        "image": named["operator"],
        "trainer": {"image": named["trainer"]},
        "quickstart": {
            "enabled": True,
            "image": named["seaweedfs"],
            "namespaces": [NAMESPACE],
            "buckets": ["data", "models"],
        },
    }


def data_job(image: str) -> list[Object]:
    """A ConfigMap with the script and a Job that runs it beside the object store."""
    script = (ROOT / "demo" / "docstrings.py").read_text()
    name = f"{DATA_PREFIX}{hashlib.sha256((script + image).encode()).hexdigest()[:8]}"
    manifest = (ROOT / "demo" / "data-job.yaml").read_text()
    job = yaml.safe_load(manifest.replace("NAME", name).replace("IMAGE", image))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"docstrings.py": script}}
    return [labelled(config), labelled(job)]


def make_data(kubectl: Kubectl, image: str) -> None:
    """Run the data Job, unless it is done. Raises CommandFailed with its log when it fails."""
    config, job = data_job(image)
    name = job["metadata"]["name"]
    if not is_true(kubectl.find("job", name), "Complete"):
        kubectl.apply(config, job)

    def ended() -> Object | None:
        found = kubectl.find("job", name)
        return found if is_true(found, "Complete") or is_true(found, "Failed") else None

    if is_true(wait_until("the demo's data", ended, 300), "Failed"):
        raise CommandFailed(f"the data job failed:\n{kubectl('logs', f'job/{name}')}")
    show.console.print(kubectl("logs", f"job/{name}").rstrip(), style="dim")


def forget_what_is_lost(kubectl: Kubectl) -> None:
    """Delete the demo's jobs whose data and artifacts went with an earlier pod of the quick-start store."""
    stores = kubectl.within(SYSTEM).list("pods", "app.kubernetes.io/component=quickstart-s3")
    for kind in ("job", "finetunejob"):
        for name in lost(kubectl.list(kind), stores):
            kubectl("delete", kind, name, "--cascade=foreground")


def lost(found: list[Object], stores: list[Object]) -> list[str]:
    """Names of the demo's own objects made before the newest store; those with an owner go with it."""
    since = max((store["metadata"]["creationTimestamp"] for store in stores), default=None)
    if since is None:
        return []
    metadata = [item["metadata"] for item in found]
    ours = [m for m in metadata if is_ours(m) and (m["name"] in JOBS or m["name"].startswith(DATA_PREFIX))]
    return [m["name"] for m in ours if "ownerReferences" not in m and m["creationTimestamp"] < since]


def labelled(found: Object) -> Object:
    """The object with the label that says it is the demo's."""
    metadata = found["metadata"]
    return {**found, "metadata": {**metadata, "labels": {**metadata.get("labels", {}), **OURS}}}


def run_jobs(kubectl: Kubectl) -> dict[str, Object]:
    """Apply the examples and show them until they end."""
    for example in EXAMPLES:
        for path in sorted((ROOT / "examples" / example).glob("*.yaml")):
            kubectl.apply(*(labelled(found) for found in yaml.safe_load_all(path.read_text())))
    show.watch(
        lambda: {name: kubectl.find("finetunejob", name) for name in JOBS},
        lambda job: is_true(job, "Finished"),
        45 * 60,
    )
    return {name: kubectl.get("finetunejob", name) for name in JOBS}


def wait_ready(kubectl: Kubectl) -> None:
    """Until the AdapterDeployment answers; the last message when it does not."""

    def ready() -> bool:
        return is_true(kubectl.find("adapterdeployment", MODEL), "Ready")

    try:
        wait_until(f"AdapterDeployment {MODEL} Ready", ready, 300)
    except TimeoutError as late:
        seen = condition(kubectl.get("adapterdeployment", MODEL), "Ready")
        raise CommandFailed(f"{late}; it says: {seen and seen['message']}") from late


def held_out_questions(kubectl: Kubectl) -> list[dict[str, str]]:
    """Rows of the test file, read from the object store as any user would."""
    secret = {key: _decoded(value) for key, value in kubectl.get("secret", "s3")["data"].items()}
    with kubectl.within(SYSTEM).port_forward(f"service/{RELEASE}-s3", 8333) as port:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=secret["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret["AWS_SECRET_ACCESS_KEY"],
            region_name=secret["AWS_REGION"],
        )
        body = client.get_object(Bucket="data", Key="stdlib/test.jsonl")["Body"].read()
    return [json.loads(line) for line in body.splitlines()[:QUESTIONS]]


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()


def ask(port: int, model: str, prompt: str) -> str:
    """One greedy completion through the Service."""
    body = {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: str = json.load(response)["choices"][0]["text"]
    return answer.strip()


def compare(kubectl: Kubectl) -> tuple[int, float, float]:
    """Share of right answers of base and tuned, asked through the Service."""
    rows = held_out_questions(kubectl)
    with kubectl.port_forward(f"service/{MODEL}", 80) as port:
        right = {
            model: sum(ask(port, model, row["prompt"]) == row["completion"].strip() for row in rows)
            for model in ("base", MODEL)
        }
    return len(rows), right["base"] / len(rows), right[MODEL] / len(rows)


def run(kubectl: Kubectl, images: dict[str, str]) -> bool:
    """The demo's jobs; whether the tuned adapter passed its gate and answered better than its base."""
    demo = kubectl.within(NAMESPACE)
    forget_what_is_lost(demo)
    show.step("making data from the documentation of Python's own standard library")
    make_data(demo, images["trainer"])
    show.step("applying examples/01-pretrain-a-base, 02-tune-and-gate and 03-serve")
    jobs = run_jobs(demo)
    failed = {name: job["status"]["message"] for name, job in jobs.items() if not is_true(job, "Complete")}
    if failed:
        show.console.print(*(f"[red]{name}: {message}[/]" for name, message in failed.items()), sep="\n")
        return False
    show.step(f"waiting for AdapterDeployment {MODEL}, then asking base and adapter the same held-out questions")
    wait_ready(demo)
    asked, base, tuned = compare(demo)
    show.console.print(show.comparison(jobs[MODEL], asked, base, tuned))
    show.gate(jobs[MODEL])
    show.next_steps(demo, kubectl.env.get("KUBECONFIG"), MODEL)
    return tuned > base and is_true(jobs[MODEL], "GatePassed")


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--images", required=True, help="file with JSON: operator, trainer, seaweedfs -> repository@digest"
    )
    parser.add_argument("--install-only", action="store_true", help="install the chart and stop")
    args = parser.parse_args()
    try:
        images, kubectl = read_images(args.images), Kubectl(os.environ.get("KUBECONFIG"))
        show.step("installing the operator and the quick-start object store with Helm")
        release.install(kubectl, helm_values(images))
        return 0 if args.install_only or run(kubectl, images) else 1
    except (CommandFailed, TimeoutError, subprocess.CalledProcessError) as error:
        show.console.print(f"[red]demo: {error}[/]\nRun the same again when it is mended: it goes on where it stopped.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
