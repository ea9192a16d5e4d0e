"""The picture of a comparison, read back from its XML."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import formats
from registry.core.errors import Invalid, Reason
from registry.formats.graph.compare import compare_graphs
from registry.formats.graph.match import match
from registry.formats.graph.model import Edge, Graph, Node
from registry.formats.graph.rules import Rules
from registry.formats.limits import DRAWN_EDGES, DRAWN_NODES
from registry.formats.model import Comparison
from registry.formats.picture.draw import CLASSES, draw
from registry.formats.picture.routes import Curve, along
from registry.formats.picture.svg import squeezed, text_width, wrapped
from tests.unit.formats import kit

ROOT = Path(formats.__file__).parents[2]
NAMES = {str(sign): kind for sign, kind in CLASSES.items()}
SVG = "{http://www.w3.org/2000/svg}"


class Shape(NamedTuple):
    """A node as it was drawn."""

    id: str
    sign: str
    kind: list[str]  # classes
    x: float
    y: float
    width: float
    height: float
    moved: bool
    words: list[str]


class Drawn:
    def __init__(self, svg: str) -> None:
        self.svg = svg
        self.root = ElementTree.fromstring(svg)
        self.nodes = [_shape(group) for group in self.root.iter(f"{SVG}g") if "node" in _classes(group)]
        self.edges = [path for path in self.root.iter(f"{SVG}path") if path.get("data-sign")]
        self.texts = [text.text or "" for text in self.root.iter(f"{SVG}text")]

    def node(self, node_id: str) -> Shape:
        (found,) = [node for node in self.nodes if node.id == node_id]
        return found

    def signs(self) -> dict[str, str]:
        return {node.id: node.sign for node in self.nodes}

    def edge_signs(self) -> Counter[tuple[str | None, ...]]:
        return Counter(tuple(edge.get(f"data-{key}") for key in ("source", "target", "sign")) for edge in self.edges)


def _classes(element: ElementTree.Element) -> list[str]:
    return (element.get("class") or "").split()


def _shape(group: ElementTree.Element) -> Shape:
    rect = group.find(f"{SVG}rect")
    assert rect is not None
    x, y, width, height = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
    return Shape(
        id=group.get("data-id", ""),
        sign=group.get("data-sign", ""),
        kind=_classes(group),
        x=x,
        y=y,
        width=width,
        height=height,
        moved=group.get("data-moved") == "true",
        words=[text.text or "" for text in group.iter(f"{SVG}text")],
    )


def node(
    node_id: str, at: tuple[float, float] | None = None, *, inside: str = "", title: str = "", **config: str
) -> Node:
    return Node(id=node_id, type="step", title=title or f"Step {node_id}", config=dict(config), at=at, inside=inside)


def edge(source: str, target: str, handle: str = "") -> Edge:
    return Edge(source=source, source_handle=handle, target=target, target_handle="")


def drawn(old: Graph, new: Graph) -> Drawn:
    return Drawn(draw(old, new, compare_graphs(old, new, Rules()), rules=Rules()))


def chain(count: int, step: float = 300.0, **config: str) -> Graph:
    nodes = [node(f"n{index}", (index * step, 0.0), **config) for index in range(count)]
    return Graph(nodes=nodes, edges=[edge(f"n{index}", f"n{index + 1}") for index in range(count - 1)])


IDS = st.sampled_from([f"n{number}" for number in range(12)])
PLACES = st.none() | st.tuples(*[st.sampled_from([0.0, 40.0, 300.0, -1e9]) | st.floats(-1e6, 1e6)] * 2)


@st.composite
def graphs(draw_from: st.DrawFn) -> Graph:
    ids = draw_from(st.lists(IDS, unique=True, max_size=12))
    nodes = [
        node(each, draw_from(PLACES), inside=draw_from(st.just("") | IDS), value=draw_from(st.sampled_from("ab")))
        for each in ids
    ]
    ends = st.sampled_from(ids) if ids else st.nothing()
    edges = draw_from(st.lists(st.builds(edge, ends, ends, st.sampled_from(["", "if", "else"])), max_size=20))
    return Graph(nodes=nodes, edges=edges)


@given(graphs(), graphs())
def test_every_node_and_edge_of_both_graphs_is_drawn_once_with_its_sign(old: Graph, new: Graph) -> None:
    comparison = compare_graphs(old, new, Rules())
    picture = drawn(old, new)
    pairs = match(old.nodes, new.nodes, Rules())
    changed = {change.id for change in comparison.nodes.changed}
    expected = Counter((each.id, "-") for each in old.nodes if each.id not in pairs)
    for each in new.nodes:
        kept = "~" if each.id in changed else "="
        expected[each.id, kept if each.id in pairs.values() else "+"] += 1
    assert Counter((shape.id, shape.sign) for shape in picture.nodes) == expected
    assert all(NAMES[shape.sign] in shape.kind for shape in picture.nodes)
    signs = Counter(each.get("data-sign") for each in picture.edges)
    assert (signs["+"], signs["-"]) == (len(comparison.edges.added), len(comparison.edges.removed))
    assert signs["+"] + signs["="] == len({each.key for each in new.edges})


@given(graphs(), graphs())
def test_boxes_never_overlap_but_stand_inside_their_frames(old: Graph, new: Graph) -> None:
    shapes = drawn(old, new).nodes
    for position, one in enumerate(shapes):
        for other in shapes[position + 1 :]:
            apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
            apart_y = one.y + one.height <= other.y or other.y + other.height <= one.y
            assert apart_x or apart_y or _holds(one, other) or _holds(other, one)


def _holds(frame: Shape, inner: Shape) -> bool:
    return (
        "frame" in frame.kind
        and frame.x < inner.x
        and frame.y < inner.y
        and inner.x + inner.width < frame.x + frame.width
        and inner.y + inner.height < frame.y + frame.height
    )


@given(graphs(), graphs())
def test_edges_begin_and_end_at_the_sides_of_their_boxes(old: Graph, new: Graph) -> None:
    picture = drawn(old, new)
    for each in picture.edges:
        start, *_, stop = _curve(each)
        for end, point in (("data-source", start), ("data-target", stop)):
            assert any(_on_side(shape, *point) for shape in picture.nodes if shape.id == each.get(end))


def _curve(path: ElementTree.Element) -> Curve:
    a, b, c, d, e, f, g, h = (float(number) for number in re.findall(r"-?[\d.]+", path.get("d", "")))
    return (a, b), (c, d), (e, f), (g, h)


def _on_side(shape: Shape, x: float, y: float) -> bool:
    left, top = abs(x - shape.x) < 0.2, abs(y - shape.y) < 0.2
    right, bottom = abs(x - shape.x - shape.width) < 0.2, abs(y - shape.y - shape.height) < 0.2
    within_x = shape.x - 0.2 <= x <= shape.x + shape.width + 0.2
    within_y = shape.y - 0.2 <= y <= shape.y + shape.height + 0.2
    return ((left or right) and within_y) or ((top or bottom) and within_x)


@given(graphs(), graphs())
def test_everything_is_within_the_picture_and_the_same_again(old: Graph, new: Graph) -> None:
    picture = drawn(old, new)
    assert picture.svg == drawn(old, new).svg
    width, height = float(picture.root.get("width", "")), float(picture.root.get("height", ""))
    groups = (group for group in picture.root.iter(f"{SVG}g") if group.find(f"{SVG}g[@data-id]") is not None)
    shift = [float(number) for group in groups for number in re.findall(r"-?[\d.]+", group.get("transform", ""))]
    points = [(shape.x, shape.y) for shape in picture.nodes]
    points += [(shape.x + shape.width, shape.y + shape.height) for shape in picture.nodes]
    points += [along(_curve(each), share) for each in picture.edges for share in (0.2, 0.4, 0.6, 0.8)]
    for x, y in points:
        assert 0 < x + shift[0] < width
        assert _head(picture) < y + shift[1] < height


def _head(picture: Drawn) -> float:
    """Where the words above the graph end."""
    kinds = ("summary", "legend", "note")
    return max(float(text.get("y", "")) for text in picture.root.iter(f"{SVG}text") if text.get("class") in kinds)


@pytest.mark.parametrize(
    "title",
    [
        "</text><script>alert(1)</script>",
        "]]><!-- \" onload='x' &amp; &#0; %",
        "a\x00b\x08c\x1bd\ufffe\udc80",
        "\u202egnp.exe\u2066 \u200b\ufeff",
        "نص من اليمين إلى اليسار",
        "👩‍👩‍👧‍👦" * 60,
        "W" * 5000,
        "一" * 5000,
        "\u0301" * 300,
        " \n\t ",
    ],
)
def test_hostile_words_stay_words(title: str) -> None:
    old = Graph(nodes=[node("a", title=title)])
    new = Graph(nodes=[node("a", title=title, value="new"), node("b", title="plain")], edges=[edge("a", "b", title)])
    picture = drawn(old, new)
    assert picture.svg.encode()
    assert picture.signs() == {"a": "~", "b": "+"}
    assert {element.tag.removeprefix(SVG) for element in picture.root.iter()} <= {
        *("svg", "style", "defs", "marker", "rect", "g", "title", "text", "circle", "path")
    }
    attributes = {name for element in picture.root.iter() for name in element.keys()}  # noqa: SIM118
    assert not [name for name in attributes if name.startswith("on") or "href" in name]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", picture.svg)
    shape = picture.node("a")
    assert all(text_width(line, 11) <= shape.width for line in shape.words)


def test_quotes_end_no_attribute() -> None:
    graph = Graph(nodes=[node("a' onload=\"x"), node("b")], edges=[edge("a' onload=\"x", "b")])
    picture = Drawn(draw(graph, graph, Comparison(summary='\'" onload="x'), rules=Rules()))
    assert picture.signs() == {"a' onload=\"x": "=", "b": "="}
    assert picture.root.get("aria-label") == '\'" onload="x'


def test_tokens_are_hidden_in_ids_and_titles_even_if_split_by_what_is_not_seen() -> None:
    token = "sk-" + "a1" * 12
    svg = drawn(Graph(), Graph(nodes=[node(token, title=token.replace("a1a1", "a1\u200ba1"))])).svg
    assert "a1a1" not in svg
    assert svg.count("(secret)") >= 3


def test_titles_wrap_at_words_and_inside_identifiers() -> None:
    assert wrapped("Summarise the customer mail", 130, 14, 2) == ["Summarise the", "customer mail"]
    assert wrapped("LLM-ClusterHealthIssues", 110, 14, 2) == ["LLM-Cluster", "HealthIssues"]
    assert wrapped("aaaa bbbb cccc", 40, 14, 2) == ["aaaa", "bb…"]
    assert wrapped("", 40, 14, 2) == []


def test_long_paths_keep_both_ends() -> None:
    assert squeezed("model.name", 190, 11) == "model.name"
    short = squeezed("model.completion_params.response_format.temperature", 190, 11)
    assert short.startswith("model.compl")
    assert short.endswith("temperature")
    assert text_width(short, 11) <= 190


def test_changed_nodes_name_their_fields_and_never_a_value() -> None:
    old = Graph(nodes=[node("a", (0, 0), one="1", two="2", three="3", four="4", five="5")])
    new = Graph(nodes=[node("a", (0, 0), title="Renamed", one="hunter2", two="hunter3", three="9", four="9", six="6")])
    picture = drawn(old, new)
    assert picture.node("a").words == ["Renamed", "step", "was: Step a", "- five", "~ four", "~ one", "and 3 more", "~"]
    assert "hunter" not in picture.svg
    told = next(group for group in picture.root.iter(f"{SVG}g") if group.get("data-id") == "a").find(f"{SVG}title")
    assert told is not None
    assert "~ two" in (told.text or "")


def test_a_graph_moved_as_a_whole_has_no_moved_nodes_and_keeps_removed_ones_in_their_place() -> None:
    old = chain(5)
    kept = [each for each in chain(5).nodes if each.id != "n2"]
    for each in kept:
        assert each.at is not None
        each.at = (each.at[0] + 5000, each.at[1] - 700)
    picture = drawn(old, Graph(nodes=kept))
    assert not any(shape.moved for shape in picture.nodes)
    assert picture.signs()["n2"] == "-"
    in_order = sorted(picture.nodes, key=lambda shape: shape.x)
    assert [shape.id for shape in in_order] == ["n0", "n1", "n2", "n3", "n4"]
    assert len({shape.y for shape in in_order}) == 1


def test_a_node_moved_among_the_others_is_marked_and_not_called_changed() -> None:
    new = chain(5)
    new.nodes[3].at = (900.0, 400.0)
    picture = drawn(chain(5), new)
    assert {shape.id: (shape.sign, shape.moved) for shape in picture.nodes if shape.moved} == {"n3": ("=", True)}
    assert "1 moved" in picture.texts


def test_a_graph_whose_ids_were_all_replaced_is_one_graph() -> None:
    new = chain(4)
    for each in new.nodes:
        each.id = f"x{each.id}"
    new.edges = [edge(f"xn{index}", f"xn{index + 1}") for index in range(3)]
    picture = drawn(chain(4), new)
    assert picture.signs() == {"xn0": "=", "xn1": "=", "xn2": "=", "xn3": "="}
    assert set(picture.edge_signs()) == {("xn0", "xn1", "="), ("xn1", "xn2", "="), ("xn2", "xn3", "=")}


def test_an_id_given_to_another_type_is_drawn_as_removed_and_added() -> None:
    new = Graph(nodes=[Node(id="a", type="other", title="Other", config={"x": 1})])
    picture = drawn(Graph(nodes=[node("a")]), new)
    assert Counter((shape.id, shape.sign) for shape in picture.nodes) == {("a", "-"): 1, ("a", "+"): 1}


def test_branches_are_named_where_they_leave_and_signed_when_they_came_or_went() -> None:
    nodes = [node("a", (0, 0)), node("b", (300, 0)), node("c", (300, 200))]
    old = Graph(nodes=nodes, edges=[edge("a", "b", "if"), edge("a", "c", "else")])
    new = Graph(nodes=nodes, edges=[edge("a", "b", "if"), edge("a", "c", "on failure")])
    picture = drawn(old, new)
    assert picture.node("a").words == ["Step a", "step", "if", "- else", "+ on failure"]
    assert picture.edge_signs() == {("a", "b", "="): 1, ("a", "c", "-"): 1, ("a", "c", "+"): 1}


def test_a_branch_of_which_only_some_edges_came_or_went_has_no_sign() -> None:
    nodes = [node("a", (0, 0)), node("b", (300, 0)), node("c", (300, 200))]
    old = Graph(nodes=nodes, edges=[edge("a", "b", "if"), edge("a", "c", "if")])
    assert drawn(old, Graph(nodes=nodes, edges=old.edges[:1])).node("a").words == ["Step a", "step", "if"]


def test_a_removed_edge_is_named_as_it_was() -> None:
    class Named(Rules):
        def branch(self, source: Node | None, handle: str) -> str:
            return f"case {source.config['case']}" if source else ""

    old = Graph(nodes=[node("a", (0, 0), case="old"), node("b", (300, 0))], edges=[edge("a", "b", "1")])
    new = Graph(nodes=[node("a", (0, 0), case="new"), node("b", (300, 0))], edges=[edge("a", "b", "2")])
    picture = Drawn(draw(old, new, compare_graphs(old, new, Named()), rules=Named()))
    assert set(picture.node("a").words) >= {"- case old", "+ case new"}


def test_only_edges_that_are_drawn_are_named() -> None:
    class Named(Rules):
        asked = 0

        def branch(self, source: Node | None, handle: str) -> str:
            self.asked += 1
            return super().branch(source, handle)

    large = chain(DRAWN_NODES * 2)
    changed = Graph(nodes=[*large.nodes[:-1], node("new")], edges=large.edges)
    rules = Named()
    picture = Drawn(draw(large, changed, Comparison(), rules=rules))
    assert rules.asked == len(picture.edges) < 10


def test_an_edge_past_a_box_in_its_way_goes_around_it() -> None:
    old = Graph(nodes=[each for each in chain(3).nodes if each.id != "n1"], edges=[edge("n0", "n2")])
    picture = drawn(old, chain(3))
    (gone,) = [each for each in picture.edges if each.get("data-sign") == "-"]
    highest = along(_curve(gone), 0.5)[1]
    assert highest < picture.node("n1").y
    (canvas,) = [group for group in picture.root.iter(f"{SVG}g") if group.find(f"{SVG}g[@data-id]") is not None]
    assert highest + float(re.findall(r"-?[\d.]+", canvas.get("transform", ""))[1]) > _head(picture) + 10


def test_containers_frame_what_is_in_them() -> None:
    inner = [node("in1", (20, 60), inside="loop"), node("in2", (320, 60), inside="loop")]
    graph = Graph(
        nodes=[node("start", (0, 0)), node("loop", (300, 0)), *inner, node("end", (1000, 0))],
        edges=[edge("start", "loop"), edge("in1", "in2"), edge("loop", "end")],
    )
    picture = drawn(Graph(nodes=graph.nodes[:-1], edges=graph.edges[:2]), graph)
    loop = picture.node("loop")
    assert _holds(loop, picture.node("in1"))
    assert _holds(loop, picture.node("in2"))
    assert loop.x + loop.width < picture.node("end").x


def test_containers_in_a_circle_are_drawn_all_the_same() -> None:
    nodes = [node("a", inside="b"), node("b", inside="a"), node("c", inside="c"), node("d", inside="a")]
    assert len(drawn(Graph(nodes=nodes), Graph(nodes=nodes)).nodes) == 4


@pytest.mark.parametrize("at", [None, (0.0, 0.0)])
def test_without_usable_places_edges_lead_to_the_right(at: tuple[float, float] | None) -> None:
    names = ["c", "a", "d", "b", "alone"]
    links = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("d", "b")]
    graph = Graph(nodes=[node(name, at) for name in names], edges=[edge(*link) for link in links])
    picture = drawn(graph, graph)
    x = {name: picture.node(name).x for name in names}
    assert x["a"] < x["b"] < x["c"] < x["d"]
    assert picture.node("alone").y > max(picture.node(name).y for name in "abcd")


def test_a_node_without_a_place_stands_beside_its_neighbour() -> None:
    graph = chain(4)
    graph.nodes.append(node("new"))
    graph.edges.append(edge("n3", "new"))
    picture = drawn(graph, graph)
    assert picture.node("new").x > picture.node("n2").x


def test_a_node_put_between_two_others_moves_what_follows_to_the_right_and_leaves_it_in_its_row() -> None:
    graph = chain(16)
    graph.nodes.append(node("new", (1050.0, 0.0)))
    picture = drawn(chain(16), graph)
    assert len({shape.y for shape in picture.nodes}) == 1
    in_order = sorted(picture.nodes, key=lambda shape: shape.x)
    assert [shape.id for shape in in_order][2:6] == ["n2", "n3", "new", "n4"]


def test_what_begins_late_stands_before_what_it_leads_to() -> None:
    graph = Graph(nodes=[node(name) for name in "abcdx"], edges=[edge("a", "b"), edge("b", "c"), edge("c", "d")])
    graph.edges.append(edge("x", "d"))
    picture = drawn(graph, graph)
    assert picture.node("x").x == picture.node("c").x


def test_signs_of_edges_do_not_cover_each_other() -> None:
    graph = Graph(nodes=[node("a", (0, 0)), node("b", (0, 200)), node("c", (300, 0)), node("d", (300, 200))])
    crossing = Graph(nodes=graph.nodes, edges=[edge("a", "d"), edge("b", "c")])
    circles = drawn(graph, crossing).root.iter(f"{SVG}circle")
    on_edges = [(circle.get("cx"), circle.get("cy")) for circle in circles][4:]
    assert len(set(on_edges)) == 2


def test_editors_with_small_boxes_and_with_large_ones_give_pictures_alike() -> None:
    small, large = drawn(chain(8, 110.0), chain(8, 110.0)), drawn(chain(8, 900.0), chain(8, 900.0))
    assert small.root.get("width") == large.root.get("width")


def test_of_a_large_graph_only_changes_and_their_neighbours_are_drawn() -> None:
    new = chain(5000)
    new.nodes[2500].config = {"value": "new"}
    picture = drawn(chain(5000), new)
    assert picture.signs() == {"n2499": "=", "n2500": "~", "n2501": "="}
    assert any(text.startswith("4997 nodes not drawn") for text in picture.texts)
    assert "4999 nodes unchanged" in picture.texts


def test_a_container_is_drawn_with_its_changed_node_in_a_large_graph() -> None:
    old, new = chain(1000), chain(1000)
    for graph, value in ((old, "a"), (new, "b")):
        graph.nodes[700] = node("n700", (0.0, 0.0), inside="n3", value=value)
    picture = drawn(old, new)
    assert _holds(picture.node("n3"), picture.node("n700"))


def test_pictures_are_bounded_whatever_changed() -> None:
    graph = Graph(
        nodes=[
            node(f"{index}" + "i" * 190, (index % 70 * 300.0, index // 70 * 90.0), title="&" * 200, **{"k" * 400: "v"})
            for index in range(5000)
        ]
    )
    ids = [each.id for each in graph.nodes]
    graph.edges = [edge(ids[index], ids[index * 7 % 400], f"{index % 50}" + "<" * 200) for index in range(5000)]
    picture = drawn(Graph(), graph)
    assert len(picture.nodes) == DRAWN_NODES
    assert len(picture.edges) <= DRAWN_EDGES
    assert len(picture.svg) < 4_000_000


def test_too_many_edges_are_cut_after_the_changed_ones_and_counted() -> None:
    old = Graph(nodes=chain(60).nodes)
    links = [(one, other) for one in range(60) for other in range(60)][: DRAWN_EDGES + 100]
    old.edges = [edge(f"n{one}", f"n{other}") for one, other in links]
    new = Graph(nodes=old.nodes, edges=[*old.edges[5:], edge("n59", "n59", "again")])
    picture = drawn(old, new)
    signs = Counter(each.get("data-sign") for each in picture.edges)
    assert (signs["-"], signs["+"], signs.total()) == (5, 1, DRAWN_EDGES)
    assert "101 edges between these nodes not drawn" in picture.texts


def test_what_the_picture_cannot_show_is_said() -> None:
    graph = Graph(nodes=[node("a")], edges=[edge("a", "nowhere"), edge("nowhere", "a")])
    comparison = Comparison(summary="much changed", omitted=3)
    picture = Drawn(draw(graph, graph, comparison, rules=Rules()))
    assert picture.texts[0] == "much changed"
    assert "2 edges not drawn: no node at one end" in picture.texts
    assert "3 changes not listed: nodes shown as unchanged may have changed" in picture.texts


def test_an_app_is_drawn_from_its_bytes_without_notes_and_secrets() -> None:
    new = kit.app()
    kit.data(new, kit.FIRST)["prompt_template"][0]["text"] = "Be kind."
    new["workflow"]["environment_variables"][0]["value"] = "hunter3-hunter3"
    picture = Drawn(formats.draw(kit.dump(kit.app()), kit.dump(new)))
    assert picture.signs() == {kit.START: "=", kit.ROUTE: "=", kit.FIRST: "~", kit.SECOND: "=", kit.END: "="}
    assert {"if", "else"} <= set(picture.node(kit.ROUTE).words)
    assert "hunter" not in picture.svg
    assert "hello" not in picture.svg
    assert "Be kind" not in picture.svg


@pytest.mark.parametrize(("old", "new"), [(b"a: 1\n", b"a: 2\n"), (b"text", b"a: 1\n"), (kit.dump(kit.app()), b"{}")])
def test_without_two_graphs_of_one_kind_there_is_no_picture(old: bytes, new: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        formats.draw(old, new)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "dify" in caught.value.hint


def test_the_picture_in_the_documentation_is_what_is_drawn_today() -> None:
    versions = [(ROOT / "examples" / "triage" / f"{name}.yml").read_bytes() for name in ("v1", "v2")]
    assert (ROOT / "docs" / "triage.svg").read_text(encoding="utf-8") == formats.draw(versions[0], versions[1]), (
        "regctl compare examples/triage/v1.yml examples/triage/v2.yml --svg docs/triage.svg"
    )
