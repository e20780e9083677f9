"""What addresses lead to, as a document: what ``what --format json`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.crash.pointer_parts import near_parts, pointer_part
from vmaforensics.crash.pointers_document import NearPart, PointerPart  # noqa: TC001 - msgspec reads the annotations
from vmaforensics.crash.pointers_text import near_lines, pointer_lines
from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.nearly import one_byte_off
from vmaforensics.views.objects.places import Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.views.objects.surroundings import Surroundings

_WILD = (Place.UNMAPPED, Place.NON_CANONICAL)


class WhatSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which format this is."""

    name: str = "vmaforensics-what"
    version: str = "1.0"


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one address is; of one that leads nowhere, the objects in use that one changed byte is away."""

    pointer: PointerPart
    nearly: list[NearPart]


class WhatDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answers, in the order of the questions."""

    schema: WhatSchema
    answers: list[Answer]


def what_document(surroundings: Surroundings, asked: Mapping[str, int], mm: int | None) -> WhatDocument:
    """What each of ``asked`` leads to, which has the values by what they are called; ``mm`` as of ``explain``."""
    meanings = explain(surroundings, np.array(list(asked.values()), np.uint64), mm)
    return WhatDocument(
        schema=WhatSchema(),
        answers=[
            Answer(
                pointer=pointer_part(meaning, name if f"{meaning.value:x}" not in name else ""),
                nearly=near_parts(one_byte_off(surroundings, meaning.value) if meaning.place in _WILD else []),
            )
            for name, meaning in zip(asked, meanings, strict=True)
        ],
    )


def render_what(document: WhatDocument) -> str:
    """The answers as text."""
    lines: list[str] = []
    for answer in document.answers:
        lines += pointer_lines(answer.pointer)
        for near in answer.nearly:
            lines += near_lines(near)
    return "\n".join(lines) + "\n"
