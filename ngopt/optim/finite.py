"""Find NaN and infinity in gradients, at the cost of one fused norm and one synchronisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


def nonfinite(
    grads: Mapping[str, Tensor],  # name -> [...], any mixture of devices and dtypes
) -> list[str]:
    """Names of the gradients that hold a NaN or an infinity.

    The usual answer, none, costs one norm. A norm can overflow over finite entries, so an infinite one only raises
    suspicion, and the entries decide.
    """
    if bool(torch.isfinite(get_total_norm(grads.values()))):
        return []
    return [name for name, grad in grads.items() if not bool(torch.isfinite(grad).all())]
