"""Every source of support that is asked before step 1, by its name.

`neighbours` is none of them: the run stores its reference anyway, and finds the neighbours in it
(models/context.py).
"""

from mari_cli.losses.support import SupportSource
from mari_cli.tasks.sources.assistant import ASSISTANT
from mari_cli.tasks.sources.base import BASE
from mari_cli.tasks.sources.gold import GOLD
from mari_cli.tasks.sources.reinforced import REINFORCED
from mari_cli.tasks.sources.siblings import SIBLINGS
from mari_cli.tasks.sources.source import Source
from mari_cli.tasks.sources.twins import TWINS

SOURCES: dict[SupportSource, Source] = {
    SupportSource.twins: TWINS,
    SupportSource.base: BASE,
    SupportSource.siblings: SIBLINGS,
    SupportSource.assistant: ASSISTANT,
    SupportSource.reinforced: REINFORCED,
    SupportSource.gold: GOLD,
}
