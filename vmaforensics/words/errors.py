"""Error numbers of Linux by name (include/uapi/asm-generic/errno*.h, include/linux/errno.h)."""

from __future__ import annotations

from typing import Final

_FIRST: Final = (
    "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY "
    "EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE "
    "EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP"
)
_OTHERS: Final = {
    42: "ENOMSG",
    61: "ENODATA",
    62: "ETIME",
    71: "EPROTO",
    74: "EBADMSG",
    75: "EOVERFLOW",
    84: "EILSEQ",
    95: "EOPNOTSUPP",
    110: "ETIMEDOUT",
    111: "ECONNREFUSED",
    113: "EHOSTUNREACH",
    114: "EALREADY",
    115: "EINPROGRESS",
    116: "ESTALE",
    117: "EUCLEAN",
    122: "EDQUOT",
    125: "ECANCELED",
    126: "ENOKEY",
    130: "EOWNERDEAD",
    131: "ENOTRECOVERABLE",
    133: "EHWPOISON",
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    524: "ENOTSUPP",
    529: "EIOCBQUEUED",
}
_NAMES: Final = {**dict(enumerate(_FIRST.split(), 1)), **_OTHERS}
MAX_ERRNO: Final = 4095  # include/linux/err.h


def error_name(number: int) -> str:
    """The name of an error, or its number where it has none here.

    >>> error_name(22), error_name(4000)
    ('EINVAL', '4000')
    """
    return _NAMES.get(number, str(number))
