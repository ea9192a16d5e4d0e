from collections.abc import Callable, Iterable
from typing import Any

from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

PIPE_NOTIFIER_ENABLED: bool
monotonicTime: Callable[[], float]
createPoller: Callable[[object], object]
createJournal: Callable[[object], object]

class SyncObj:
    def __init__(
        self,
        selfNode: Node,
        otherNodes: Iterable[Node],
        conf: SyncObjConf,
        *,
        nodeClass: type[Node],
        transport: Transport,
    ) -> None: ...
    def doTick(self, timeToWait: float = ...) -> None: ...
    def transferLeadership(self, node: Node | None = ..., callback: Callable[..., Any] | None = ...) -> None: ...
    @property
    def raftCommitIndex(self) -> int: ...
    @property
    def raftLastApplied(self) -> int: ...
    @property
    def raftCurrentTerm(self) -> int: ...
    def _isLeader(self) -> bool: ...
    def _getLeader(self) -> Node | None: ...
