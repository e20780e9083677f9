"""The names of machines: whose dumps are read, and whose are known and refused. Loads nothing else."""

from __future__ import annotations

READ = ("x86-64",)  # names of the architectures of :mod:`vmaforensics.arch.known`

# What ``uname -m`` says on machines that Linux dumps memory of and that are not read here.
OTHER_MACHINES = frozenset(
    (
        *("aarch64", "aarch64_be", "arm64", "armv7l", "i386", "i486", "i586", "i686", "ia64", "loongarch64", "mips"),
        *("mips64", "parisc64", "ppc", "ppc64", "ppc64le", "riscv32", "riscv64", "s390", "s390x", "sparc64"),
    )
)

# The e_machine of their ELF files, and its name without EM_ (elf.h)
OTHER_ELF_MACHINES = {
    2: "SPARC",
    3: "386",
    8: "MIPS",
    15: "PARISC",
    20: "PPC",
    21: "PPC64",
    22: "S390",
    40: "ARM",
    43: "SPARCV9",
    50: "IA_64",
    183: "AARCH64",
    243: "RISCV",
    258: "LOONGARCH",
}


def refusal(machine: str) -> str:
    """The end of the sentence that refuses a dump of another ``machine``: what it is of, and what reads it."""
    return (
        f"is the dump of another machine ({machine}), only {', '.join(READ)} is read; open it with drgn or a crash "
        "built for it"
    )
