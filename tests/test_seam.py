"""Nothing outside ``arch/`` knows which CPU the image is of: no x86 name, no page size, no bit of an entry."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "vmaforensics"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "arch" not in path.parents)

# Words of identifiers, member paths and symbols that only an x86 kernel has.
NAMES = re.compile(
    r"(?:^|[^a-z0-9])(x86|pt_regs|cr3|cr4|rip|rsp|fsbase|vsyscall\w*|gate_vma|espfix|ldt|pti|la57|sme_mask|phys_base|"
    r"page_offset_base|vmemmap_base|cpu_tlbstate|tlb_state|init_top_pgt|pgtable_l5_enabled|thread_shstk|pkeys?)"
    r"(?:$|[^a-z0-9])",
    re.IGNORECASE,
)
# What is a page's, a table's or an address's on x86-64 and something else on other CPUs.
SHIFTS = {9, 12, 21, 30, 39, 45, 48, 57, 63}
SIZES = {0xFFF, 4096, 512, 511}

# File: (names and numbers that may stand there, why).
_PUBLISHED = "a name of the published document: what the kernel says of where it lies"
ALLOWED: dict[str, tuple[set[str], str]] = {
    "checks/anchors/cpu_cr3_unknown.py": ({"cr3"}, "the published id of a rule"),
    "cli/info.py": ({"phys_base"}, _PUBLISHED),
    "compare/anchor_cells.py": ({"rip", "rsp"}, "published names of two anchors in the table of records"),
    "crash/meanings.py": ({"x86"}, "files of the kernel that say what a complaint means"),
    "export/isf/variables.py": (
        {"pgtable_l5_enabled", "cpu_tlbstate"},
        "types of variables by name, of whatever kernel has them, for symbol files",
    ),
    "image/formats/flattened.py": ({"512"}, "fewest bytes of a record, of which the specification has no bound"),
    "image/kdump/bitmap.py": ({"63"}, "bits of a word of the bitmap"),
    "image/kdump/header.py": ({"phys_base"}, "a field of kdump_sub_header"),
    "image/kdump/writer.py": ({"phys_base"}, "a field of kdump_sub_header"),
    "kernel/find.py": ({"phys_base"}, _PUBLISHED),
    "kernel/kernel.py": ({"phys_base"}, _PUBLISHED),
    "report/document/build.py": ({"phys_base"}, _PUBLISHED),
    "report/document/diff.py": ({"phys_base"}, _PUBLISHED),
    "report/document/parts.py": ({"phys_base"}, _PUBLISHED),
    "report/formats/text_full.py": ({"phys_base"}, _PUBLISHED),
    "volatility/layers/image_layer.py": ({"PAGE_SHIFT", "PAGE_SIZE"}, "a layer over an image, in the image's unit"),
    "volatility/layers/layer_memory.py": ({"PAGE_SHIFT", "PAGE_SIZE"}, "an image over a layer, in the image's unit"),
}


def uses(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name or number) of everything in a file that belongs behind the seam."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for name in _names(node):
            if found := NAMES.search(name):
                yield line, found.group(1).lower()
        # Sentences for people may name the CPU; symbols, member paths and keys have no blanks.
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if " " not in text and id(node) not in texts and (found := NAMES.search(text)):
            yield line, found.group(1).lower()
        if isinstance(node, ast.BinOp):
            yield from ((line, str(number)) for number in _numbers(node))
        if isinstance(node, ast.Call):
            sizes = {_number(argument) for argument in node.args} & {4096}
            yield from (
                (line, str(number))
                for number in sizes
                if not isinstance(node.func, ast.Attribute) or node.func.attr not in {"uint64", "int64"}
            )
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.startswith("vmaforensics.arch.x86_64"):
                yield line, "x86_64"
            if module == "vmaforensics.image.placed" and PACKAGE / "image" not in path.parents:
                # The unit of images is no page of the CPU; a memory says what its unit is.
                yield from ((line, name.name) for name in node.names if name.name.startswith("PAGE_"))
        if isinstance(node, ast.Assign) and _number(node.value) in SIZES:
            for target in node.targets:
                if isinstance(target, ast.Name) and "PAGE" in target.id.upper():
                    yield line, str(_number(node.value))


def _names(node: ast.AST) -> list[str]:
    """The identifiers that a node brings in."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.arg, ast.keyword)):
        return [node.arg or ""]
    return []


def _numbers(node: ast.BinOp) -> Iterator[int]:
    """Shifts by, and masks and multiples of, numbers that are the CPU's."""
    if isinstance(node.op, (ast.LShift, ast.RShift)):
        by = _number(node.right)
        # 1 << 12 may be any number of anything; x << 12 and x >> 12 are pages.
        if by in SHIFTS and not (isinstance(node.op, ast.LShift) and _number(node.left) is not None):
            yield by
    elif isinstance(node.op, (ast.BitAnd, ast.FloorDiv, ast.Mod, ast.Mult, ast.Div)):
        for side in (node.left, node.right):
            number = _number(side)
            if number is not None and (number in SIZES or -number in SIZES or ~number in SIZES):
                yield abs(number)


def _number(node: ast.expr) -> int | None:
    """The whole number that an expression is, perhaps in a NumPy scalar."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Invert)):
        inner = _number(node.operand)
        return None if inner is None else -inner if isinstance(node.op, ast.USub) else ~inner
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"uint64", "int64"}:
        return _number(node.args[0]) if len(node.args) == 1 else None
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_architecture_knows_the_cpu(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    allowed, _ = ALLOWED.get(name, (set(), ""))
    assert [f"{name}:{line}: {what}" for line, what in uses(path) if what not in allowed] == []


def test_what_is_allowed_is_still_there() -> None:
    for name, (allowed, why) in ALLOWED.items():
        assert allowed <= {what for _, what in uses(PACKAGE / name)}, name
        assert why, name
