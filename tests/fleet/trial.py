"""The trial of a fleet: two hundred images, two workers of a local cluster, disturbed twice, and looked at afterwards.

One worker is killed at a third of the way; at two thirds the command is interrupted. ``--resume`` goes on to the end,
and once more to show that nothing is left to do. Then every image must have its row, of the kind that the plan says,
the tampered ones must stand out, and DuckDB, pandas and polars must read the same.

    python -m tests.fleet.trial [--count 200] [--folder build/fleet]

It takes a few seconds of CPU an image, and 8 MB of disk. ``make fleet-trial`` is that.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import ROOT

from fleet.folder import LIST, make_folder, read_plan
from vmaforensics.errors import ExitCode
from vmaforensics.fleet.dataset import pattern
from vmaforensics.fleet.queries import connect, rows
from vmaforensics.fleet.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet.folder import Machine

_RANKS: Final = ("critical", "high", "medium", "low", "info", "")
_REFUSED: Final = (ExitCode.IMAGE_UNREADABLE, ExitCode.FORMAT_UNSUPPORTED, ExitCode.SYMBOLS_MISSING)
_PATIENCE: Final = 4 * 3600  # seconds


def start(images: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command, with two workers. An interrupt reaches it, though whoever runs this may have it ignored."""
    words = ["--list", str(images / LIST), "-o", str(out), "--workers", "2", "--progress", "never", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "vmaforensics", "fleet", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Processes of workers below the command, by /proc."""
    found, waiting = [], [process.pid]
    while waiting:
        pid = waiting.pop()
        try:
            threads = Path(f"/proc/{pid}/task").iterdir()
            children = " ".join((thread / "children").read_text(encoding="ascii") for thread in threads).split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
        waiting += [int(child) for child in children]
    return found


def done(out: Path) -> int:
    """Images that have their row."""
    return len(list(out.glob("tables/images/[0-9a-f]*.parquet")))


def wait_for(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    """Until so many images are done. Raises :class:`AssertionError` if the command ends before."""
    ends = time.monotonic() + _PATIENCE
    while done(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.1)


def run_disturbed(images: Path, out: Path, count: int) -> list[str]:
    """Run to the end through a killed worker and an interrupt; returns what happened, a sentence each."""
    said = []
    process = start(images, out)
    wait_for(process, out, count // 3)
    victim = workers_of(process)[-1]
    os.kill(victim, signal.SIGKILL)
    said.append(f"{done(out)} done: one of {len(workers_of(process))} workers killed")
    wait_for(process, out, count * 2 // 3)
    left = workers_of(process)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=_PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED, (process.returncode, told, errors)
    before = done(out)
    alive = [pid for pid in left if Path(f"/proc/{pid}").exists()]
    assert not alive, f"workers {alive} live on"
    said.append(f"{before} done: interrupted, exit code {process.returncode}; no worker lives on")
    for already in (before, count):
        kept = written(out)
        again = start(images, out, "--resume")
        told, errors = again.communicate(timeout=_PATIENCE)
        assert again.returncode == ExitCode.OK, (again.returncode, errors)
        assert f"{already} done before" in told.decode(), told
        assert {path: stamp for path, stamp in written(out).items() if path in kept} == kept, "written anew"
        said.append(f"--resume: {told.decode().splitlines()[0]}")
    return said


def written(out: Path) -> dict[Path, int]:
    """Every file of a table that an image has, and when it was written (ns)."""
    return {path: path.stat().st_mtime_ns for path in out.glob("tables/*/[0-9a-f]*.parquet")}


def look(images: Path, out: Path) -> Iterator[str]:
    """Hold what was found against the plan; yields what is true. Raises :class:`AssertionError` otherwise."""
    plan = {machine.file: machine for machine in read_plan(images)}
    connection = connect(out)
    found = {Path(row["location"]).name: row for row in rows(connection, "SELECT * FROM images")}
    assert found.keys() == plan.keys()
    assert rows(connection, "SELECT count(*) AS n FROM images")[0]["n"] == len(plan)
    yield f"{len(found)} images, a row each"
    for name, machine in plan.items():
        row = found[name]
        assert (row["status"] == "failed") == (machine.kind == "broken"), (machine, row)
        assert row["role"] == machine.role
        assert row["crashed"] == (machine.kind == "crashed"), (machine, row)
        if machine.kind == "broken":
            assert row["error"], machine
            assert row["exit_code"] in (
                ExitCode.IMAGE_UNREADABLE,
                ExitCode.FORMAT_UNSUPPORTED,
                ExitCode.SYMBOLS_MISSING,
            )
        if machine.kind == "sound":
            assert row["worst"] in ("low", "info", ""), (machine, row["worst"])
            assert row["hostname"] == machine.hostname
    yield f"{Counter(machine.kind for machine in plan.values())}, as planned; of the sound none above low"
    yield from _tampered(plan, found)
    crashes = rows(connection, "SELECT machines FROM same_crash")
    assert crashes == [{"machines": sum(machine.kind == "crashed" for machine in plan.values())}], crashes
    yield "one crash, on both machines"
    yield from _readers(out)


def _tampered(plan: dict[str, Machine], found: dict[str, dict[str, object]]) -> Iterator[str]:
    seen = missed = 0
    for name, machine in plan.items():
        if machine.kind != "tampered":
            continue
        if _RANKS.index(str(found[name]["worst"])) <= _RANKS.index(machine.rank):
            seen += 1
        else:
            missed += 1
            yield f"not seen: {name}, {machine.edit}, worst {found[name]['worst']!r} and not {machine.rank}"
    assert missed == 0, f"{missed} tampered machines do not stand out"
    yield f"{seen} tampered machines have a finding of the rank of their edit's label"


def _readers(out: Path) -> Iterator[str]:
    import pandas
    import polars

    connection = connect(out)
    for table in TABLES:
        (counted,) = rows(connection, f"SELECT count(*) AS n, count(DISTINCT image) AS images FROM {table}")
        frame = pandas.read_parquet(out / "tables" / table)
        lazily = polars.read_parquet(pattern(out, table))
        assert (len(frame), frame["image"].nunique()) == (counted["n"], counted["images"]), table
        assert (lazily.height, lazily["image"].n_unique()) == (counted["n"], counted["images"]), table
    yield f"{len(TABLES)} tables read alike by DuckDB, pandas {pandas.__version__} and polars {polars.__version__}"


def main() -> int:
    """Make the folder unless it is there, run, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fleet")
    args = parser.parse_args()
    images, out = args.folder.absolute() / "images", args.folder.absolute() / "out"
    if not (images / LIST).exists():
        make_folder(images, args.count)
    count = len(read_plan(images))
    began = time.monotonic()
    for line in (*run_disturbed(images, out, count), *look(images, out)):
        sys.stdout.write(f"{line}\n")
    size = (out / "index.html").stat().st_size
    sys.stdout.write(f"{time.monotonic() - began:.0f} s, index.html of {size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
