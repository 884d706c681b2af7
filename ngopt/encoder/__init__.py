"""Encoders: from neural graphs to embeddings of neurons and weights, and networks that read networks."""

from ngopt.encoder.base import Encoder
from ngopt.encoder.flow_editor import FlowEditor
from ngopt.encoder.flow_reader import FlowReader
from ngopt.encoder.metanetwork import Metanetwork, metanetwork
from ngopt.encoder.neuron_flow import NeuronFlow
from ngopt.encoder.neuron_mp import NeuronMP
from ngopt.encoder.ng_gnn import NGGNN
from ngopt.encoder.ng_t import NGT
from ngopt.encoder.reader import Reader, load_reader, save_reader

__all__ = [
    "NGGNN",
    "NGT",
    "Encoder",
    "FlowEditor",
    "FlowReader",
    "Metanetwork",
    "NeuronFlow",
    "NeuronMP",
    "Reader",
    "load_reader",
    "metanetwork",
    "save_reader",
]
