"""BTF types in the words of an ISF (volatility3's schema 6.2.0).

What DWARF calls a type is what dwarf2json would call it, so that programs that compare names see the same:
a typedef of a structure gives its name to it, other typedefs and all qualifiers are looked through. Members and
enumerators are in its order too, by name: volatility3 shows rows in that order, and the first of equal enumerators.
Where structures of one name differ, the largest keeps the name (a driver may call a small one of its own
``node``) and references to the others stay exact by names of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmaforensics.kernel.structures import btf_records as btf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.structures.btf import Btf

Descriptor = dict[str, Any]  # schema: type_descriptor

VOID: Descriptor = {"kind": "base", "name": "void"}
FUNCTION: Descriptor = {"kind": "function"}

_DEPTH = 32  # of pointers to pointers, arrays of arrays and typedefs of typedefs
_NESTING = 24  # of unnamed members within unnamed members
_STRUCTS = (btf.STRUCT, btf.UNION)
_ENUMS = (btf.ENUM, btf.ENUM64)
_INT_SIGNED, _INT_BOOL = 1, 4  # encoding of BTF_KIND_INT

# Names programs look up, as gcc calls them; clang says "unsigned long".
_BASE_TYPES = {
    "void": (0, False, "void"),
    "pointer": (8, False, "int"),
    "_Bool": (1, False, "bool"),
    "char": (1, True, "char"),
    "unsigned char": (1, False, "char"),
    "short int": (2, True, "int"),
    "short unsigned int": (2, False, "int"),
    "int": (4, True, "int"),
    "unsigned int": (4, False, "int"),
    "long int": (8, True, "int"),
    "long unsigned int": (8, False, "int"),
    "long long int": (8, True, "int"),
    "long long unsigned int": (8, False, "int"),
}
_SIGNED_NAMES = {1: "char", 2: "short int", 4: "int", 8: "long int"}
_UNSIGNED_NAMES = {1: "unsigned char", 2: "short unsigned int", 4: "unsigned int", 8: "long unsigned int"}


class IsfTypes:
    """The types of a :class:`Btf` as the parts ``base_types``, ``user_types`` and ``enums`` of an ISF."""

    def __init__(self, types: Btf) -> None:
        self._btf = types
        self._words: list[int] = types.words.tolist()
        self._starts: list[int] = types.starts.tolist()
        self._known: dict[int, Descriptor] = {}
        self._structs: dict[int, str] = {}  # id → name, for structures and unions
        self._by_name: dict[str, int] = {}
        self._typedefs: dict[int, str] = {}  # id of a typedef of a structure → the name it gives
        self._enums: dict[int, str] = {}
        self._heights: dict[int, int] = {}
        self._give_names()
        # Up to Linux 6.0 enumerators are signed 32-bit numbers; since then a flag tells (6089fb325cf7).
        self._flagged = any(self._words[at + 1] >> 31 for at in self._starts if self._kind(at) in _ENUMS)
        self.base_types = self._base_types()
        self.user_types = self._user_types()
        self.enums = {name: self._enum(self._starts[type_id - 1]) for type_id, name in self._enums.items()}

    # Names ----------------------------------------------------------------------------------------

    def _kind(self, at: int) -> int:
        return self._words[at + 1] >> 24 & 0x7F

    def _at(self, type_id: int) -> int | None:
        return self._starts[type_id - 1] if 1 <= type_id <= len(self._starts) else None

    def _give_names(self) -> None:
        """Give every structure, union and enumeration the name it has in the ISF; of equal names the largest has it."""
        words = self._words
        enums: dict[str, int] = {}
        structs: list[tuple[int, int]] = []
        typedefs: list[tuple[int, int]] = []
        for type_id, at in enumerate(self._starts, 1):
            kind = words[at + 1] >> 24 & 0x7F
            if kind in _STRUCTS:
                structs.append((type_id, at))
            elif kind in _ENUMS and words[at + 1] & 0xFFFFFF:
                self._enums[type_id] = self._own(words[at], type_id, enums)
            elif kind == btf.TYPEDEF:
                typedefs.append((type_id, words[at + 2]))
        for type_id, at in sorted(structs, key=lambda struct: -words[struct[1] + 2]):
            self._structs[type_id] = self._own(words[at], type_id, self._by_name)
        for type_id, target in typedefs:
            if target in self._structs:
                name = self._btf.string(words[self._starts[type_id - 1]])
                if self._by_name.setdefault(name, target) == target:
                    self._typedefs[type_id] = name

    def _own(self, offset: int, type_id: int, taken: dict[str, int]) -> str:
        name = self._btf.string(offset) if offset else f"unnamed_{type_id:x}"
        if name in taken:
            name = f"{name}__{type_id:x}"
        taken[name] = type_id
        return name

    # Types ----------------------------------------------------------------------------------------

    def named(self, name: str) -> Descriptor | None:
        """The structure, union, enum or base type called ``name``, also by a typedef; None if there is none."""
        if name in self._by_name:
            return self._struct(self._by_name[name], name)
        if name in self.base_types:
            return {"kind": "base", "name": name}
        for type_id, own in self._enums.items():
            if own == name:
                return self.descriptor(type_id)
        return None

    def size(self, described: Descriptor) -> int:
        """Bytes of a type that is a structure, a base type or a pointer; 0 for others."""
        name = "pointer" if described["kind"] == "pointer" else described.get("name", "")
        known = self.user_types.get(name) or self.base_types.get(name)
        return int(known["size"]) if known else 0

    def descriptor(self, type_id: int, depth: int = 0) -> Descriptor:
        """What a member or variable of type ``type_id`` is; void where the chain of types is broken."""
        found = self._known.get(type_id)
        if found is None:
            found = self._describe(type_id, depth)
            if depth < _DEPTH:
                self._known[type_id] = found
        return found

    def _describe(self, type_id: int, depth: int) -> Descriptor:
        """The descriptor of a type that is not in ``_known`` yet; ``depth`` counts the types on the way to it."""
        at = self._at(type_id)
        if at is None or depth > _DEPTH:
            return VOID
        word = self._words[at + 2]
        kind = self._kind(at)
        if kind in _STRUCTS:
            return self._struct(type_id, self._structs[type_id])
        if kind == btf.PTR:
            return {"kind": "pointer", "subtype": self.descriptor(word, depth + 1)}
        if kind == btf.ARRAY:
            element, _, count = self._words[at + 3 : at + 6]
            return {"kind": "array", "count": count, "subtype": self.descriptor(element, depth + 1)}
        if kind == btf.TYPEDEF and type_id in self._typedefs:
            return self._struct(word, self._typedefs[type_id])
        if kind in (btf.TYPEDEF, btf.VOLATILE, btf.CONST, btf.RESTRICT, btf.TYPE_TAG):
            return self.descriptor(word, depth + 1)
        if kind in (btf.INT, btf.FLOAT):
            return {"kind": "base", "name": self._btf.string(self._words[at])}
        if kind in _ENUMS:
            if type_id in self._enums:
                return {"kind": "enum", "name": self._enums[type_id]}
            # Declared only; gcc gives an int to a member of such a type.
            return {"kind": "base", "name": _UNSIGNED_NAMES.get(word, "unsigned int")}
        if kind == btf.FWD:
            union = self._words[at + 1] >> 31
            return {"kind": "union" if union else "struct", "name": self._btf.string(self._words[at])}
        return FUNCTION if kind in (btf.FUNC, btf.FUNC_PROTO) else VOID

    def _struct(self, type_id: int, name: str) -> Descriptor:
        kind = self._kind(self._starts[type_id - 1])
        return {"kind": "union" if kind == btf.UNION else "struct", "name": name}

    def _base_types(self) -> dict[str, Any]:
        """The part ``base_types``: the names programs look up, then BTF's own integers and floats."""
        found = {
            name: {"size": size, "signed": signed, "kind": kind, "endian": "little"}
            for name, (size, signed, kind) in _BASE_TYPES.items()
        }
        for at in self._starts:
            kind = self._kind(at)
            if kind not in (btf.INT, btf.FLOAT):
                continue
            name = self._btf.string(self._words[at])
            encoding = self._words[at + 3] >> 24 & 0xF if kind == btf.INT else _INT_SIGNED
            what = "int"
            if kind == btf.FLOAT or name in ("float", "double", "long double"):  # INT before there was FLOAT (5.13)
                what, encoding = "float", _INT_SIGNED
            elif encoding & _INT_BOOL:
                what = "bool"
            elif self._words[at + 2] == 1 and name.endswith("char"):
                what = "char"
            found[name] = {
                "size": self._words[at + 2],
                "signed": bool(encoding & _INT_SIGNED),
                "kind": what,
                "endian": "little",
            }
        if not found.get("signed char", {"signed": True})["signed"]:
            # By a pahole that did not tell: up to Linux 6.1 a plain char is signed too (3bc753c06dd0).
            found["signed char"]["signed"] = found["char"]["signed"] = True
        return found

    def _enum(self, at: int) -> dict[str, Any]:
        """The enumeration whose description begins at word ``at``."""
        words = self._words
        info, size = words[at + 1], words[at + 2]
        wide = self._kind(at) == btf.ENUM64
        bits, step = (64, 3) if wide else (32, 2)
        constants = {}
        signed = bool(info >> 31) or not (self._flagged or wide)
        negative = False
        for entry in range(at + 3, at + 3 + step * (info & 0xFFFFFF), step):
            value = words[entry + 1] | (words[entry + 2] << 32 if wide else 0)
            if signed and value >> (bits - 1):
                value -= 1 << bits
                negative = True
            constants[self._btf.string(words[entry])] = value
        names = _SIGNED_NAMES if negative else _UNSIGNED_NAMES
        return {"size": size, "base": names.get(size, "unsigned int"), "constants": dict(sorted(constants.items()))}

    def _user_types(self) -> dict[str, Any]:
        found = {}
        for name, type_id in self._by_name.items():
            at = self._starts[type_id - 1]
            kind = "union" if self._kind(at) == btf.UNION else "struct"
            found[name] = {"kind": kind, "size": self._words[at + 2], "fields": self._fields(at)}
        return found

    def _fields(self, at: int) -> dict[str, Any]:
        """The members of the structure whose description begins at word ``at``, by name."""
        fields: dict[str, Any] = {}
        unnamed = 0
        for name, type_id, offset, bits in self._members(at):
            described = self.descriptor(type_id)
            if not name:
                if described["kind"] in ("struct", "union") and self._height(type_id) < _NESTING:
                    label = f"unnamed_field_{unnamed:x}"
                    fields[label] = {"type": described, "offset": offset // 8, "anonymous": True}
                    unnamed += 1
            elif bits:
                if described["kind"] in ("base", "enum"):
                    bitfield = {"kind": "bitfield", "bit_position": offset % 8, "bit_length": bits, "type": described}
                    fields[name] = {"type": bitfield, "offset": offset // 8}
            else:
                fields[name] = {"type": described, "offset": offset // 8}
        return dict(sorted(fields.items()))

    def _members(self, at: int) -> Iterator[tuple[str, int, int, int]]:
        """(name, type id, offset in bits, bits if a bit field) of the members of the structure at ``at``."""
        words = self._words
        info = words[at + 1]
        packed = info >> 31  # then the offset holds the width as well
        string = self._btf.string
        for entry in range(at + 3, at + 3 + 3 * (info & 0xFFFFFF), 3):
            name, type_id, offset = words[entry : entry + 3]
            text = string(name) if name else ""
            if packed:
                yield text, type_id, offset & 0xFFFFFF, offset >> 24
            else:
                yield text, type_id, offset, 0

    def _height(self, type_id: int, depth: int = 0) -> int:
        """How deep unnamed members nest in the structure ``type_id``; in damaged types without an end."""
        if depth >= _NESTING:
            return _NESTING
        known = self._heights.get(type_id)
        if known is None:
            at = self._at(type_id)
            for _ in range(_DEPTH):
                if at is None or self._kind(at) not in (btf.TYPEDEF, btf.CONST, btf.VOLATILE, btf.TYPE_TAG):
                    break
                at = self._at(self._words[at + 2])
            if at is None or self._kind(at) not in _STRUCTS:
                return 0
            inner = [self._height(member, depth + 1) for name, member, _, _ in self._members(at) if not name]
            known = self._heights[type_id] = 1 + max(inner, default=0)
        return known

    def unnamed_with(self, members: tuple[str, ...]) -> Descriptor | None:
        """The first structure without a name whose first members are called ``members``."""
        for type_id, at in enumerate(self._starts, 1):
            if type_id in self._structs and not self._words[at]:
                names = tuple(name for name, *_ in self._members(at))
                if names[: len(members)] == members:
                    return self._struct(type_id, self._structs[type_id])
        return None
