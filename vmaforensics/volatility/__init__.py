"""The adapter between volatility3 and the engine. Under the Volatility Software License 1.0, like plugins/."""

from __future__ import annotations
