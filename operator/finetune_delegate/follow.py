"""Exactly one tuning job for a FineTuneJob, and its course to the end.

The job's folder has a record of it (:data:`RECORD`). The record can be missing although the provider has the job: the pod died in
between. So every attempt first asks the provider for jobs of this uid; as its list may lag, it is asked again while the job runs,
and what turns out to be a second one is cancelled.
"""

import time
from collections.abc import Callable, Mapping

from finetune_api.model import ApiModel
from finetune_api.reasons import Failure, Reason
from finetune_delegate.patience import Passing, patiently
from finetune_delegate.provider import Logged, Provider, Unsure, View
from finetune_storage import Store, document

RECORD = "provider.json"
LOOKS_FOR_DUPLICATES = 20
"""Polls after which a list counts as complete."""

Tell = Callable[[View, list[Logged]], None]


class Record(ApiModel):
    """provider.json: the tuning job of this FineTuneJob."""

    job: str


def recorded(store: Store) -> str | None:
    """The provider's name of the tuning job, where an attempt wrote it down."""
    return Record.model_validate_json(store.get(RECORD)).job if store.exists(RECORD) else None


def submitted(provider: Provider, store: Store, files: Callable[[], Mapping[str, str]], patience: float) -> str:
    """The tuning job: an earlier attempt's, or a new one for the uploaded ``files``; written down."""
    known = recorded(store)
    if known is not None:
        print(f"going on with {known}", flush=True)
        return known
    found = provider.find()
    job = found[0].job if found else _submit(provider, files(), patience).job
    print(f"{'found' if found else 'submitted'} {job}", flush=True)
    store.put(RECORD, document(Record(job=job)))
    return job


def _submit(provider: Provider, files: Mapping[str, str], patience: float) -> View:
    def once() -> View:
        if found := provider.find():  # a lost answer may have been a yes
            return found[0]
        try:
            return provider.submit(files)
        except Unsure as lost:
            raise Passing(f"the answer to the submission was lost ({lost})") from None

    return patiently(once, "submission", patience)


def follow(provider: Provider, job: str, tell: Tell, poll_seconds: float) -> View:
    """Watch a tuning job until it has succeeded. Raises Failure for any other end."""
    last: str | None = None
    polls = 0
    while True:
        view = provider.look(job)
        logged = provider.logged(job, last)
        last = logged[-1].id if logged else last
        tell(view, logged)
        if polls < LOOKS_FOR_DUPLICATES or view.end is not None:
            cancel_others(provider, job)
        if view.end is not None:
            return _succeeded(view)
        polls += 1
        time.sleep(poll_seconds)  # a provider tells nobody; it must be asked


def _succeeded(view: View) -> View:
    said = f": {view.message}" if view.message else ""
    if view.end == "Failed":
        raise Failure(Reason.BACKEND_ERROR, f"The provider's job {view.job} failed{said}")
    if view.end == "Cancelled":
        raise Failure(Reason.BACKEND_ERROR, f"The provider's job {view.job} was cancelled at the provider{said}")
    if not view.model:
        raise Failure(Reason.BACKEND_ERROR, f"The provider's job {view.job} succeeded and names no model{said}")
    return view


def cancel_others(provider: Provider, job: str) -> None:
    """Cancel what a lagging list let through."""
    for other in provider.find():
        if other.job != job and other.end is None and other.state != "Cancelling":
            print(f"cancelling {other.job}: a duplicate of {job}", flush=True)
            provider.cancel(other.job)


def cancel_all(provider: Provider, store: Store) -> list[str]:
    """Cancel every tuning job of this FineTuneJob that has not ended; their names."""
    known = recorded(store)
    views = provider.find()
    if known is not None and known not in {view.job for view in views}:
        views.append(provider.look(known))
    going = [view.job for view in views if view.end is None]
    for job in going:
        provider.cancel(job)
        print(f"asked the provider to cancel {job}", flush=True)
    return going
