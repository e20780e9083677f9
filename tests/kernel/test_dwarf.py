"""Types out of the DWARF that gcc and clang make, of a small file compiled here: layouts as C and x86-64 have them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.symbols.elf_file import ElfFile
from vmaforensics.kernel.symbols.given import open_symbol_files

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
typedef unsigned long ulong_t;
enum state { RUNNING, STOPPED = 7, NEGATIVE = -3 };
struct forward; struct list { struct list *next, *prev; };
typedef struct { int counter; } atomic_t;
struct pid { int nr; struct list tail[]; };
struct outer {
  char comm[16]; struct list tasks; const volatile ulong_t flags;
  unsigned a:3; unsigned b:7; unsigned long c:40;
  union { struct { int x; union { short y; char z[2]; }; }; long w; };
  atomic_t count; enum state state; struct forward *far; struct pid *pid;
  ulong_t matrix[3][5]; struct { int inside; } named; struct list heads[2];
};
struct outer *o; struct pid *p; enum state s;
__attribute__((section(".text.apart"))) int apart(void) { return p->nr + o->count.counter; }
void _start(void) {}
"""
OTHER = """
struct lonely { char letter; long word; };
enum where { HERE, ALONE = 23 };
struct lonely *l; enum where w;
__attribute__((used)) long far_away(void) { return l->word + w; }
"""
LINKERS = ("ld.lld", *(f"ld.lld-{version}" for version in range(22, 13, -1)))
COMPILERS = {"gcc": ("gcc",), "clang": ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))}


@pytest.fixture(scope="module", params=[("gcc", 4), ("gcc", 5), ("clang", 4), ("clang", 5)])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with debugging information of DWARF 4 or 5. Its code lies in two ranges, which clang numbers."""
    name, version = request.param
    compiler = next(filter(shutil.which, COMPILERS[name]), None)
    if compiler is None:
        pytest.skip(f"{name} is not here")
    folder = tmp_path_factory.mktemp("dwarf")
    (folder / "a.c").write_text(SOURCE)
    command = [compiler, "-g", f"-gdwarf-{version}", "-nostdlib", "-static", "-o", "a", "a.c"]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "a"


def test_members_lie_where_the_compiler_puts_them(compiled: Path) -> None:
    layout = ElfFile(compiled).struct("outer")
    assert layout is not None
    found = {name: (at.offset, at.size, at.count) for name, at in layout.fields.items()}
    assert found["comm"] == (0, 1, 16)
    assert found["tasks"] == (16, 16, None)
    assert found["flags"] == (32, 8, None)
    assert found["w"] == (48, 8, None)
    assert found["x"] == (48, 4, None)
    assert found["y"] == (52, 2, None)
    assert found["z"] == (52, 1, 2)
    assert found["count"] == (56, 4, None)
    assert found["far"] == (64, 8, None)
    assert found["matrix"] == (80, 8, 15)
    assert found["heads"] == (208, 16, 2)
    assert layout.size == 240


def test_bit_fields_are_where_they_are(compiled: Path) -> None:
    layout = ElfFile(compiled).struct("outer")
    assert layout is not None
    bits = {name: layout.fields[name] for name in ("a", "b", "c")}
    assert {name: (8 * at.offset + at.bit_offset - 320, at.bit_size) for name, at in bits.items()} == {
        "a": (0, 3),
        "b": (3, 7),
        "c": (10, 40),
    }


def test_signs_pointers_and_what_they_lead_to(compiled: Path) -> None:
    file = ElfFile(compiled)
    fields = file.struct("outer").fields  # type: ignore[union-attr]
    assert (fields["state"].signed, fields["flags"].signed) == (True, False)
    assert (fields["pid"].pointer, fields["pid"].struct) == (True, "pid")
    assert (fields["far"].pointer, fields["far"].struct) == (True, "forward")
    assert file.struct(fields["named"].struct or "").fields.keys() == {"inside"}  # type: ignore[union-attr]
    assert file.struct("pid").fields["tail"].count == 0  # type: ignore[union-attr]
    assert file.struct("atomic_t").size == 4  # type: ignore[union-attr]
    assert [file.struct(name) for name in ("forward", "outermost", "state", "")] == [None] * 4


def test_enumerators_and_symbols(compiled: Path) -> None:
    file = ElfFile(compiled)
    assert [file.constant(name) for name in ("RUNNING", "STOPPED", "NEGATIVE", "NONE")] == [0, 7, -3, None]
    assert file.address("_start")
    assert file.banner is None


def test_files_that_the_linker_puts_together_share_a_table_of_strings(tmp_path: Path) -> None:
    """Link-time optimisation of clang: units one behind the other with one DW_AT_str_offsets_base."""
    compiler, linker = (next(filter(None, map(shutil.which, names)), None) for names in (COMPILERS["clang"], LINKERS))
    if compiler is None or linker is None:
        pytest.skip("clang or lld is not here")
    (tmp_path / "a.c").write_text(SOURCE)
    (tmp_path / "b.c").write_text(OTHER)
    command = [compiler, "-g", "-gdwarf-5", "-flto", f"--ld-path={linker}", "-nostdlib", "-static", "-o", "a"]
    subprocess.run([*command, "a.c", "b.c"], check=True, cwd=tmp_path)
    file = ElfFile(tmp_path / "a")
    first, second = file.struct("outer"), file.struct("lonely")
    assert first is not None
    assert second is not None
    assert (first.fields["matrix"].offset, first.size) == (80, 240)
    assert {name: at.offset for name, at in second.fields.items()} == {"letter": 0, "word": 8}
    assert [file.constant(name) for name in ("STOPPED", "NEGATIVE", "ALONE", "lonely")] == [7, -3, 23, None]


def test_a_stripped_file_or_a_damaged_one_is_said_to_be_so(compiled: Path, tmp_path: Path) -> None:
    raw = compiled.read_bytes()
    (tmp_path / "cut").write_bytes(raw[:200])
    (tmp_path / "module.ko").write_bytes(raw[:16] + b"\x01\0" + raw[18:])
    for name, why in (("cut", "cannot be read"), ("module.ko", "module")):
        with pytest.raises(SymbolFileError, match=why):
            open_symbol_files(tmp_path / name)
