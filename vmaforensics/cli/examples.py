"""What ``--help`` and the man page show in addition to options: examples of each verb, exit codes, environment."""

from __future__ import annotations

# A command, and what it is for; tests run each on an image of their own.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "report": (
        ("vmaforensics report vmcore", "the verdict, and what to look at next"),
        ("vmaforensics report vmcore -v", "all evidence, every process"),
        ("vmaforensics report vmcore --pid 1234", "one process, all its regions"),
        ("vmaforensics report vmcore --format json -o case.json", "to keep, and to render again"),
        ("vmaforensics report case.json --format html -o case.html", "one file for a browser, without the image"),
        ("vmaforensics report vmcore --fail-on high -q", "exit code 1 if there is a finding of weight"),
    ),
    "info": (("vmaforensics info memory.lime", "format, kernel, what is missing"),),
    "crash": (
        ("vmaforensics crash vmcore", "how the kernel ended, who it was, the end of its log"),
        ("vmaforensics crash vmcore --format json -o crash.json", "for a program: fingerprint, trace, modules"),
    ),
    "log": (
        ("vmaforensics log vmcore", "as dmesg prints it; what programs wrote is marked"),
        ("vmaforensics log vmcore --level err --since 3600", "what went wrong after the first hour"),
        ("vmaforensics log vmcore --format json -o log.json", "with levels, callers and the states of records"),
    ),
    "what": (
        ("vmaforensics what vmcore ffff8dffd4bd2b90", "the object it lies in, its member, whose it is"),
        ("vmaforensics what vmcore 7f3c5a000000 --pid 1234", "the VMA of a user address"),
        ("vmaforensics what vmcore jiffies init_task+0x890", "symbols, and what lies behind them"),
    ),
    "doctor": (
        ("vmaforensics doctor", "is the installation complete?"),
        ("vmaforensics doctor vmcore", "would a report of this image be complete?"),
    ),
    "maps": (
        ("vmaforensics maps vmcore --pid 1234", "/proc/1234/maps, byte for byte"),
        ("vmaforensics maps vmcore -o maps.txt", "of every process"),
    ),
    "smaps": (("vmaforensics smaps vmcore --pid 1234", "/proc/1234/smaps"),),
    "views": (
        ("vmaforensics views vmcore --pid 1234", "every region in every record"),
        ("vmaforensics views vmcore --pid 1234 --at 7f3c5a000000", "one region, decoded, and the way to its pages"),
    ),
    "pages": (
        ("vmaforensics pages vmcore --pid 1234", "runs of equal page-table entries"),
        ("vmaforensics pages vmcore --pid 1234 --at 7f3c5a000000 --each", "every entry of one region"),
        ("vmaforensics pages vmcore --file /usr/bin/bash", "who maps, runs or has opened a file"),
        ("vmaforensics pages vmcore --pid 1234 --format csv -o pages.csv", "for a spreadsheet"),
    ),
    "extract": (
        ("vmaforensics extract vmcore --pid 1234 --at 7f3c5a000000 -o region", "the bytes of a region"),
        ("vmaforensics extract vmcore --finding 0123456789ab -o evidence", "those a finding is about"),
        ("vmaforensics extract vmcore --executable -o code", "all code of all processes, each content once"),
    ),
    "core": (("vmaforensics core vmcore --pid 1234 -o core.1234", "for gdb, lldb, pwndbg: hidden memory included"),),
    "scan": (
        ("vmaforensics scan vmcore --yara rules/", "all memory, with the rules of a folder"),
        ("vmaforensics scan vmcore --yara one.yar --pid 1234 --format json", "one process, for a program"),
        ("vmaforensics scan vmcore --strings 12 --in unowned,free", "strings in frames that nobody owns"),
    ),
    "sql": (
        ("vmaforensics sql case.json 'SELECT pid, comm, count(*) FROM vmas GROUP BY ALL'", "a saved report"),
        ("vmaforensics sql vmcore .schema", "the tables, and their columns"),
        ("vmaforensics sql vmcore 'SELECT * FROM ptes WHERE vma = 0' --format csv", "entries without a VMA"),
    ),
    "excerpt": (
        ("vmaforensics excerpt vmcore -o small.kdump", "just what the analysis reads; no user memory"),
        ("vmaforensics excerpt vmcore --keep kernel -o kernel.kdump", "for drgn, crash and volatility3"),
    ),
    "isf": (("vmaforensics isf vmcore -o kernel.json.xz", "symbols and types for volatility3"),),
    "diff": (
        ("vmaforensics diff before.json after.json", "two saved reports of one machine"),
        ("vmaforensics diff before.kdump after.kdump", "or two images of it"),
    ),
    "fleet": (
        ("vmaforensics fleet evidence/ -o fleet", "every image of a folder; open fleet/index.html"),
        ("vmaforensics fleet evidence/ -o fleet --resume", "go on, or add what is new"),
        (
            "vmaforensics fleet --list images.txt -o today --baseline known-good",
            "what machines have beyond their peers",
        ),
    ),
    "explain": (
        ("vmaforensics explain", "all rules"),
        ("vmaforensics explain VMA-MISSING", "what a rule compares, and how to check it by hand"),
    ),
    "plugin-dir": (
        ('vol -p "$(vmaforensics plugin-dir)" -f vmcore linux.vmafindings.VmaFindings', "findings in volatility3"),
        ("vmaforensics plugin-dir --install", "from now on without -p"),
    ),
    "completion": (
        ("vmaforensics completion bash > ~/.local/share/bash-completion/completions/vmaforensics", "for bash"),
        ("vmaforensics completion zsh > ~/.zfunc/_vmaforensics", "for zsh, with ~/.zfunc in $fpath"),
        ("vmaforensics completion fish > ~/.config/fish/completions/vmaforensics.fish", "for fish"),
    ),
}

