"""Kernels built by the recipe: what can be tested without building one."""

from __future__ import annotations

import sys

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "samples" / "recipe"))

import images
import kernels
import storms


@pytest.mark.parametrize("config", images.CONFIGS)
def test_each_part_of_a_configuration_has_a_file(config: str) -> None:
    for part in config.split("-"):
        lines = (kernels.CONFIGS / f"{part}.config").read_text().splitlines()
        assert lines[0].startswith("# ")
        assert f'CONFIG_LOCALVERSION="-{part}"' in lines


def test_every_series_is_asked_for_debugging_information() -> None:
    """A choice of versions since 5.18 (f9b3cd245784), before it an option of its own (lib/Kconfig.debug)."""
    lines = (kernels.CONFIGS / "small.config").read_text().splitlines()
    assert {"CONFIG_DEBUG_INFO=y", "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y"} <= set(lines)


def test_a_guest_at_work_may_have_a_kernel_that_was_built() -> None:
    work = storms.Work("6.1", config="lean-kasan-locks-numa", seed=3)
    assert work.name == "built-6.1-lean-kasan-locks-numa-work3"
    assert work.package == ("bookworm", "linux-source-6.1")
    assert "numa=fake=4 page_owner=on page_table_check=on init_on_free=1 vma_mode=work" in work.kernel_cmdline
    assert storms.Work("6.1").package == images.PACKAGES["6.1"]
