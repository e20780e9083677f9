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
from vmaforensics.fleet.dataset import is_done
from vmaforensics.fleet.tables import Outcome
from vmaforensics.fleet.task import CHARACTERS, Told, analyse_source, write_failure
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vmaforensics.fleet.sources import Source
    from vmaforensics.fleet.task import Options
    from vmaforensics.progress import Progress

_TRIES: Final = 3  # workers that may die over one image
_WAIT: Final = "30s"  # for a scheduler to answer


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
    memory: str | None = None,
    scheduler: str | None = None,
    progress: Progress,
) -> Summary:
    """Analyse every image that has no row yet.

    ``workers`` and ``memory`` (each worker's, as ``4GiB``) are those of a local cluster; ``scheduler`` is the address
    of another one. A worker that dies is replaced and its image tried again; an image over which ``_TRIES`` workers
    died has a row that says so. Raises :class:`UsageError` where no scheduler answers, :class:`OutputError` where the
    dataset cannot be written.
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
    from distributed import KilledWorker, as_completed

    tasks = [
        client.submit(analyse_source, source, options, key=f"image-{key}", pure=False)
        for key, source in waiting.items()
    ]
    for task in as_completed(tasks):
        key = str(task.key).removeprefix("image-")
        error = task.exception()
        if error is None:
            yield task.result()
        elif isinstance(error, OutputError):
            raise error
        else:
            died = isinstance(error, KilledWorker)
            said = printable(str(error))[:CHARACTERS]
            text = f"{_TRIES} workers died over it, of too little memory most likely" if died else said
            outcome = Outcome("killed" if died else "failed", int(ExitCode.INTERNAL), text, 0.0)
            write_failure(waiting[key], folder, outcome)
            yield Told(key, waiting[key].location, outcome, "")
        task.release()


@contextmanager
def _client(scheduler: str | None, workers: int | None, memory: str | None, images: int) -> Iterator[Any]:
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
                yield client
            return
        count = min(workers or dask.system.CPU_COUNT, images)
        with (
            LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=memory or "auto",
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
