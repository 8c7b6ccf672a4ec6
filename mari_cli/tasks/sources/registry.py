"""Every source of support that is asked before step 1, by its name.

`neighbours` is none of them: the run stores its reference anyway, and finds the neighbours in it
(models/context.py).
"""

from mari_cli.losses.support import SupportSource
from mari_cli.tasks.sources import assistant, base, gold, reinforced, siblings, twins
from mari_cli.tasks.sources.source import Source

SOURCES: dict[SupportSource, Source] = {
    SupportSource.twins: twins,
    SupportSource.base: base,
    SupportSource.siblings: siblings,
    SupportSource.assistant: assistant,
    SupportSource.reinforced: reinforced,
    SupportSource.gold: gold,
}
