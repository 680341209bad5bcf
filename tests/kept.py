"""What a forward keeps for its backward."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch


def kept_bytes(forward: Callable[[], Any], besides: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of all storages that `forward` saves, those of `besides` left out; hooks set inside of it are heeded."""
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    sizes: dict[int, int] = {}

    def keeping(pack: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def keep(tensor: torch.Tensor) -> Any:
            packed = pack(tensor)
            if isinstance(packed, torch.Tensor) and packed.untyped_storage().data_ptr() not in known:
                sizes[packed.untyped_storage().data_ptr()] = packed.untyped_storage().nbytes()
            return packed

        keep.remakes = True  # `mrsp.lean` is to do here what it does without these hooks
        return keep

    hooks = torch.autograd.graph.saved_tensors_hooks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd.graph, "saved_tensors_hooks", lambda pack, unpack: hooks(keeping(pack), unpack))
        with hooks(keeping(lambda tensor: tensor), lambda packed: packed):
            result = forward()
    del result  # alive until here, so that no storage is counted in another's place
    return sum(sizes.values())
