"""What Prometheus is told, on the probe port."""

from prometheus_client import Counter, Gauge, Histogram

reconciles = Counter("finetune_reconciles", "Reconciles by kind of key and outcome.", ["kind", "outcome"])
reconcile_seconds = Histogram("finetune_reconcile_seconds", "Duration of a reconcile, API calls included.", ["kind"])
queue_depth = Gauge("finetune_queue_depth", "Keys that are due and wait for a worker.")
api_calls = Counter("finetune_api_calls", "Calls to the API server; code 0: no answer.", ["verb", "resource", "code"])
last_event = Gauge("finetune_last_event_timestamp_seconds", "When the last watch event came.", ["kind"])
last_resync = Gauge(
    "finetune_last_resync_timestamp_seconds", "When the last comparison with the API server ended well."
)
jobs = Gauge("finetune_jobs", "FineTuneJobs by state.", ["state"])
reports = Counter("finetune_reports", "Reports from pods by HTTP code.", ["code"])
