"""A page taken apart by Python's own parser."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """``tags``: every start tag with its attributes, in order. ``text``: what a reader sees, words apart by single
    blanks, style and script left out. ``raw``: the contents of style and script."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.open: list[str] = []
        self._pieces: list[str] = []
        self.feed(page.decode())
        self.close()
        self.text = " ".join("".join(self._pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        self.open.append(tag)
        self._pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass
        self._pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
        else:
            self._pieces.append(data)

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name == attribute]
