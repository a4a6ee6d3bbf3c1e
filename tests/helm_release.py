"""A Helm release for tests: installed, upgraded, asked what it may do."""

import json
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from demo.kubectl import GROUP, CommandFailed, Kubectl, Object, find_tool, is_true, wait_until
from demo.release import CHART


@dataclass(frozen=True)
class Release:
    """A release of the copied chart in a namespace of its own; its name makes everything it creates unique."""

    kubectl: Kubectl
    chart: Path
    name: str

    @property
    def group(self) -> str:
        """API group of the copy."""
        return f"{self.name}.{GROUP}"

    @property
    def crds(self) -> list[str]:
        """Names of its definitions."""
        return [f"crd/{kind}s.{self.group}" for kind in ("adapterdeployment", "finetunejob")]

    def helm(self, *args: str, values: Object | None = None) -> str:
        """Run helm in the release's namespace. Raises CommandFailed with its complaint."""
        command = [find_tool("helm"), "-n", self.kubectl.namespace, *args]
        text = json.dumps(values) if values is not None else None
        done = subprocess.run(command, input=text, env=self.kubectl.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandFailed(done.stderr.strip())
        return done.stdout

    def apply(self, values: Object | None = None) -> str:
        """Install, or upgrade to these values; the notes."""
        least = ["-f", str(self.chart / "ci" / "default-values.yaml"), "-f", "-"]
        return self.helm("upgrade", "--install", self.name, str(self.chart), *least, values=values or {})

    def exists(self, name: str) -> bool:
        """Whether an object of the release's namespace, or of the cluster, is there."""
        return self.kubectl("get", name, "--ignore-not-found", "-o", "name") != ""

    def may(self, verb: str, resource: str, namespace: str, user: str | None = None) -> bool:
        """Whether the operator's account, or another user, may do this."""
        account = user or f"system:serviceaccount:{self.kubectl.namespace}:{self.name}-finetune-operator"
        kubectl = self.kubectl.within(namespace)
        kind, _, subresource = resource.replace("GROUP", self.group).partition("/")
        done = subprocess.run(
            kubectl.command("auth", "can-i", verb, kind, f"--subresource={subresource}", "--as", account),
            env=kubectl.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() in {"yes", "no"}, done.stderr
        return done.stdout.strip() == "yes"

    def edit(self, path: str, old: str, new: str) -> None:
        """Change the chart, as its next version would."""
        file = self.chart / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def copied_chart(kubectl: Kubectl, folder: Path) -> Release:
    """A release of a copy of the chart with an API group and role names of its own."""
    found = Release(kubectl, shutil.copytree(CHART, folder / "finetune-operator"), new_release())
    for path in found.chart.rglob("*.yaml"):
        text = path.read_text().replace(GROUP, found.group)
        path.write_text(
            text.replace("finetune-view", f"{found.name}-view").replace("finetune-edit", f"{found.name}-edit")
        )
    return found


def new_release() -> str:
    """A name nobody else has; it begins the names of everything the release creates."""
    return f"t-{uuid.uuid4().hex[:8]}"


def await_served(kubectl: Kubectl, crds: list[str]) -> None:
    """Until the API server serves these definitions, each ``crd/name``; ``kubectl wait`` fails at one that has no conditions yet."""
    for name in crds:
        wait_until(f"{name} Established", lambda name=name: is_true(kubectl.find(*name.split("/")), "Established"), 30)
