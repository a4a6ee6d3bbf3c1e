"""The demo's Helm release and its two namespaces: made once, changed when chart or values changed, never somebody else's.

Called by ``python -m demo``. On a shared cluster the same names may be in use: what the demo did not make it leaves alone.
"""

import hashlib
import json
import subprocess
from pathlib import Path

from demo.kubectl import CommandFailed, Kubectl, Object, find_tool

CHART = Path(__file__).parents[1] / "charts" / "finetune-operator"
RELEASE = "finetune-operator"
SYSTEM = "finetune-system"
NAMESPACE = "finetune-demo"
OURS = {"app.kubernetes.io/part-of": "finetune-demo"}
"""Label of what the demo makes."""
MARK = "state "
"""Begins the description of each revision the demo installs."""
UPGRADE = ("upgrade", "--install")


def is_ours(metadata: Object) -> bool:
    """Whether the demo made this object."""
    return (metadata.get("labels") or {}).items() >= OURS.items()


def install(kubectl: Kubectl, values: Object) -> None:
    """Namespaces and Helm release; a second run changes nothing. Raises CommandFailed at what is somebody else's."""
    description = describe(values)
    namespaces = {name: kubectl.find("namespace", name) for name in (SYSTEM, NAMESPACE)}
    refuse_foreign(namespaces[NAMESPACE])
    system = namespaces[SYSTEM]
    commands = steps(history(kubectl), description, system is not None and is_ours(system["metadata"]))
    make_namespaces(kubectl, [name for name, found in namespaces.items() if found is None])
    if not commands and kubectl.within(NAMESPACE).find("secret", "s3") is None:  # it went with the namespace
        commands = [UPGRADE]
    for command in commands:
        run(kubectl, command, description, values)


def refuse_foreign(namespace: Object | None) -> None:
    """Raise CommandFailed where the namespace for the demo's jobs is there, and somebody else made it."""
    if namespace is not None and not is_ours(namespace["metadata"]):
        label = "=".join(*OURS.items())
        raise CommandFailed(
            f"namespace {NAMESPACE} is there and was not made by the demo, which installs and deletes things in it; nothing was "
            f"changed: delete it, or let the demo have it with `kubectl label namespace {NAMESPACE} {label}`"
        )


def describe(values: Object) -> str:
    """The revision's description: what chart and values are."""
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    state = json.dumps(values, sort_keys=True).encode() + b"".join(path.read_bytes() for path in files)
    return f"{MARK}{hashlib.sha256(state).hexdigest()[:16]}"


def history(kubectl: Kubectl) -> list[Object]:
    """The release's revisions as Helm tells them, the newest last. Raises CommandFailed when it cannot."""
    done = subprocess.run(
        [find_tool("helm"), "history", RELEASE, "-n", SYSTEM, "-o", "json"],
        env=kubectl.env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "release: not found" in done.stderr:
        return []
    if done.returncode != 0:
        raise CommandFailed(done.stderr.strip())
    found: list[Object] = json.loads(done.stdout)
    return found


def steps(revisions: list[Object], description: str, made_system: bool) -> list[tuple[str, ...]]:
    """Helm's commands that lead to this description. Raises CommandFailed for a release the demo did not make.

    ``made_system``: whether the release's namespace is the demo's, which tells whose an installation is that never came to its end.
    """
    last = revisions[-1] if revisions else {"status": "uninstalled"}
    if last["status"] == "uninstalled":
        return [UPGRADE]
    done = [each for each in revisions if each["status"] in ("deployed", "superseded")]
    own = [each for each in done if not each["description"].startswith("Rollback to ")]  # said by Helm alone
    if not (own[-1]["description"].startswith(MARK) if own else made_system):
        raise CommandFailed(
            f"namespace {SYSTEM} has a Helm release {RELEASE} that the demo did not make (revision {last['revision']}: "
            f"{last['description']}), and nothing was changed, as the demo would replace its values: take another cluster, or "
            f"remove it first with `helm uninstall {RELEASE} -n {SYSTEM}`"
        )
    if last["status"] == "deployed" and last["description"] == description:
        return []
    # An earlier run was killed inside Helm, which then refuses an upgrade.
    if last["status"] == "uninstalling" or (last["status"].startswith("pending") and not done):
        return [("uninstall", "--wait"), UPGRADE]  # there is no revision to go back to; the definitions stay
    if last["status"].startswith("pending"):
        return [("rollback", str(done[-1]["revision"])), UPGRADE]
    return [UPGRADE]


def make_namespaces(kubectl: Kubectl, names: list[str]) -> None:
    """Namespaces that enforce the restricted Pod Security Standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", **OURS}
    for name in names:
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


def run(kubectl: Kubectl, step: tuple[str, ...], description: str, values: Object) -> None:
    """One command of Helm. Raises CalledProcessError; Helm has said why."""
    verb, *options = step
    command = [find_tool("helm"), verb, RELEASE, *options, "-n", SYSTEM, "--timeout", "5m"]
    if step == UPGRADE:
        command = [find_tool("helm"), *UPGRADE, RELEASE, str(CHART), "-n", SYSTEM, "--wait", "--timeout", "5m"]
        command += ["--description", description, "-f", "-"]
    subprocess.run(command, env=kubectl.env, input=json.dumps(values), text=True, check=True, stdout=subprocess.DEVNULL)
