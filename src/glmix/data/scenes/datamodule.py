"""Base class of the data modules of generated scenes."""

from typing import Any

from ..core.datamodule import DataModule
from . import SceneConfig, Split

__all__ = ["SceneData"]


class SceneData(DataModule):
    """Data module of procedural scenes. Subclasses implement `open_split`.

    Args:
        scenes: configuration of the scenes.
        train_count: number of training scenes.
        val_count: number of validation scenes.
        test_count: number of test scenes.
        num_workers: worker processes of each loader; 0 is fastest for scenes in memory.
        kwargs: arguments of `DataModule`.
    """

    def __init__(
        self,
        scenes: SceneConfig,
        train_count: int,
        val_count: int,
        test_count: int,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **kwargs)
        self.scenes = scenes
        self.counts: dict[Split, int] = {"train": train_count, "val": val_count, "test": test_count}
        self.num_classes = scenes.num_classes
        self.class_names = list(scenes.class_names)
