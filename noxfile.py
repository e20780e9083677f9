"""``nox``: the oldest and the newest volatility3 and NumPy that are supported."""

from __future__ import annotations

import nox

OLDEST, NEWEST = "2.26.0", "2.28.2"  # as docs/volatility3.md states them


@nox.session(reuse_venv=True)
@nox.parametrize("version", [OLDEST, NEWEST])
def vol(session: nox.Session, version: str) -> None:
    """tests/volatility with one release of volatility3."""
    session.install(".[test]", f"volatility3=={version}")
    session.run("python", "-m", "pytest", "-n", "0", "tests/volatility", *session.posargs)


@nox.session(reuse_venv=True)
@nox.parametrize("version", ["2.1.0", "2.*"])
def numpy(session: nox.Session, version: str) -> None:
    """The fast tests with one release of NumPy."""
    session.install(".[test]", f"numpy=={version}")
    session.run("python", "-m", "pytest", "-n", "0", "-m", "not image", *session.posargs)
