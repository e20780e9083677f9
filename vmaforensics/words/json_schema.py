"""The JSON Schema of a document, in the same words whichever release of msgspec and Python makes it."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec


def json_schema_of(document: type[msgspec.Struct], title: str) -> dict[str, object]:
    """The JSON Schema (2020-12) of a class of documents, as ``json.dumps`` takes it."""
    identity: dict[str, object] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    made: dict[str, object] = _dedented(msgspec.json.schema(document))
    return identity | made


def _dedented(part: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """Descriptions are docstrings, which not every release takes the indentation from (msgspec up to 0.22)."""
    if isinstance(part, dict):
        return {
            key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _dedented(value)
            for key, value in part.items()
        }
    return [_dedented(one) for one in part] if isinstance(part, list) else part
