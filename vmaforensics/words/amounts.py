"""Numbers of things and amounts of memory, for people."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def plural(count: int, noun: str, ending: str = "s") -> str:
    """``noun`` in the number that fits ``count``.

    >>> plural(1, "process", "es"), plural(2, "process", "es")
    ('process', 'processes')
    """
    return noun if count == 1 else noun + ending


def counted(count: int, noun: str, ending: str = "s") -> str:
    """``count`` things.

    >>> counted(1, "page"), counted(2048, "page")
    ('1 page', '2,048 pages')
    """
    return f"{count:,} {plural(count, noun, ending)}"


def amount(size: int) -> str:
    """``size`` bytes in the largest unit that leaves at least one.

    >>> amount(772 << 10), amount(46_500_000_000_000)
    ('772 KiB', '42.3 TiB')
    """
    value, unit = float(size), 0
    while round(value, 1) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f}".removesuffix(".0") + f" {_UNITS[unit]}"


def pages(count: int, size: int) -> str:
    """``count`` pages of ``size`` bytes, and how much that is; MiB are rounded down.

    >>> pages(5, 4096)
    '5 pages, 20 KiB'
    """
    kib = count * size >> 10
    return f"{count} {plural(count, 'page')}, {f'{kib} KiB' if kib < 10240 else f'{kib // 1024} MiB'}"
