"""What inspecting and comparing return, and the shape of one format."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, get_args

from msgspec import Struct, field

from registry.formats.reading.document import Document
from registry.formats.values.words import Word

Value: TypeAlias = Any  # dict[str, Value] | list[Value] | str | int | float | bool | None
Sign = Literal["+", "-", "~"]
Level = Literal["ok", "warn", "confirm", "block"]
LEVELS: tuple[Level, ...] = get_args(Level)  # from harmless to worst


class Finding(Struct, frozen=True, kw_only=True):
    """Something that is wrong, or may be, with one version or with going from one to another. Texts are masked."""

    code: str  # stable: `edge_dangling`, `model_changed`; listed in docs/compare.md
    level: Level
    text: str  # for people: what, where, and why it matters
    where: str = ""  # title of the node, or path


class Verdict(Struct, kw_only=True):
    """Whether a switch from the old version to the new one may go on, and how much it changes."""

    level: Level = "ok"  # of its worst reason
    change: Literal["none", "minor", "medium", "major"] = "none"
    reasons: list[Finding] = []  # worst first


class Secret(Struct, frozen=True, kw_only=True):
    """A value that its format declares secret. `path`: keys and indexes from the top of the value."""

    name: str
    path: tuple[str | int, ...]
    value: str


class Inspection(Struct, frozen=True, kw_only=True):
    """What content is. Digests name their rules: `v1:` the canonical value, `s1:` the same without noise."""

    kind: str
    value_digest: str
    semantic_digest: str
    facts: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    requires: tuple[str, ...] = ()


class Change(Struct, kw_only=True):
    """One difference. `old` and `new` are bounded and masked: for people. `path` is inside `where` (a node, a list)."""

    sign: Sign
    path: str
    old: Value = None
    new: Value = None
    where: str = ""
    masked: bool = False  # a secret was hidden: equal looking values do differ
    diff: list[str] = []  # of texts with several lines: unified, bounded
    words: list[Word] = []  # of long texts that have words in common: `[op, text]`, as in `words.Word`
    shown_as: str = ""  # `model`, `input`, `output`: also listed under models or variables


class Node(Struct, kw_only=True):
    id: str
    type: str
    title: str


class NodeChange(Struct, kw_only=True):
    id: str
    old_id: str
    type: str
    title: str
    changes: list[Change]


class Rematch(Struct, kw_only=True):
    """A node found again under another id, by type, title and content."""

    old_id: str
    new_id: str
    type: str
    title: str


class Nodes(Struct, kw_only=True):
    added: list[Node] = []
    removed: list[Node] = []
    changed: list[NodeChange] = []
    rematched: list[Rematch] = []
    moved: list[Node] = []  # layout: not part of the meaning


class Edge(Struct, kw_only=True):
    source: str
    source_title: str
    source_handle: str
    branch: str  # what the handle means: `else`, a class name, `on failure`; empty: the only way out
    target: str
    target_title: str
    target_handle: str


class Edges(Struct, kw_only=True):
    added: list[Edge] = []
    removed: list[Edge] = []


class VariableChange(Struct, kw_only=True):
    scope: Literal["environment", "conversation", "input", "output"]
    name: str
    sign: Sign
    changes: list[Change] = []
    where: str = ""  # the node of an input or output


class ModelName(Struct, kw_only=True):
    provider: str  # short: `openai` for `langgenius/openai/openai`
    name: str


class ModelChange(Struct, kw_only=True):
    where: str  # title of the node
    path: str
    sign: Sign
    old: ModelName | None = None
    new: ModelName | None = None


class DependencyChange(Struct, kw_only=True):
    name: str
    sign: Sign
    old: str = ""  # version
    new: str = ""
    detail: str = ""  # what changed beside the version


class SecretChange(Struct, kw_only=True):
    """Of a value that is not kept. Which one it is, and never what it is."""

    name: str
    sign: Sign


class Layout(Struct, kw_only=True):
    """Noise, counted and not listed."""

    moved: int = 0  # nodes and notes at another position
    redrawn: int = 0  # nodes, notes and edges with another size, selection, id of an edge ...
    derived: int = 0  # parts whose filled-in or plugin-given fields differ
    reordered: list[str] = []  # lists without order whose order differs
    viewport: bool = False


class Side(Struct, kw_only=True):
    kind: str
    digest: str
    value_digest: str
    semantic_digest: str
    size_bytes: int
    facts: dict[str, str]


class Comparison(Struct, kw_only=True):
    """What changed between two contents. Every field is always there; schema in docs/compare.md."""

    summary: str = ""
    identical: bool = False
    same_value: bool = False
    same_semantics: bool = False
    old: Side | None = None
    new: Side | None = None
    app: list[Change] = []
    models: list[ModelChange] = []
    nodes: Nodes = field(default_factory=Nodes)
    edges: Edges = field(default_factory=Edges)
    variables: list[VariableChange] = []
    secrets: list[SecretChange] = []  # that show in no content; only a registry knows them
    dependencies: list[DependencyChange] = []
    features: list[Change] = []
    changes: list[Change] = []  # by path: JSON, YAML, TOML, and what no other section holds
    text: list[Change] = []  # titles and descriptions
    annotations: list[Change] = []
    layout: Layout = field(default_factory=Layout)
    verdict: Verdict = field(default_factory=Verdict)
    diff: list[str] = []  # of texts
    words: list[Word] = []  # of texts
    lines_added: int = 0
    lines_removed: int = 0
    omitted: int = 0  # changes counted but not listed


class Read(Struct, frozen=True, kw_only=True):
    """Content read by its format. `value` is None for text and bytes; `view` is the format's own."""

    content: bytes
    text: str | None
    value_digest: str
    semantic_digest: str
    value: Value = None
    view: Any = None
    facts: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    repeated: bool = False  # a key stands twice in one mapping; see Parsed


class Format(Protocol):
    """One kind of content. Adding one: a file with a subclass of this, and a line in `registry.formats.kinds`."""

    kind: str

    def detect(self, document: Document) -> bool:
        """Whether content of unnamed kind is of this one."""
        ...

    def read(self, document: Document) -> Read:
        """Value, digests and facts. Raises Invalid(INVALID_CONTENT), with line and column where it can."""
        ...

    def compare(self, old: Read, new: Read) -> Comparison:
        """The sections that apply, and `summary`; the caller fills in flags, sides and verdict."""
        ...

    def check(self, read: Read) -> list[Finding]:
        """What is wrong with this one content, without knowing where it will run."""
        return []

    def secrets(self, read: Read) -> list[Secret]:
        """Values that the format itself declares secret, and that are there."""
        return []

    def requires(self, read: Read) -> list[str]:
        """Other workflows that this one calls: `dify-tool:NAME`, `n8n:ID`. Empty: none, or not known."""
        return []