# Those of the whole command: one of each verb that is not obvious.
OVERVIEW = (
    ("vmaforensics report vmcore", "cross-check every process"),
    ("vmaforensics report vmcore --format html -o case.html", "a file to open, print and forward"),
    ("vmaforensics info memory.lime", "what is this image, and which kernel?"),
    ("vmaforensics views vmcore --pid 1234 --at 7f3c5a000000", "every record of a region, with addresses"),
    ("vmaforensics extract vmcore --pid 1234 --at 7f3c5a000000 -o DIR", "its bytes, and what is missing of them"),
    ("vmaforensics explain VMA-MISSING", "what a rule compares, innocent causes"),
    ("vmaforensics doctor vmcore", "why would a report be incomplete?"),
)

EXIT_CODES = (
    (0, "the analysis was completed, with findings or without"),
    (1, "findings at or above the severity given with --fail-on"),
    (2, "wrong usage: an unknown option, a pid that does not exist"),
    (10, "the image is missing or cannot be read"),
    (11, "the file is not an image of a supported format"),
    (12, "no Linux kernel, or no symbols or types for it, in the image"),
    (13, "completed, but no memory map could be read, or something could not be assessed and --strict was given"),
    (14, "the output exists already or cannot be written"),
    (15, "YARA rules cannot be read or compiled"),
    (20, "a saved document is invalid or of a newer schema"),
    (70, "internal error: a bug, please report it"),
    (129, "ended by SIGHUP, as when its terminal is closed"),
    (130, "interrupted"),
    (141, "the reader of the output went away"),
    (143, "ended by SIGTERM"),
)

ENVIRONMENT = (
    ("NO_COLOR", "if not empty: no colour, unless --color asks for it"),
    ("FORCE_COLOR", "if not empty: colour though stdout is no terminal"),
    ("COLUMNS", "width of the terminal, where it cannot be asked"),
    ("XDG_CACHE_HOME", "where is kept what was found, and symbol files for volatility3 (default: ~/.cache)"),
    ("VMAFORENSICS_NO_CACHE", "if not empty: as --no-cache"),
)


def epilog_of(verb: str) -> str:
    """What the help of a verb ends with."""
    if verb not in EXAMPLES:
        return ""
    return "examples:\n" + _commands(EXAMPLES[verb]) + "\n\nexit codes and environment: vmaforensics --help\n"


def epilog() -> str:
    """What the help of the command ends with."""
    codes = "\n".join(f"  {code:<4} {text}" for code, text in EXIT_CODES)
    names = "\n".join(f"  {name:21} {text}" for name, text in ENVIRONMENT)
    return (
        f"examples:\n{_commands(OVERVIEW)}\n\n`vmaforensics VERB --help` has examples of each verb.\n\n"
        f"exit codes:\n{codes}\n\nenvironment:\n{names}\n"
    )


def _commands(examples: tuple[tuple[str, str], ...]) -> str:
    """Each command with what it is for beside it, or above it where it is long."""
    short = max((len(command) for command, _ in examples if len(command) <= 58), default=0)
    return "\n".join(
        f"  {command:{short}}  {text}" if len(command) <= short else f"  # {text}\n  {command}"
        for command, text in examples
    )
