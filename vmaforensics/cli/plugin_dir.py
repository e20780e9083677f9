"""``vmaforensics plugin-dir``: where the volatility3 plugins are, and how volatility3 finds them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmaforensics.errors import ExitCode, OutputError
from vmaforensics.export.whole_file import whole_file

if TYPE_CHECKING:
    import argparse

_DESCRIPTION = """\
Print the directory to give to volatility3's -p:

  vol -p "$(vmaforensics plugin-dir)" -f IMAGE linux.vmafindings

With --install, volatility3's own settings (vol.json) name it, and plain `vol` finds the plugins; --uninstall takes
that back and leaves the other settings as they are.
"""
_KEY = "plugin_dirs"  # of vol.json: the default of vol's --plugin-dirs
_SEPARATOR = ";"  # on every system
_TAIL = ("vmaforensics", "volatility", "plugins")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    import argparse

    parser = verbs.add_parser(
        "plugin-dir",
        help="print the directory of the volatility3 plugins, or tell volatility3 of it",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--install", action="store_true", help="name the directory in volatility3's settings")
    what.add_argument("--uninstall", action="store_true", help="take it out of them again")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the directory, or change the settings and say how."""
    if args.install:
        changed = install(settings_path(), plugin_dir())
        sys.stdout.write(f"{settings_path()} {'now names' if changed else 'already named'} {plugin_dir()}\n")
    elif args.uninstall:
        changed = uninstall(settings_path())
        sys.stdout.write(f"{settings_path()} {'no longer names' if changed else 'did not name'} {plugin_dir()}\n")
    else:
        sys.stdout.write(f"{plugin_dir()}\n")
    return ExitCode.OK


def plugin_dir() -> Path:
    """The directory to give to volatility3, without importing volatility3."""
    return Path(__file__).parents[1].resolve().joinpath(*_TAIL[1:])


def settings_path() -> Path:
    """Where volatility3 looks for its settings (``CommandLine.load_system_defaults``)."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home(), "volatility3", "vol.json")
    return Path.home() / ".config" / "volatility3" / "vol.json"


def install(settings: Path, directory: Path) -> bool:
    """Have ``settings`` name ``directory``, in place of an older copy of ours; False if it does already.

    Raises :class:`OutputError` if the file is no JSON object, or cannot be read or written.
    """
    if _SEPARATOR in str(directory):
        raise OutputError(f"{directory} has a {_SEPARATOR!r} in it, which separates directories for volatility3")
    known = _read(settings)
    held = _named(known, settings)
    wanted = [path for path in held if not _ours(path)] + [str(directory)]
    if wanted == held:
        return False
    _write(settings, known | {_KEY: _SEPARATOR.join(wanted)})
    return True


def uninstall(settings: Path) -> bool:
    """Take our directory out of ``settings``, and the file away if nothing else is in it; False if it was not there.

    Raises :class:`OutputError` as :func:`install` does.
    """
    known = _read(settings)
    held = _named(known, settings)
    kept = [path for path in held if not _ours(path)]
    if kept == held:
        return False
    rest = {key: value for key, value in known.items() if key != _KEY}
    if kept:
        _write(settings, known | {_KEY: _SEPARATOR.join(kept)})
    elif rest:
        _write(settings, rest)
    else:
        settings.unlink()
        if not any(settings.parent.iterdir()):
            settings.parent.rmdir()
    return True


def _ours(directory: str) -> bool:
    return Path(directory).parts[-3:] == _TAIL


def _read(settings: Path) -> dict[str, Any]:
    try:
        known = json.loads(settings.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"{settings} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise OutputError(f"{settings} is not JSON ({error}); repair it or remove it") from None
    if not isinstance(known, dict):
        raise OutputError(f"{settings} is no JSON object; repair it or remove it")
    return known


def _named(known: dict[str, Any], settings: Path) -> list[str]:
    """The directories that the settings name."""
    value = known.get(_KEY, "")
    if not isinstance(value, str):
        raise OutputError(f"{_KEY} in {settings} is no string; repair it or remove it")
    return [path for path in value.split(_SEPARATOR) if path]


def _write(settings: Path, known: dict[str, Any]) -> None:
    try:
        settings.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {settings.parent}: {error.strerror}") from None
    with whole_file(settings) as stream:
        stream.write(json.dumps(known, indent=2).encode() + b"\n")
