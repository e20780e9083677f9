"""Whether a change of the program has changed what it says: records its output for images, and compares records.

    python tests/same_documents.py record samples/*/image.kdump -o before --python /elsewhere/.venv/bin/python
    python tests/same_documents.py record samples/*/image.kdump -o after
    python tests/same_documents.py compare before after

The first interpreter has the program before the change installed, the second the changed one; without --python
it is the one that runs this file. ``maps`` and ``smaps`` must be the same byte for byte. Reports must be the same
except for their wording (PROSE below) and the circumstances of the run (CIRCUMSTANCES); of wording, it is compared
whether there is any. Findings are paired by their id, so their order does not matter. With --strict wording and
order must be the same too.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

COMMANDS = {"json": ("report", "--format", "json"), "maps": ("maps",), "smaps": ("smaps",)}
# Paths in the document; ``[]`` stands for every member of an array.
PROSE = frozenset(
    {
        "findings[].rule_title",
        "findings[].title",
        "findings[].why",
        "findings[].evidence[].what",
        "findings[].dumps[].what",
        "findings[].by_hand[].lines",
        "findings[].benign_causes",
        "maps[].nodes[].wrong",
        "not_assessed[].what",
        "not_assessed[].why",
    }
)
CIRCUMSTANCES = frozenset(
    {"provenance.version", "provenance.python", "provenance.dependencies", "provenance.file.path"}
)
_MOST = 10  # differences shown of each file
_WIDE = 160  # characters shown of a value


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# Recording


def _name(image: Path) -> str:
    """What an image is called in a record: bundled samples by their folder, others by their file."""
    return image.resolve().parent.name if image.name == "image.kdump" else image.name


def _environment() -> dict[str, str]:
    """Recorded is the package of the checkout this file lies in."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def _record_output(python: str, image: Path, kind: str, target: Path) -> str:
    """Write one command's output to ``target``; what went wrong, or nothing."""
    # -P: the working folder may hold another version of the package.
    command = [python, "-P", "-m", "vmaforensics", *COMMANDS[kind], "--progress", "never", str(image)]
    with tempfile.TemporaryFile() as plain:
        done = subprocess.run(command, stdout=plain, stderr=subprocess.PIPE, env=_environment(), check=False)
        if done.returncode:
            target.unlink(missing_ok=True)
            message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return f"{kind} ends with {done.returncode}: {message}"
        plain.seek(0)
        # No name and no time of day: the same output makes the same file.
        with target.open("wb") as out, gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    return ""


def record(images: Sequence[Path], folder: Path, python: str, kinds: Sequence[str]) -> int:
    """Record the outputs for each image; how many could not be had."""
    named = {_name(image): image for image in images}
    if len(named) < len(images):
        raise SystemExit("two of the images would have the same name")
    folder.mkdir(parents=True, exist_ok=True)
    _say(_where_from(python))
    failed = 0
    for name, image in named.items():
        started = time.monotonic()
        wrong = [_record_output(python, image, kind, folder / f"{name}.{kind}.gz") for kind in kinds]
        wrong = [what for what in wrong if what]
        failed += len(wrong)
        _say(f"{name}: {'; '.join(wrong) or 'recorded'} ({time.monotonic() - started:.1f} s)")
    return failed


def _where_from(python: str) -> str:
    """A line that says which program is run; ends if the interpreter has none."""
    command = [python, "-P", "-c", "import vmaforensics; print(vmaforensics.__path__[0])"]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{python} cannot import vmaforensics:\n{done.stderr}")
    return f"recording {done.stdout.strip()}"


# Comparing


def compare(before: Path, after: Path, *, strict: bool, common: bool) -> bool:
    """Compare two records, a line per image or more; whether they are the same."""
    first, second = _recorded(before), _recorded(after)
    names = sorted(first.keys() & second.keys() if common else first.keys() | second.keys())
    if not names:
        raise SystemExit("no image to compare")
    same = True
    for name in names:
        one, other = first.get(name, {}), second.get(name, {})
        lines: list[str] = []
        for kind in COMMANDS:
            if kind in one and kind in other:
                found = _differences(one[kind], other[kind], kind, strict=strict)
                lines += [f"  {kind}: {line}" for line in _first(found)]
            elif kind in one or kind in other:
                lines.append(f"  {kind}: only in {before if kind in one else after}")
        _say(f"{name}: different" if lines else f"{name}: same ({', '.join(one)})")
        for line in lines:
            _say(line)
        same = same and not lines
    return same


