"""What is made from a graph once dies with it, and is not another graph's."""

from __future__ import annotations

from ngopt.graph.per_graph import per_graph


class Graph:
    """Anything that can be referred to weakly."""


def test_made_once_and_gone_with_its_graph() -> None:
    made = []

    @per_graph
    def squares(graph: Graph, size: int, *, plus: int = 0) -> list[int]:
        made.append(size)
        return [size * size + plus]

    graph, other = Graph(), Graph()
    assert squares(graph, 3) is squares(graph, 3) and made == [3]
    assert squares(graph, 3) is not squares(other, 3)
    assert squares(graph, 4) == [16] and squares(graph, 4, plus=1) == [17]
    assert len(squares.kept) == 4  # type: ignore[attr-defined]
    del graph
    assert len(squares.kept) == 1  # type: ignore[attr-defined]
    assert squares(other, 3) == [9] and made == [3, 3, 4, 4]
