"""Specification of a model to measure: a timm model name with constructor arguments."""

import ast
import difflib
from dataclasses import dataclass
from typing import Any

import timm

from ..errors import InputError
from ..models import MODEL_NAMES

__all__ = ["ModelSpec"]

FOLDERS = ("local-dir:", "hf-hub:", "hf_hub:")


@dataclass(frozen=True)
class ModelSpec:
    """A model name with optional arguments: `glnet_stl` or `glnet_stl(num_slots=16, stem="conv")`.

    The weights are random.

    Args:
        text: the specification as given by the user.
        name: the timm model name.
        options: the constructor arguments.
    """

    text: str
    name: str
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> "ModelSpec":
        name, bracket, inner = text.partition("(")
        name = name.strip()
        options: dict[str, Any] = {}
        if bracket:
            try:
                call = ast.parse(f"dict({inner}", mode="eval").body
                if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
                    raise ValueError
                options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            except (SyntaxError, ValueError) as error:
                raise InputError(
                    f"{text} is not a model: write arguments as in Python, NAME(key=value, ...), with numbers, "
                    "quoted words, tuples, True, False or None for values."
                ) from error
        if not name.startswith(FOLDERS) and not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 3)
            hint = f"; did you mean {', '.join(near)}?" if near else "; `timm.list_models()` lists them all."
            raise InputError(f"{name!r} is not a registered model of timm{hint}")
        return cls(text, name, options)

    @property
    def is_glnet(self) -> bool:
        """Whether the model is a GLNet according to its name; a folder may contain a GLNet, too."""
        return self.name.startswith(FOLDERS) or self.name.split(".")[0] in MODEL_NAMES

    def input_size(self) -> tuple[int, int, int]:
        """Return the channels, height and width of the model input."""
        if self.name.startswith(FOLDERS):
            size = self.build("meta").pretrained_cfg["input_size"]
        else:
            size = timm.get_pretrained_cfg(self.name).input_size
        channels, height, width = size
        return self.options.get("in_chans", channels), height, width

    def build(self, device: str = "cpu", size: tuple[int, int] | None = None) -> Any:
        """Build the model.

        Args:
            device: the device; "meta" for a model without memory for weights.
            size: image height and width, for models whose constructor needs them.
        """
        options = dict(self.options)
        if size is not None and not self.name.startswith(FOLDERS):
            cfg = timm.get_pretrained_cfg(self.name)
            if cfg.fixed_input_size and size != tuple(cfg.input_size[1:]):
                options.setdefault("img_size", size)
        return (
            timm.create_model(self.name, device=device, **options)
            if device == "meta"
            else timm.create_model(self.name, **options)
        )

    def __str__(self) -> str:
        return self.text
