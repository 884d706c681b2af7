"""Saving and loading the state of an optimizer, around what torch does: its two entries, and ours.

torch casts what it loads and renames what it saves; hooks see a state dict before and after. Ours are called before the
user's when saving, so that theirs see the whole.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from ngopt.optim.attach.groups import shapes_of
from ngopt.optim.attach.names import is_generated
from ngopt.optim.attachment import Attachment
from ngopt.optim.notices import Notices
from ngopt.optim.saving.state import ENTRY, ExtraState, layout_of, pack_extra_state, pack_text, restore
from ngopt.optim.saving.validation import check_state_dict
from ngopt.optim.sharded.state import forms, portable, refuse_whole


class Packing:
    """A hook that completes the state dict that torch makes. With sharded parameters, all ranks make one.

    Args:
        optimizer: Whose state it is.
        attachment: Its parameters on their graph.
        skipped_steps: Steps that were not made.
    """

    def __init__(self, optimizer: Optimizer, attachment: Attachment, skipped_steps: int) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        graph, joints = attachment.digests(), attachment.joints(optimizer)
        self._spreads = [joint.spread for joint in joints]
        refuse_whole(self._spreads)
        self._places = {param: place for place, param in enumerate(params)}
        layout = layout_of(params, optimizer.state)
        for spread in self._spreads:
            layout |= {self._places[spread.params[name]]: own for name, own in forms(spread).items()}
        shapes, layout = shapes_of(optimizer.param_groups), dict(sorted(layout.items()))
        self._extra = ExtraState(attachment.rule, shapes, graph, layout, skipped_steps)

    def __call__(self, _: Optimizer, packed: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.register_state_dict_post_hook`."""
        for spread in self._spreads:
            for name, param in spread.params.items():
                place = self._places[param]
                packed["state"][place] = portable(spread, name, packed["state"][place])
        packed["state"] = {number: packed["state"][number] for number in sorted(packed["state"])}
        packed[ENTRY] = pack_extra_state(self._extra)
        packed["param_groups"][-1][ENTRY] = pack_text(self._extra)  # for those that keep torch's two entries only


class Loading:
    """A state dict on its way into an optimizer.

    Args:
        optimizer: Whose groups it is for.

    Attributes:
        extra: Our own entry; None before `check`, and where the state has none.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.extra: ExtraState | None = None
        self._packed: dict[str, Any] = {}
        self._names = [group["param_names"] for group in optimizer.param_groups]

    def check(self, optimizer: Optimizer, packed: dict[str, Any]) -> None:
        """A hook before loading, the last: nothing is changed yet.

        Raises:
            CheckpointError: The state is damaged.
            GraphMismatchError: It belongs to another model.
        """
        groups = optimizer.param_groups
        self.extra = check_state_dict(packed, shapes_of(groups), [group["params"] for group in groups])
        self._packed = dict(packed)

    def restore(self, optimizer: Optimizer, given_total_steps: int | None, notices: Notices) -> None:
        """Undo what torch's loading did to names and dtypes.

        Args:
            optimizer: Loaded by torch.
            given_total_steps: What it was built with, which wins.
            notices: Where it warns.
        """
        groups = optimizer.param_groups
        restore(optimizer.state, groups, self._packed)
        saved = groups[0]["total_steps"]
        given = saved if given_total_steps is None else given_total_steps
        for group, own_names in zip(groups, self._names, strict=True):
            group.pop(ENTRY, None)
            is_whole = self.extra is not None and bool(self.extra.shapes)
            numbered = is_whole and all(map(is_generated, own_names))
            group["param_names"] = group["param_names"] if numbered else own_names  # real names are worth more
            group["total_steps"] = given
        if given != saved:
            notices.once(
                "total_steps",
                f"total_steps={given} was given, and the loaded state says {saved}: the run goes on from step "
                f"{groups[0]['step']} with total_steps={given}.",
            )
