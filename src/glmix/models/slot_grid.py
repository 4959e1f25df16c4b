"""How many slots, in which grid: as arguments of a model, and changed in a trained one."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import InputError
from ..layers import Bridge, slot_grid_of

__all__ = ["Grid", "as_grid", "grids_of", "per_stage", "set_slot_grid"]

Grid = int | tuple[int, int]


def per_stage(name: str, value: Any, stages: int) -> list[Any]:
    """One value for all stages, or a sequence with one for each."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != stages:
            raise InputError(f"{name} must be one value or {stages} of them, one a stage; got {value!r}.")
        return list(value)
    return [value] * stages


def grids_of(slot_grid: Grid | Sequence[Grid] | None, num_slots: int | Sequence[int], stages: int) -> list[Any]:
    """The slot grid of each stage. Two numbers are one grid; as many as there are stages are one grid a stage."""
    if slot_grid is None:
        return [slot_grid_of(n) for n in per_stage("num_slots", num_slots, stages)]
    if isinstance(slot_grid, Sequence) and len(slot_grid) == 2 and all(isinstance(n, int) for n in slot_grid):
        slot_grid = [(slot_grid[0], slot_grid[1])] * stages  # type: ignore[list-item]
    return [as_grid(grid) for grid in per_stage("slot_grid", slot_grid, stages)]


def as_grid(grid: Grid | Sequence[int]) -> tuple[int, int]:
    if isinstance(grid, int):
        return grid, grid
    if len(grid) != 2:
        raise InputError(f"A slot grid is one number or (rows, columns), got {grid!r}.")
    return grid[0], grid[1]


def set_slot_grid(
    model: nn.Module, grid: Grid | None = None, *, num_slots: int | None = None, follow_aspect: bool = False
) -> None:
    """Change the slot grid of every GLMix block in `model`, which may be trained or wrapped: seeds have no parameters.

    Args:
        grid: rows and columns, or one number for a square grid.
        num_slots: instead of a grid, how many slots; the grid is the most nearly square one.
        follow_aspect: let the grid follow the aspect ratio of each image, with about as many slots.
    """
    if (grid is None) == (num_slots is None):
        raise InputError(f"Give either grid or num_slots, got grid={grid} and num_slots={num_slots}.")
    rows_cols = slot_grid_of(num_slots) if num_slots is not None else as_grid(grid)  # type: ignore[arg-type]
    bridges = [module for module in model.modules() if isinstance(module, Bridge)]
    if not bridges:
        raise InputError(f"{type(model).__name__} has no block with slots.")
    for bridge in bridges:
        bridge.set_grid(rows_cols, follow_aspect)
