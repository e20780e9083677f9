"""Many images: one task each on a Dask cluster, one dataset of Parquet files, and one page over all machines."""

from __future__ import annotations
