"""Scenes: procedural images with exact labels, drawn without any file or download.

An object is a shape with a texture, and its class is the pair. A network must combine local texture and global shape,
because neither determines the class and colours are uninformative. A scene is a pure function of (configuration,
split, index): the same call returns the same bytes in any order and in any process.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..core.splits import Split
from .patterns import SHAPES, TEXTURES, Floats, power_law_noise, rotate_axes, unit_grid

__all__ = ["LabelledImage", "Labelling", "Scene", "SceneConfig", "draw_scene"]

Labelling = Literal["pair", "latin"]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

TRIES = 20  # attempts to place an object before it is dropped
MIN_VISIBLE = 0.6  # minimum visible fraction of an object after all later objects are drawn
MIN_PERIOD = 4.0  # minimum texture period in pixels, to avoid aliasing in small images


@dataclass(frozen=True)
class SceneConfig:
    """Configuration of scenes.

    Args:
        size: side of the image in pixels.
        shapes: names from `SHAPES`.
        textures: names from `TEXTURES`.
        labelling: `pair`: every pair of shape and texture is a class. `latin`: of K shapes and K textures, the class
            is (shape + texture) mod K, so that neither alone has any information about it.
        objects: minimum and maximum number of objects per scene. An object without enough space is dropped, but a
            scene is never empty.
        camouflage: probability that an object has the palette of the background.
        noise: standard deviation of the pixel noise, for values from 0 to 1.
        seed: seed of the scenes.
    """

    size: int = 64
    shapes: tuple[str, ...] = ("disc", "cross", "ring")
    textures: tuple[str, ...] = ("stripes", "checks")
    labelling: Labelling = "pair"
    objects: tuple[int, int] = (1, 3)
    camouflage: float = 0.5
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shapes", "textures", "objects"):  # YAML gives lists
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"{name} must be a sequence, got the single string {value!r}.")
            object.__setattr__(self, name, tuple(value))
        if self.size < 16:
            raise InputError(f"size must be at least 16 pixels, got {self.size}.")
        for name, known in (("shapes", SHAPES), ("textures", TEXTURES)):
            chosen = getattr(self, name)
            unknown = [item for item in chosen if item not in known]
            if unknown:
                raise InputError(f"{name} has no {unknown[0]!r}; accepted names: {', '.join(known)}.")
            if not chosen or len(set(chosen)) < len(chosen):
                raise InputError(f"{name} must be one or more different names, got {chosen}.")
        if self.labelling not in get_args(Labelling):
            raise InputError(f"labelling must be 'pair' or 'latin', got {self.labelling!r}.")
        if self.labelling == "latin" and len(self.shapes) != len(self.textures):
            raise InputError(
                f"Latin labelling needs as many textures as shapes, got {len(self.shapes)} shapes and "
                f"{len(self.textures)} textures."
            )
        if len(self.objects) != 2 or not 1 <= self.objects[0] <= self.objects[1] <= 255:
            raise InputError(f"objects must be two numbers, 1 <= minimum <= maximum <= 255, got {self.objects}.")
        if not 0 <= self.camouflage <= 1:
            raise InputError(f"camouflage must be a probability from 0 to 1, got {self.camouflage}.")
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise must be from 0 to 1, got {self.noise}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be from 0 to 2**32 - 1, got {self.seed}.")

    @property
    def single(self) -> bool:
        """Whether every scene has exactly one object."""
        return self.objects == (1, 1)

    @property
    def num_classes(self) -> int:
        return len(self.shapes) * (len(self.textures) if self.labelling == "pair" else 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, usable as file names: such as `disc_stripes`, or `latin_0` with latin labelling."""
        if self.labelling == "latin":
            return tuple(f"latin_{k}" for k in range(self.num_classes))
        return tuple(f"{shape}_{texture}" for shape in self.shapes for texture in self.textures)

    def class_of(self, shapes: Ints, textures: Ints) -> Ints:
        """Return the classes of objects, given the indices of their shapes and textures in the configuration."""
        if self.labelling == "latin":
            return (shapes + textures) % self.num_classes
        return shapes * len(self.textures) + textures


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """Image of H x W pixels with n objects, numbered from 1 in drawing order, and its exact labels.

    Args:
        image: image (H, W, 3).
        instances: number of the visible object at each pixel (H, W), 0 for the background.
        labels: class of each object (n,), from 0.
    """

    image: Bytes
    instances: Bytes
    labels: Ints

    @property
    def areas(self) -> Ints:
        """Visible area of each object in pixels (n,)."""
        return np.bincount(self.instances.ravel(), minlength=len(self.labels) + 1)[1:]

    @property
    def semantic(self) -> Bytes:
        """Semantic mask (H, W): class + 1 on objects, 0 on the background."""
        return np.concatenate(([0], self.labels + 1)).astype(np.uint8)[self.instances]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Instance masks (n, H, W) of the visible parts of objects."""
        return self.instances == np.arange(1, len(self.labels) + 1, dtype=np.uint8)[:, None, None]

    @property
    def boxes(self) -> Ints:
        """Bounding boxes (n, 4) of the visible parts: x1, y1, x2, y2 in pixels, with exclusive x2 and y2."""
        masks = self.masks
        across: NDArray[np.bool_] = np.any(masks, axis=1)  # (n, W)
        down: NDArray[np.bool_] = np.any(masks, axis=2)  # (n, H)
        height, width = self.instances.shape
        first = across.argmax(1), down.argmax(1)
        last = width - across[:, ::-1].argmax(1), height - down[:, ::-1].argmax(1)
        return np.stack(first + last, axis=1)


@dataclass(frozen=True, eq=False)
class Scene(LabelledImage):
    """Scene with the properties of its objects.

    Args:
        shapes: index of the shape of each object (n,) in the configuration.
        textures: index of the texture of each object (n,) in the configuration.
        camouflaged: whether each object has the palette of the background (n,).
        whole_areas: area of each object in pixels (n,), including parts that later objects cover.
    """

    shapes: Ints
    textures: Ints
    camouflaged: NDArray[np.bool_]
    whole_areas: Ints


def draw_scene(config: SceneConfig, split: Split, index: int) -> Scene:
    """Return the scene with an index.

    Args:
        config: configuration of the scenes.
        split: `train`, `val` or `test`. Splits have no common scenes.
        index: any number from 0; there is no last scene.
    """
    if split not in get_args(Split):
        raise InputError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}.")
    if index < 0:
        raise InputError(f"index must be 0 or more, got {index}.")
    rng = np.random.default_rng((config.seed, get_args(Split).index(split), index))
    # Positions are drawn first: configurations that only differ in appearance have identical masks.
    instances, shapes, textures, whole_areas = _place(config, rng)
    image, camouflaged = _paint(config, rng, instances, textures)
    labels = config.class_of(shapes, textures)
    return Scene(image, instances, labels, shapes, textures, camouflaged, whole_areas)


def _place(config: SceneConfig, rng: np.random.Generator) -> tuple[Bytes, Ints, Ints, Ints]:
    """Place objects so that each stays visible. Return the instance mask, shapes, textures and whole areas."""
    x = unit_grid(config.size)
    y: Floats = x[:, None]
    smallest, largest = (0.26, 0.40) if config.single else (0.20, 0.32)
    instances = np.zeros((config.size, config.size), np.uint8)
    kinds: list[tuple[int, int]] = []
    areas: list[int] = []
    for _ in range(rng.integers(config.objects[0], config.objects[1] + 1)):
        kind = int(rng.integers(len(config.shapes))), int(rng.integers(len(config.textures)))
        shape = SHAPES[config.shapes[kind[0]]]
        for _ in range(TRIES):
            radius = rng.uniform(smallest, largest)
            left, top = rng.uniform(radius, 1 - radius, 2)
            u, v = rotate_axes((x - left) / radius, (y - top) / radius, rng.uniform(0, 2 * np.pi))
            trial = np.where(shape(u, v), np.uint8(len(kinds) + 1), instances)
            visible = np.bincount(trial.ravel(), minlength=len(kinds) + 2)[1:]
            if all(visible[:-1] >= MIN_VISIBLE * np.array(areas)):  # always true for the first object
                instances = trial
                kinds.append(kind)
                areas.append(int(visible[-1]))
                break
    shapes, textures = np.array(kinds).T
    return instances, shapes, textures, np.array(areas)


def _palette(rng: np.random.Generator) -> Floats:
    """Return two random colours (2, 3) at a random distance in a random direction."""
    base = rng.uniform(0.32, 0.68, 3)
    direction = rng.standard_normal(3)
    offset = rng.uniform(0.16, 0.30) * direction / np.linalg.norm(direction)
    return np.stack([base - offset, base + offset]).astype(np.float32)


def _paint(
    config: SceneConfig, rng: np.random.Generator, instances: Bytes, textures: Ints
) -> tuple[Bytes, NDArray[np.bool_]]:
    """Draw the image. Return it and whether each object has the palette of the background."""
    size = config.size
    x = unit_grid(size)
    background = _palette(rng)
    blend = 1 / (1 + np.exp(-3 * power_law_noise(rng, size, rng.uniform(1.4, 2.6))))
    image = background[0] + blend[..., None] * (background[1] - background[0])
    finest = max(MIN_PERIOD, 5 * size / 64)
    camouflaged = rng.random(len(textures)) < config.camouflage
    for k, texture in enumerate(textures):
        own = _palette(rng)
        like_background = background + rng.normal(0, 0.02, (2, 3)).astype(np.float32)
        palette = like_background if camouflaged[k] else own
        rows, columns = np.nonzero(instances == k + 1)
        period = rng.uniform(finest, 1.6 * finest) / size
        u, v = rotate_axes(x[columns] / period, x[rows] / period, rng.uniform(0, 2 * np.pi))
        phase = rng.random(2, dtype=np.float32)
        on = TEXTURES[config.textures[texture]](u + phase[0], v + phase[1])
        image[rows, columns] = palette[on.astype(np.intp)]
    along, _ = rotate_axes(2 * x - 1, 2 * x[:, None] - 1, rng.uniform(0, 2 * np.pi))
    image *= (1 + rng.uniform(0, 0.25) * along)[..., None]
    if config.noise > 0:
        image += config.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), camouflaged
