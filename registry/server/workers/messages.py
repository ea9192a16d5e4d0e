"""What a member and its workers say to each other, over the socket that each worker is started with.

Each message stands behind its length. The two run the same release, which the first one makes sure of, so nothing here
needs to outlive one.
"""

from __future__ import annotations

from msgspec import Struct, msgpack

from cluster.api import ClusterStatus
from registry.core.model import Registry
from registry.server.delivery_metrics import Delivered
from registry.server.metrics import Growth

# From a worker. What has a `call` is answered, each by its number.


class Propose(Struct, array_like=True, tag=1):
    call: int
    command: bytes
    timeout_s: float


class Barrier(Struct, array_like=True, tag=2):
    """For all who asked for one until now."""

    call: int
    timeout_s: float


class Ask(Struct, array_like=True, tag=3):
    """Something that only the member can do. Answered by a Done; of a stream, by Items and a Done, or by a Failed."""

    call: int
    method: str
    request: bytes
    timeout_s: float  # of a stream: without meaning


class Took(Struct, array_like=True, tag=4):
    """An Item has reached the caller."""

    call: int


class Cancel(Struct, array_like=True, tag=5):
    """Nobody waits for the answer any more."""

    call: int


class Vitals(Struct, array_like=True, tag=6):
    """Once in a while: the worker is alive."""

    growth: Growth
    delivered: Delivered
    polls: int
    watches: int


class Damage(Struct, array_like=True, tag=7):
    what: str


class Ready(Struct, array_like=True, tag=8):
    """The first one: the worker has started, and takes its Hello."""


# From the member. Answers:


class Done(Struct, array_like=True, tag=21):
    call: int
    result: bytes = b""


class Undone(Struct, array_like=True, tag=22):
    """A proposal or a barrier; `kind` names the exception of cluster.api."""

    call: int
    kind: str
    text: str


class Item(Struct, array_like=True, tag=23):
    call: int
    data: bytes


class Failure(Struct, array_like=True):
    """A RegistryError. `reason` empty: it was none, and the member's log has it."""

    reason: str
    message: str
    hint: str
    metadata: dict[str, str]


class Failed(Struct, array_like=True, tag=24):
    """None: it was cancelled."""

    call: int
    failure: Failure | None


# and what happens. News about a commit is sent once every snapshot shows it, and before what follows from it.


class Place(Struct, array_like=True, tag=26):
    """Which generation of the environment counts."""

    place: str


class Commit(Struct, array_like=True, tag=27):
    """`touched`: pointers, and `reported`: the agents that reported for them; None: any may have."""

    registry: Registry
    touched: list[tuple[str, str]] | None
    reported: list[tuple[str, str, list[str]]] | None


class Purged(Struct, array_like=True, tag=28):
    pass


class State(Struct, array_like=True, tag=29):
    """Of the member, once in a while and when something has changed."""

    status: ClusterStatus
    leader_address: str
    unready: str  # why; empty: ready
    held: Failure | None  # what calls are refused with


class Hello(Struct, array_like=True, tag=25):
    """To a worker that is ready: what holds at this moment, and changes by what follows."""

    release: str
    config: bytes
    place: str
    registry: Registry
    state: State


class Drain(Struct, array_like=True, tag=30):
    """The member stops: so does the worker, once its calls have ended."""


Up = Propose | Barrier | Ask | Took | Cancel | Vitals | Damage | Ready
Down = Done | Undone | Item | Failed | Hello | Place | Commit | Purged | State | Drain

encode = msgpack.Encoder().encode
decode_up = msgpack.Decoder(Up).decode
decode_down = msgpack.Decoder(Down).decode
