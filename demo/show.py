"""What the demo prints: live stages with progress bars, the comparison, what to try next."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.kubectl import Kubectl, Object, condition, find_tool, is_true
from demo.release import NAMESPACE, RELEASE, SYSTEM
from localcluster.layout import KUBECONFIG

console = Console(highlight=False)
PAUSE_SECONDS = 3
"""Between looks: one takes an eighth of a second of a processor, on which the jobs train."""
STAGES = ("Accepted", "DataValidated", "Planned", "Running", "ArtifactStored", "Evaluated", "GatePassed", "Complete")


def step(text: str) -> None:
    """Say what happens now."""
    console.print(f"[bold cyan]==>[/] {text}")


def stages(job: Object | None) -> Text:
    """One mark per stage: done, failed, not yet."""
    text = Text()
    for name in STAGES:
        seen = condition(job, name)
        failed = seen is not None and seen["status"] == "False" and is_true(job, "Finished")
        done = is_true(job, name) or (name == "Running" and is_true(job, "ArtifactStored"))  # it ran, and has ended
        mark, style = ("✔", "green") if done else ("✘", "red") if failed else ("·", "dim")
        text.append(f"{mark} {name}  ", style)
    return text


def panel(jobs: dict[str, Object | None]) -> Group:
    """The state of all jobs."""
    table = Table("JOB", "STATE", "PROGRESS", "LOSS", "ETA", "MESSAGE", box=None, padding=(0, 2, 0, 0))
    for name, job in jobs.items():
        status = (job or {}).get("status") or {}
        percent = (status.get("trainerStatus") or {}).get("progressPercentage") or (
            100 if is_true(job, "Complete") else 0
        )
        bar = ProgressBar(total=100, completed=percent, width=24)
        table.add_row(
            name,
            status.get("state", "-"),
            bar,
            status.get("loss", "-"),
            status.get("eta", "-"),
            status.get("message", "")[:70],
        )
    return Group(table, *(Text.assemble(f"{name}: ", stages(job)) for name, job in jobs.items()))


def watch(
    jobs: Callable[[], dict[str, Object | None]], finished: Callable[[Object | None], bool], seconds: float
) -> None:
    """Show the jobs until all are finished. On a terminal live, elsewhere one line per change. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    shown: dict[str, str] = {}
    with Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal, transient=False) as live:
        while True:
            seen = jobs()
            if console.is_terminal:
                live.update(panel(seen))
            else:
                _print_changes(seen, shown)
            if all(finished(job) for job in seen.values()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(seen)}: not finished within {seconds:g} s")
            time.sleep(PAUSE_SECONDS)


def _print_changes(jobs: dict[str, Object | None], shown: dict[str, str]) -> None:
    for name, job in jobs.items():
        status = (job or {}).get("status") or {}
        progress = (status.get("trainerStatus") or {}).get("progressPercentage") or 0
        line = f"{status.get('state', '-')} {progress // 10 * 10}%"
        if shown.get(name) != line:
            shown[name] = line
            console.print(f"    {name}: {line}  loss {status.get('loss', '-')}  {status.get('message', '')}")


def comparison(job: Object, asked: int, base: float, tuned: float) -> Table:
    """Base against tuned: the trainer's figures on the whole test split, ours through the Service."""
    evaluation = job["status"]["evaluation"]
    table = Table("", "rows", "base", "tuned", title="\nBase against tuned, on rows neither model was trained on")
    for metric, value in evaluation["tuned"].items():
        table.add_row(
            f"{metric} (evaluation)", str(evaluation["rows"]), f"{evaluation['base'][metric]:.3f}", f"{value:.3f}"
        )
    table.add_row("right answers through the Service", str(asked), f"{base:.3f}", f"{tuned:.3f}")
    return table


def gate(job: Object) -> None:
    """Each rule's verdict."""
    for rule in job["status"]["evaluation"].get("gate", []):
        mark = "[green]✔[/]" if rule["passed"] else "[red]✘[/]"
        console.print(f"  {mark} gate {rule['metric']}: {rule['message']}")


def next_steps(kubectl: Kubectl, kubeconfig: str | None, model: str) -> None:
    """What to try now."""
    tools = Path(find_tool("kubectl")).parent
    export = f"export KUBECONFIG={kubeconfig} PATH={tools}:$PATH\n" if kubeconfig else ""
    console.print(
        f"""
[bold]The cluster stays up. To try next:[/]
{export}kubectl -n {kubectl.namespace} get finetunejobs,adapterdeployments
kubectl -n {kubectl.namespace} describe finetunejob {model}
kubectl -n {kubectl.namespace} port-forward service/{model} 8080:80 &
curl -s localhost:8080/v1/models
curl -s localhost:8080/v1/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "prompt": "Open a connection to the server and send the request.\\nArea:", "max_tokens": 3}}'
{when_done(kubeconfig)}
""",
        soft_wrap=True,  # lines to copy stay lines
    )


def when_done(kubeconfig: str | None) -> str:
    """How to be rid of it: the local cluster goes as a whole, of another one only what the demo made."""
    if kubeconfig == str(KUBECONFIG):
        return "make demo-down      # when you are done"
    delete = f"kubectl delete namespace {NAMESPACE}      # when you are done"
    return f"{delete}\nhelm uninstall {RELEASE} -n {SYSTEM}"
