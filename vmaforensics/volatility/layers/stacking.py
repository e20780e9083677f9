# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Physical layers without the search for a kernel.

For any layer requirement volatility3 stacks container formats first and then scans the whole image for the
banner of every kernel it has a symbol file for: seconds per GiB, for an address space that the engine finds
for itself. A plugin that asks for a :class:`PhysicalLayerRequirement` is served before that happens.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from volatility3 import framework
from volatility3.framework import constants, interfaces
from volatility3.framework.automagic.stacker import LayerStacker
from volatility3.framework.configuration.requirements import TranslationLayerRequirement

from vmaforensics.volatility.layers.kernel_stacker import LinuxKernelStacker

if TYPE_CHECKING:
    from collections.abc import Callable

    from volatility3.framework.interfaces.configuration import RequirementInterface
    from volatility3.framework.interfaces.context import ContextInterface

# Here volatility3 keeps its stackers of address spaces; those of formats are in volatility3.framework.layers.
_ADDRESS_SPACES = "volatility3.framework.automagic."


class PhysicalLayerRequirement(TranslationLayerRequirement):  # type: ignore[misc]  # volatility3 is untyped
    """Any layer will do, and the one that holds physical memory is enough."""


class PhysicalStacker(interfaces.automagic.AutomagicInterface):  # type: ignore[misc]
    """Stacks container formats, and nothing else, for plugins that ask for physical memory only.

    volatility3 finds this class among the subclasses of its base. If it does not get anywhere, volatility3's
    own :class:`LayerStacker` (priority 10) has its turn as usual.
    """

    priority = 5
    exclusion_list = ("mac", "windows")

    def __call__(
        self,
        context: ContextInterface,
        config_path: str,
        requirement: RequirementInterface,
        progress_callback: Callable[[float, str], None] | None = None,
    ) -> None:
        if not any(isinstance(inner, PhysicalLayerRequirement) for inner in requirement.requirements.values()):
            return
        join = interfaces.configuration.path_join
        given = join(constants.AUTOMAGIC_CONFIG_PATH, LayerStacker.__name__)
        location = context.config.get(join(given, "single_location"), None)
        if location is None:
            return
        framework.import_files(sys.modules["volatility3.framework.layers"])
        known = framework.class_subclasses(interfaces.automagic.StackerLayerInterface)
        formats = {
            stacker.__name__
            for stacker in known
            if not stacker.__module__.startswith(_ADDRESS_SPACES) and stacker is not LinuxKernelStacker
        }
        chosen = context.config.get(join(given, "stackers"), None)  # those for this system, or the user's
        if chosen:
            formats &= set(chosen)
        context.config[join(self.config_path, "single_location")] = location
        context.config[join(self.config_path, "stackers")] = sorted(formats)
        LayerStacker(context, self.config_path)(context, config_path, requirement, progress_callback)
