"""The number of slots and their grid: parsing of model arguments, and changes to existing models."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import InputError
from ..layers import Bridge, slot_grid_of

__all__ = ["Grid", "as_grid", "grids_of", "per_stage", "set_slot_grid"]

Grid = int | tuple[int, int]


def per_stage(name: str, value: Any, stages: int) -> list[Any]:
    """Return a list with one value per stage, from a single value or a sequence."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != stages:
            raise InputError(f"{name} must be one value or {stages} values, one per stage; got {value!r}.")
        return list(value)
    return [value] * stages


def grids_of(slot_grid: Grid | Sequence[Grid] | None, num_slots: int | Sequence[int], stages: int) -> list[Any]:
    """Return the slot grid (rows, columns) of each stage.

    Args:
        slot_grid: one grid for all stages, or a sequence with one grid per stage. A grid is one number or two numbers
            (rows, columns). None to use `num_slots`.
        num_slots: number of slots, as one value or one per stage.
        stages: number of stages.
    """
    if slot_grid is None:
        return [slot_grid_of(n) for n in per_stage("num_slots", num_slots, stages)]
    if isinstance(slot_grid, Sequence) and len(slot_grid) == 2 and all(isinstance(n, int) for n in slot_grid):
        slot_grid = [(slot_grid[0], slot_grid[1])] * stages  # type: ignore[list-item]
    return [as_grid(grid) for grid in per_stage("slot_grid", slot_grid, stages)]


def as_grid(grid: Grid | Sequence[int]) -> tuple[int, int]:
    """Return a grid as (rows, columns)."""
    if isinstance(grid, int):
        return grid, grid
    if len(grid) != 2:
        raise InputError(f"A slot grid must be one number or (rows, columns), got {grid!r}.")
    return grid[0], grid[1]


def set_slot_grid(
    model: nn.Module, grid: Grid | None = None, *, num_slots: int | None = None, follow_aspect: bool = False
) -> None:
    """Change the slot grid of all GLMix blocks in a model.

    This is possible for trained models, because pooled seeds have no parameters.

    Args:
        model: a GLNet, or a module that contains one.
        grid: (rows, columns), or one number for a square grid.
        num_slots: the number of slots instead of a grid; the grid is then the one that is closest to square.
        follow_aspect: let the grid follow the aspect ratio of the images, with about as many slots.

    Raises:
        InputError: both or neither of `grid` and `num_slots` are given, or the model has no slots or learned seeds.
    """
    if (grid is None) == (num_slots is None):
        raise InputError(f"Give either grid or num_slots, got grid={grid} and num_slots={num_slots}.")
    rows_cols = slot_grid_of(num_slots) if num_slots is not None else as_grid(grid)  # type: ignore[arg-type]
    bridges = [module for module in model.modules() if isinstance(module, Bridge)]
    if not bridges:
        raise InputError(f"{type(model).__name__} has no block with slots.")
    for bridge in bridges:
        bridge.set_grid(rows_cols, follow_aspect)
