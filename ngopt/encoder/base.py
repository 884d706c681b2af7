"""The one interface of all encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ngopt.graph.neural_graph import NeuralGraph

EdgeFeatures = Mapping[str, Sequence[Tensor]]  # block name -> channels, each [group, row, col, tap]


class Encoder(nn.Module, ABC):
    """Reads a neural graph, and features on its nodes and edges, into embeddings.

    Every encoder is exactly equivariant: permuting neurons permutes node embeddings (and edge embeddings) alike. What
    it returns for one network does not depend on what else is in a batch.
    """

    @abstractmethod
    def forward(
        self,
        graph: NeuralGraph,
        node_features: Tensor,  # [node, feature]
        edge_features: EdgeFeatures,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Embed the graph.

        Args:
            graph: Nodes and blocks.
            node_features: One row per node.
            edge_features: For each block of edges a list of channels, shaped like its matrix view. Blocks may be
                missing, and are then no edges. Never one big tensor, so that parameters, gradients and momenta can be
                handed over as views.

        Returns:
            Node embeddings ``[node, embedding]``, and edge embeddings by block name or None.
        """