def _recorded(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of a record by image and kind."""
    found: dict[str, dict[str, Path]] = {}
    for kind in COMMANDS:
        for path in folder.glob(f"*.{kind}.gz"):
            found.setdefault(path.name.removesuffix(f".{kind}.gz"), {})[kind] = path
    return found


def _first(differences: Iterator[str]) -> Iterator[str]:
    """The first few, and whether there are more."""
    yield from itertools.islice(differences, _MOST)
    if next(differences, None) is not None:
        yield "and more"


def _differences(before: Path, after: Path, kind: str, *, strict: bool) -> Iterator[str]:
    """What differs between two files of one kind."""
    if before.read_bytes() == after.read_bytes():
        return iter(())
    if kind == "json":
        return _in_documents(_document(before), _document(after), strict=strict)
    return _in_lines(before, after)


def _in_lines(before: Path, after: Path) -> Iterator[str]:
    """Lines that differ."""
    with gzip.open(before) as first, gzip.open(after) as second:
        for number, (one, other) in enumerate(itertools.zip_longest(first, second), 1):
            if one != other:
                yield f"line {number}: {_shown_line(one)} -> {_shown_line(other)}"


def _shown_line(line: bytes | None) -> str:
    return "(end)" if line is None else repr(line)[1:]


def _document(path: Path) -> dict[str, Json]:
    with gzip.open(path) as stream:
        return cast("dict[str, Json]", json.load(stream))


def _in_documents(before: dict[str, Json], after: dict[str, Json], *, strict: bool) -> Iterator[str]:
    """What differs between two reports, with its path in them."""
    first, second = _by_id(before.pop("findings")), _by_id(after.pop("findings"))
    left_out = CIRCUMSTANCES if strict else CIRCUMSTANCES | PROSE
    for finding in first | second:
        ours, theirs = _member(first, finding), _member(second, finding)
        yield from _walk(ours, theirs, f"findings[{finding}]", "findings[]", left_out)
    if strict and first.keys() == second.keys() and list(first) != list(second):
        yield "findings: in another order"
    yield from _walk(before, after, "", "", left_out)


def _by_id(findings: Json) -> dict[str, Json]:
    """Findings by their id; when several have one id, they are told apart by their order."""
    found: dict[str, Json] = {}
    for finding in cast("list[dict[str, Json]]", findings):
        name, number = str(finding["id"]), 1
        while (key := name if number == 1 else f"{name} #{number}") in found:
            number += 1
        found[key] = finding
    return found


class _Absent:
    """Stands for a value that one document does not have."""


_ABSENT = _Absent()


def _member(mapping: Mapping[str, Json], key: str) -> Json | _Absent:
    return mapping.get(key, _ABSENT)


def _walk(
    before: Json | _Absent, after: Json | _Absent, path: str, pattern: str, left_out: frozenset[str]
) -> Iterator[str]:
    """What differs between two values at ``path``; ``pattern`` is the path as PROSE has it."""
    if before == after:
        return
    if isinstance(before, _Absent) or isinstance(after, _Absent):
        yield f"{path}: {_shown(before)} -> {_shown(after)}"
    elif pattern in left_out and (pattern in CIRCUMSTANCES or bool(before) == bool(after)):
        return
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            under = f"{pattern}.{key}".lstrip(".")
            yield from _walk(_member(before, key), _member(after, key), f"{path}.{key}".lstrip("."), under, left_out)
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(before)} -> {len(after)} members"
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from _walk(one, other, f"{path}[{number}]", f"{pattern}[]", left_out)
    else:
        yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _shown(value: Json | _Absent) -> str:
    """A value, or the beginning of it."""
    if isinstance(value, _Absent):
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}…"


# The command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Whether a change of the program has changed what it says.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("record", help="record report, maps and smaps of images")
    one.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where to; made if need be")
    one.add_argument("--python", default=sys.executable, help="the interpreter that has what vmaforensics needs")
    one.add_argument("--without", action="append", default=[], choices=list(COMMANDS), help="may be repeated")
    two = verbs.add_parser("compare", help="compare two records; exit code 1 if they differ")
    two.add_argument("before", type=Path, metavar="DIR_A")
    two.add_argument("after", type=Path, metavar="DIR_B")
    two.add_argument("--strict", action="store_true", help="wording and the order of findings too")
    two.add_argument("--common", action="store_true", help="only images that both records have")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Record or compare."""
    options = arguments(argv)
    if options.verb == "record":
        kinds = [kind for kind in COMMANDS if kind not in options.without]
        return 1 if record(options.images, options.output, options.python, kinds) else 0
    return 0 if compare(options.before, options.after, strict=options.strict, common=options.common) else 1


if __name__ == "__main__":
    sys.exit(main())
