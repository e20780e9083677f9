"""A run over a fleet: one task an image on a Dask cluster, until every image has its row.

The cluster is a local one, or any that Dask can start (SLURM, Kubernetes, YARN): its scheduler's address is all that
is needed, and that its workers see the images and the folder of the dataset by the same names.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vmaforensics.errors import ExitCode, OutputError, UsageError
from vmaforensics.fleet.dataset import has_rows, is_done, sweep
from vmaforensics.fleet.tables import Outcome
from vmaforensics.fleet.task import CHARACTERS, Told, analyse_source, other_version, write_failure
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from vmaforensics.fleet.sources import Source
    from vmaforensics.fleet.task import Options
    from vmaforensics.progress import Progress

_TRIES: Final = 3  # workers that may die over one image
_WAIT: Final = "30s"  # for a scheduler to answer, and for its first worker
_SEEN_WITHIN: Final = (
    10.0  # seconds after which a file that a worker wrote is seen here: network file systems take some
)


class Summary(NamedTuple):
    """How a run went: images by how they ended, and those that were done before."""

    analysed: int
    failed: int
    killed: int
    before: int
    seconds: float
    told: list[Told]


def require_dask() -> None:
    """Raise :class:`UsageError` where the packages of the extra are missing."""
    try:
        import distributed  # noqa: F401
        import duckdb  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError(f"fleet needs {error.name}: pip install 'vmaforensics[fleet]'") from None


def run_fleet(
    sources: Sequence[Source],
    options: Options,
    folder: Path,
    *,
    workers: int | None = None,
    memory: int | None = None,
    scheduler: str | None = None,
    progress: Progress,
) -> Summary:
    """Analyse every image that has no row yet.

    ``workers`` and ``memory`` (each worker's, in bytes) are those of a local cluster; ``scheduler`` is the address
    of another one. A worker that dies is replaced and its image tried again; an image over which ``_TRIES`` workers
    died has a row that says so. Raises :class:`UsageError` where no scheduler answers, or one without workers of this
    version; :class:`OutputError` where the dataset cannot be written.
    """
    began = time.monotonic()
    waiting = {source.key: source for source in sources if not is_done(folder, source)}
    told: list[Told] = []
    progress("images", 0, len(waiting))
    if waiting:
        with _client(scheduler, workers, memory, len(waiting)) as client:
            for answer in _answers(client, waiting, options, folder):
                told.append(answer)
                progress("images", len(told), len(waiting))
    sweep(folder)
    states = [answer.outcome.status for answer in told]
    return Summary(
        analysed=states.count("ok"),
        failed=states.count("failed"),
        killed=states.count("killed"),
        before=len(sources) - len(waiting),
        seconds=time.monotonic() - began,
        told=told,
    )


def _answers(client: Any, waiting: dict[str, Source], options: Options, folder: Path) -> Iterator[Told]:  # noqa: ANN401
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    tasks = [
        client.submit(analyse_source, source, options, key=f"image-{key}", pure=False)
        for key, source in waiting.items()
    ]
    for task in as_completed(tasks):
        key = str(task.key).removeprefix("image-")
        source = waiting[key]
        try:
            error = task.exception()
        except CancelledError:
            raise UsageError("the Dask scheduler is gone; start it again, then --resume") from None
        if error is None:
            _require_row(folder, source)
            yield task.result()
        elif isinstance(error, (OutputError, UsageError)):
            raise error
        else:
            outcome = _outcome_of(error, KilledWorker)
            write_failure(source, folder, outcome)
            yield Told(key, source.location, outcome, "")
        task.release()


def _outcome_of(error: BaseException, killed: type[BaseException]) -> Outcome:
    """How an image ended over which the task itself did not get to say so."""
    if not isinstance(error, killed):
        return Outcome("failed", int(ExitCode.INTERNAL), printable(str(error))[:CHARACTERS], 0.0)
    tries = int(getattr(error, "allowed_failures", _TRIES - 1)) + 1
    text = f"{tries} workers died over it: of too little memory most likely, or the file was cut while it was read"
    return Outcome("killed", int(ExitCode.INTERNAL), text, 0.0)


def _require_row(folder: Path, source: Source) -> None:
    """Raise :class:`OutputError` where the rows that a worker has written are not in our folder."""
    ends = time.monotonic() + _SEEN_WITHIN
    while not has_rows(folder, source.key):
        if time.monotonic() > ends:
            raise OutputError(
                f"a worker has analysed {source.location}, but its rows are not in {folder}: workers must see that "
                "folder by the same path"
            )
        time.sleep(0.1)


@contextmanager
def _client(scheduler: str | None, workers: int | None, memory: int | None, images: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is a row
    settings = {"distributed.scheduler.allowed-failures": _TRIES - 1, "distributed.comm.timeouts.connect": _WAIT}
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=_WAIT)
            except (OSError, ValueError) as error:
                raise UsageError(f"no Dask scheduler answers at {scheduler}: {error}") from None
            with client:
                _require_workers(client, scheduler)
                yield client
            return
        count = min(workers or dask.system.CPU_COUNT, images)
        with (
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=memory or "auto",
                # Its page of health has to listen somewhere: here, at any port that is free.
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _require_workers(client: Any, scheduler: str) -> None:  # noqa: ANN401
    """Raise :class:`UsageError` where a cluster has no workers, or one with another version of this package."""
    try:
        client.wait_for_workers(1, timeout=_WAIT)
    except TimeoutError:
        raise UsageError(f"the scheduler at {scheduler} has no workers; start some: dask worker {scheduler}") from None
    for worker, found in sorted(client.run(_asker(), on_error="return").items()):
        if found != __version__:
            raise UsageError(other_version(worker, found if isinstance(found, str) else None))


def _asker() -> Callable[[], str]:
    """A function that tells the version of this package where it runs; it travels by value, for it may not be there."""

    def version() -> str:
        from vmaforensics.version import __version__

        return __version__

    return version
