"""New weights for vLLM's CPU engine, which keeps the matrices of its linear layers packed and drops the plain ones.

vLLM's own reload gives every layer plain tensors again and has all loaders run twice, to count when a layer is whole.
For a small model that takes longer than packing. Here only a layer whose matrix is packed gets a plain one, when the
first part of it arrives (query, key and value are parts of one matrix), and it is packed again when the weights of
another block arrive; everything else is copied into place.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import materialize_meta_tensor
from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs


class PackedLoading:
    """Updates of a model's weights: `begin`, the model's own `load_weights`, `finish`.

    The weights of a block (a decoder layer) must come one after another. A layer that gets nothing stays as it is.
    """

    def __init__(self, model: torch.nn.Module):
        self._layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "cpu_linear")]
        self._plain: list[Any] = []  # layers of one block

    def begin(self) -> None:
        """Have parts of packed matrices come to `_load`."""
        for layer in self._layers:
            if not layer.weight.numel():
                layer.weight.weight_loader = partial(self._load, layer)

    def finish(self) -> None:
        """Pack what is plain, and again what is kept both ways (a head that is the embedding too)."""
        kept = [layer for layer in self._layers if layer.weight.numel() and layer not in self._plain]
        for layer in self._plain + kept:
            layer.quant_method.process_weights_after_loading(layer)
        self._plain = []

    def _load(self, layer: Any, empty: Tensor, loaded: Tensor, *shard: Any, **named: Any) -> None:
        """Takes the first part of the layer's matrix, in place of the parameter's own loader."""
        if self._plain and block(self._plain[0]) != block(layer):
            for whole in self._plain:
                whole.quant_method.process_weights_after_loading(whole)
            self._plain = []
        if layer not in self._plain:
            kept = get_layerwise_info(layer).restore_metadata[0]["weight"]
            with torch.device(empty.device):
                layer.weight = restore_layer_refs(materialize_meta_tensor(kept), layer)
            self._plain.append(layer)
        layer.weight.weight_loader(layer.weight, loaded, *shard, **named)


def block(layer: Any) -> str:
    """`model.layers.3` of `model.layers.3.mlp.down_proj`."""
    return layer.prefix.rsplit(".", 2)[0]
