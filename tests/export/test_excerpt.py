"""An excerpt gives the report of its image, holds no user memory, and never appears half written."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support import CRASHED, RESTING, ROOT

import vmaforensics.export.excerpt
from vmaforensics.analysis import analyse_image
from vmaforensics.cli.main import main
from vmaforensics.columns.table import Table
from vmaforensics.crash.build import build_crash_document
from vmaforensics.crash.document import CrashDocument, ImageName
from vmaforensics.crash.gather import gather_case
from vmaforensics.errors import ExitCode, OutputError
from vmaforensics.export.excerpt import Keep, select, write_selection
from vmaforensics.export.excerpt_file import held_frames, write_excerpt
from vmaforensics.image.image import Image
from vmaforensics.image.kdump.writer import Head, write_kdump
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PageState
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.symbols.vmcoreinfo import parse
from vmaforensics.proc.maps import maps_lines
from vmaforensics.progress import unheard
from vmaforensics.report.document.build import build_document
from vmaforensics.report.document.document import encode
from vmaforensics.views.pages.frame_kinds import FREE_KINDS, USER_KINDS, FrameKind, classify_frames

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.analysis import Analysis
    from vmaforensics.export.excerpt import Selection

pytestmark = pytest.mark.image
Capture = pytest.CaptureFixture[str]


def sample_images() -> list[Path]:
    """The bundled images, and some of those the recipe has built here: these alone hold user memory."""
    built = [ROOT / f"build/images/debian-{name}.elf" for name in ("5.10", "6.1", "6.12", "7.3")]
    dead = [sample for sample in CRASHED if sample.name == "crash-6.1-vma-file"]
    return [sample.image_path for sample in (*RESTING, *dead)] + [path for path in built if path.exists()]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(scope="module", params=sample_images(), ids=name_of)
def sample(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def full_sample() -> Path:
    """The fullest image there is."""
    if not sample_images():
        pytest.skip("no sample images here")
    return max(sample_images(), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def selection(sample: Path) -> Selection:
    return select(open_image(sample), Keep.ANALYSIS)


@pytest.fixture(scope="module")
def excerpt(sample: Path, selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("excerpt") / "small.kdump"
    with path.open("w+b") as stream:
        write_selection(stream, open_image(sample), selection)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two MiB that hold no kernel: pages of zeros, of text and of noise."""
    data = np.random.default_rng(1).integers(0, 256, 2 << 20, dtype=np.uint8)
    data[1 << 20 : 3 << 19] = 0
    data[3 << 19 :] = ord("a")
    path = tmp_path / "image.raw"
    path.write_bytes(data.tobytes())
    return path


# What the analysis says -----------------------------------------------------------------------------------


def assert_same(one: Analysis, other: Analysis) -> None:
    compared = 0
    for field in fields(one.views):
        a, b = getattr(one.views, field.name), getattr(other.views, field.name)
        if isinstance(a, Table):
            compared += 1
            for name, values in a.columns().items():
                np.testing.assert_array_equal(values, b.columns()[name], err_msg=f"{field.name}.{name}")
    assert compared > 4
    assert one.views.names.tolist() == other.views.names.tolist()
    for mm in one.views.mms.mm.tolist():
        lines = list(maps_lines(one.kernel, one.views, mm))
        assert lines == list(maps_lines(other.kernel, other.views, mm))
    # The first bytes of a process's memory, which a report shows, are user memory: excerpts leave them out.
    documents = [msgspec.json.decode(encode(build_document(each, contents=False))) for each in (one, other)]
    for document in documents:
        del document["provenance"]
        # Nor can code be compared with the page cache, or looked for: it is told under "not assessed".
        document["not_assessed"] = [
            item
            for item in document["not_assessed"]
            if not item["what"].endswith(("(TEXT-MODIFIED)", "(FRAME-UNOWNED)", "(FRAME-HELD)"))
        ]
    assert documents[0] == documents[1]


def test_the_report_of_the_excerpt_is_that_of_the_image(sample: Path, excerpt: Path) -> None:
    one = analyse_image(sample)
    assert len(one.views.vmas) > 100
    assert_same(one, analyse_image(excerpt))


def case_of(path: Path) -> CrashDocument:
    image = open_image(path)
    case = gather_case(image, find_kernel(image), unheard)
    document = build_crash_document(case, lines=10_000, everyone=True)
    return msgspec.structs.replace(document, image=ImageName(path="", format="", size=0))


