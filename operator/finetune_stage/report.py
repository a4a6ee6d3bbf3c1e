"""POST progress to the operator's report server, from a thread of its own: latest wins, and no step ever waits for it.

The body is the Kubeflow trainerStatus contract with checkpoints beside it (:class:`finetune_api.pods.Report`). Losing reports
loses nothing but freshness: a failed one is counted, and said once and again when it works.
"""

import json
import ssl
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from finetune_api.pods import REPORT_CA_ENV, REPORT_TOKEN_ENV, REPORT_URL_ENV, Report
from finetune_api.v1alpha1.finetunejob_status import TrainerMetric

PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Destination:
    """Where reports go."""

    url: str
    token_file: Path | None
    ca_file: Path | None


def destination(environment: Mapping[str, str]) -> Destination | None:
    """As the environment says; without a URL nothing is reported."""
    url, token, ca = (environment.get(name) for name in (REPORT_URL_ENV, REPORT_TOKEN_ENV, REPORT_CA_ENV))
    return Destination(url, Path(token) if token else None, Path(ca) if ca else None) if url else None


def metrics_of(figures: Mapping[str, float]) -> list[TrainerMetric]:
    """As a report has them: counts by all their digits, others by six."""
    digits = {name: 15 if isinstance(value, int) else 6 for name, value in figures.items()}
    return [TrainerMetric(name=name, value=f"{value:.{digits[name]}g}") for name, value in figures.items()]


class Reporter:
    """Sends the newest report there is; used as a context manager, at whose end the last one is sent."""

    def __init__(self, to: Destination | None) -> None:
        self._to = to
        self._newest: Report | None = None
        self._closing = threading.Event()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self.failures = 0

    def __enter__(self) -> "Reporter":
        if self._to is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with self._wake:
            self._wake.notify()
        if self._to is not None:
            self._thread.join(2 * TIMEOUT_SECONDS)

    def send(self, report: Report) -> None:
        """Hand over a report; one not yet sent is replaced."""
        with self._wake:
            self._newest = report
            self._wake.notify()

    def _run(self) -> None:
        while (report := self._next()) is not None:
            try:
                self._post(report)
            # URLError, timeouts and an unreadable token are OSErrors; what is no HTTP is none.
            except (OSError, ValueError, HTTPException) as error:
                self.failures += 1
                if self.failures == 1:
                    print(f"progress report failed ({error}); training goes on", flush=True)
            else:
                if self.failures:
                    print(f"progress reports work again after {self.failures} failures", flush=True)
                self.failures = 0
            self._closing.wait(PAUSE_SECONDS)

    def _next(self) -> Report | None:
        """The newest report not yet sent; None at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._newest is not None or self._closing.is_set())
            report, self._newest = self._newest, None
            return report

    def _post(self, report: Report) -> None:
        assert self._to is not None
        headers = {"Content-Type": "application/json"}
        if self._to.token_file is not None:  # read each time: the kubelet renews it
            headers["Authorization"] = f"Bearer {self._to.token_file.read_text().strip()}"
        request = urllib.request.Request(
            self._to.url, data=json.dumps(report.wire()).encode(), headers=headers, method="POST"
        )
        context = ssl.create_default_context(cafile=self._to.ca_file) if self._to.ca_file else None
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context):
            pass
