"""What an ISF says of types and symbols, in a form in which two of them can be compared.

    python layouts.py DWARF_ISF... > reference.json

writes the record that ``test_reference.py`` compares with: made from the files that dwarf2json makes of the
debugging information of the samples' kernels (linux-image-*-dbg packages).
"""

from __future__ import annotations

import binascii
import gzip
import json
import lzma
import re
import sys
from pathlib import Path
from typing import Any

Isf = dict[str, Any]

_NAME = re.compile(r"[\"']([A-Za-z_]\w*)[\"']")
_FOLDERS = ("plugins/linux", "symbols/linux", "automagic", "constants/linux")


def load(path: Path) -> Isf:
    """The content of a symbol file."""
    data = path.read_bytes()
    unpack = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix)
    return json.loads(unpack(data) if unpack else data)  # type: ignore[no-any-return]


def banner(isf: Isf) -> str:
    """The kernel a symbol file is for, in base64."""
    return str(isf["symbols"]["linux_banner"]["constant_data"])


def words(described: Isf) -> str:
    """A type in words. Arrays of arrays are one: BTF does not tell them apart. Unnamed types have other names in
    every file; so have typedefs of a structure that has a name of its own."""
    kind = described["kind"]
    if kind == "pointer":
        return "*" + words(described["subtype"])
    if kind == "array":
        count, element = described["count"], described["subtype"]
        while element["kind"] == "array":
            count, element = count * element["count"], element["subtype"]
        return f"[{count}]{words(element)}"
    if kind == "bitfield":
        return f"bits {described['bit_position']}+{described['bit_length']} of {words(described['type'])}"
    if kind == "function":
        return "function"
    name = re.sub("^unnamed_.*", "unnamed", str(described["name"]))
    return f"{kind} {name}"


def layout(isf: Isf, name: str) -> dict[str, tuple[int, str]]:
    """Offset and type of every member, those of unnamed members included."""
    found: dict[str, tuple[int, str]] = {}
    todo = [(name, 0)]
    while todo:
        one, base = todo.pop()
        for label, member in isf["user_types"][one]["fields"].items():
            if member.get("anonymous"):
                todo.append((member["type"]["name"], base + member["offset"]))
            else:
                found[label] = (base + member["offset"], words(member["type"]))
    return found


def type_mark(isf: Isf, name: str) -> str:
    """Kind, size and a checksum of the layout of a structure or union."""
    whole = isf["user_types"][name]
    text = json.dumps(sorted(layout(isf, name).items())).encode()
    return f"{whole['kind']} {whole['size']} {binascii.crc32(text):08x}"


def enum_mark(isf: Isf, name: str) -> str:
    """Size and a checksum of the constants of an enumeration."""
    enum = isf["enums"][name]
    return f"{enum['size']} {binascii.crc32(json.dumps(sorted(enum['constants'].items())).encode()):08x}"


def symbol_mark(isf: Isf, name: str) -> str:
    """Address and type of a symbol."""
    symbol = isf["symbols"][name]
    return f"{symbol['address']:#x} {words(symbol['type'])}"


def names_in_volatility() -> set[str]:
    """Every word that stands in quotes in volatility3's code for Linux; those of types and symbols among them."""
    import volatility3.framework

    root = Path(volatility3.framework.__file__).parent
    files = (path for folder in _FOLDERS for path in (root / folder).rglob("*.py"))
    return {name for path in files for name in _NAME.findall(path.read_text())}


def record(paths: list[Path]) -> Isf:
    """The marks of all types, enumerations and symbols whose names volatility3 has in quotes, by banner."""
    wanted = sorted(names_in_volatility())
    found: Isf = {}
    for path in paths:
        isf = load(path)
        # dwarf2json lists local variables too, at address 0.
        symbols = [name for name in wanted if isf["symbols"].get(name, {"address": 0})["address"]]
        found[banner(isf)] = {
            "producer": " ".join(isf["metadata"]["producer"].values()),
            "source": isf["metadata"]["linux"]["types"][0],
            "types": {name: type_mark(isf, name) for name in wanted if name in isf["user_types"]},
            "enums": {name: enum_mark(isf, name) for name in wanted if name in isf["enums"]},
            "symbols": {name: symbol_mark(isf, name) for name in symbols},
        }
    return found


if __name__ == "__main__":
    json.dump(record([Path(path) for path in sys.argv[1:]]), sys.stdout, indent=1)
    sys.stdout.write("\n")