def test_the_crash_case_and_the_log_of_the_excerpt_are_those_of_the_image(sample: Path, excerpt: Path) -> None:
    assert case_of(excerpt) == case_of(sample)


def test_the_log_and_the_stacks_can_be_left_out(sample: Path, selection: Selection, tmp_path: Path) -> None:
    if "crash" not in name_of(sample):
        pytest.skip("those with a case to leave out are enough")
    case = case_of(sample)
    less = select(open_image(sample), Keep.ANALYSIS, without=("log", "stacks"))
    assert int(less.kept.sum()) < int(selection.kept.sum())
    assert not (less.kept & ~selection.kept).any()
    path = tmp_path / "less.kdump"
    with path.open("w+b") as stream:
        write_selection(stream, open_image(sample), less)
    left = case_of(path)
    assert not any(record.text for record in left.log)
    assert sum(len(stack.frames) for stack in left.stacks) < sum(len(stack.frames) for stack in case.stacks)


def test_leaving_parts_out_is_for_what_the_analysis_reads(raw: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.kdump")
    assert main(["excerpt", str(raw), "--keep", "all", "--without", "log", "-o", out]) == ExitCode.USAGE


def test_the_page_tables_of_the_cpus_are_kept(sample: Path, excerpt: Path) -> None:
    """drgn reads kernel addresses through them."""
    held = held_frames(open_image(sample).memory)
    roots = np.array([cpu.table_register >> 12 for cpu in open_image(sample).cpus if cpu.table_register], np.uint64)
    roots = roots[np.isin(roots, held)]
    assert (open_image(excerpt).memory.page_states(roots) <= PageState.ZERO).all()


def test_an_excerpt_of_an_excerpt_holds_the_same_pages(excerpt: Path) -> None:
    image = open_image(excerpt)
    again = select(image, Keep.ANALYSIS)
    assert again.kept.all()
    assert again.withheld == 0


def test_the_report_of_a_kernel_excerpt_is_that_of_the_image(full_sample: Path, tmp_path: Path) -> None:
    image = open_image(full_sample)
    chosen = select(image, Keep.KERNEL)
    with (tmp_path / "kernel.kdump").open("w+b") as stream:  # as write_selection does, but compressed in less time
        pfns = chosen.held[chosen.kept]
        write_kdump(stream, image.memory, pfns, Head(vmcoreinfo=image.vmcoreinfo, notes=image.notes), level=1)
    assert_same(analyse_image(full_sample), analyse_image(tmp_path / "kernel.kdump"))


def test_vmcoreinfo_found_in_memory_becomes_a_note(
    full_sample: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = open_image(full_sample)
    text = image.vmcoreinfo
    if text is None:
        pytest.skip("VMCOREINFO is not in the notes of this image")
    # A bundled sample may lack the page with the text itself, so the search is made to find it.
    found = [parse(text + bytes(9), "memory")]
    monkeypatch.setattr("vmaforensics.kernel.survey.Survey.infos", lambda _: iter(found))
    bare = Image(path=image.path, size=image.size, format="raw", memory=image.memory)
    with (tmp_path / "small.kdump").open("w+b") as stream:
        write_selection(stream, bare, select(bare, Keep.ANALYSIS))
    monkeypatch.undo()
    assert open_image(tmp_path / "small.kdump").vmcoreinfo == text
    assert_same(analyse_image(full_sample), analyse_image(tmp_path / "small.kdump"))


# What is in it --------------------------------------------------------------------------------------------


def test_no_page_that_the_analysis_reads_is_user_memory(selection: Selection) -> None:
    assert selection.kinds is not None
    kinds = selection.kinds[selection.kept]
    assert not np.isin(kinds, [*USER_KINDS, *FREE_KINDS]).any()
    assert selection.withheld == 0


def test_a_kernel_excerpt_holds_all_kernel_memory_and_no_user_memory(sample: Path, selection: Selection) -> None:
    image = open_image(sample)
    chosen = select(image, Keep.KERNEL)
    assert chosen.kinds is not None
    dropped = [*USER_KINDS, *FREE_KINDS]
    np.testing.assert_array_equal(chosen.kept, ~np.isin(chosen.kinds, [*dropped, FrameKind.UNKNOWN]) | selection.kept)
    assert not np.isin(chosen.kinds[chosen.kept], dropped).any()


def test_user_memory_that_a_forged_pointer_leads_to_is_left_out(
    full_sample: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = open_image(full_sample)
    kernel, traced = vmaforensics.export.excerpt.trace_analysis(image)
    held = held_frames(image.memory)
    user = held[np.isin(classify_frames(kernel).of(held), USER_KINDS)][:3]
    if not len(user):
        pytest.skip("this image holds no user memory")
    forged = np.union1d(traced, user)
    monkeypatch.setattr(vmaforensics.export.excerpt, "trace_analysis", lambda *_: (kernel, forged))
    for keep in (Keep.ANALYSIS, Keep.KERNEL):
        chosen = select(image, keep)
        assert chosen.withheld == len(user)
        assert not np.isin(user, chosen.held[chosen.kept]).any()


def test_the_container_says_what_the_image_said(sample: Path, selection: Selection, excerpt: Path) -> None:
    image, small = open_image(sample), open_image(excerpt)
    np.testing.assert_array_equal(small.memory.ranges, image.memory.ranges)
    assert small.cpus == image.cpus
    assert small.vmcoreinfo == image.vmcoreinfo
    kept = selection.held[selection.kept]
    top = int(image.memory.ranges[-1, 1]) >> 12
    pfns = np.arange(top + 16, dtype=np.uint64)
    old, new = image.memory.page_states(pfns), small.memory.page_states(pfns)
    np.testing.assert_array_equal(new == PageState.NOT_RAM, old == PageState.NOT_RAM)
    np.testing.assert_array_equal(pfns[new <= PageState.ZERO], kept)
    data, ok = small.memory.gather(kept << np.uint64(12), 4096)
    assert ok.all()
    np.testing.assert_array_equal(data, image.memory.gather(kept << np.uint64(12), 4096)[0])


# The command ----------------------------------------------------------------------------------------------


def test_all_keeps_every_page_even_without_a_kernel(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "all.kdump"
    assert main(["excerpt", str(raw), "-o", str(out), "--keep", "all"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        f"{'pages':12}{'kept':>12}{'held':>12}",
        f"{'all':12}{512:12}{512:12}",
        f"{out}: {out.stat().st_size} bytes, of {2 << 20}",
    ]
    assert open_image(out).memory.read(0, 2 << 20) == raw.read_bytes()
    assert open_image(out).details["dump level"] == "0"


def test_the_summary_counts_pages_by_class(full_sample: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["excerpt", str(full_sample), "-o", str(tmp_path / "small.kdump")]) == ExitCode.OK
    captured = capsys.readouterr()
    rows = [line.rsplit(maxsplit=2) for line in captured.out.splitlines()[1:-1]]
    kept, held = (sum(int(row[column]) for row in rows[:-1]) for column in (1, 2))
    assert rows[-1] == ["all", str(kept), str(held)]
    assert captured.err == ""  # no terminal, no progress


def test_an_existing_file_is_replaced_only_if_forced(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    command = ["excerpt", str(raw), "-o", str(out), "--keep", "all"]
    assert main(command) == ExitCode.OUTPUT
    assert "exists" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert main([*command, "--force"]) == ExitCode.OK
    assert out.read_bytes().startswith(b"KDUMP   ")


def test_the_image_itself_is_never_replaced(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    before = raw.read_bytes()
    (tmp_path / "link").symlink_to(raw)
    for out in (raw, tmp_path / "link"):
        assert main(["excerpt", str(raw), "-o", str(out), "--keep", "all", "--force"]) == ExitCode.OUTPUT
        assert "is what the command reads" in capsys.readouterr().err
    assert raw.read_bytes() == before


def test_nothing_is_left_behind_when_it_fails(raw: Path, tmp_path: Path, capsys: Capture) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["excerpt", str(raw), "-o", str(tmp_path / "out")]) == ExitCode.SYMBOLS_MISSING
    assert "no Linux kernel" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert main(["excerpt", str(raw), "-o", str(tmp_path / "missing" / "out")]) == ExitCode.OUTPUT
    assert sorted(tmp_path.iterdir()) == before


def test_the_same_pages_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    image = open_image(raw)
    for name in ("one", "two"):
        with (tmp_path / name).open("w+b") as stream:
            write_excerpt(stream, image, np.arange(0, 512, 3, dtype=np.uint64))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_unbelievable_amount_of_memory_is_refused(raw: Path) -> None:
    memory = open_image(raw).memory
    memory.ranges = np.array([[0, 1 << 52]], np.uint64)
    with pytest.raises(OutputError, match="32 TiB"):
        held_frames(memory)
