"""bzImage: where the packed kernel lies in it (Documentation/arch/x86/boot.rst)."""

from __future__ import annotations

import struct

_MAGIC, _MAGIC_AT = b"HdrS", 0x202
_SETUP_SECTORS_AT, _SECTOR, _SETUP_DEFAULT = 0x1F1, 512, 4
_PAYLOAD = struct.Struct("<II")  # payload_offset, payload_length (protocol 2.08)
_PAYLOAD_AT = 0x248


def boot_payload(raw: bytes) -> bytes | None:
    """The packed kernel of a bzImage; None if ``raw`` is none, or says that it lies beyond its end."""
    if raw[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC or len(raw) < _PAYLOAD_AT + _PAYLOAD.size:
        return None
    offset, length = _PAYLOAD.unpack_from(raw, _PAYLOAD_AT)
    start = ((raw[_SETUP_SECTORS_AT] or _SETUP_DEFAULT) + 1) * _SECTOR + offset
    return raw[start : start + length] if 0 < length <= len(raw) - start else None
