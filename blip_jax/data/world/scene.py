"""Scenes: one or two groups of shapes on a background, and how they are drawn."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 220, 40),
    "purple": (140, 40, 180),
    "orange": (250, 135, 20),
    "pink": (255, 105, 180),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": 0.75, "large": 1.0}  # of the room an object has
ROOM = {1: 0.4, 2: 0.195, 3: 0.115}  # objects in a scene -> the radius of each, of the side
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = {
    "white": (255, 255, 255),
    "grey": (150, 150, 150),
    "beige": (235, 215, 170),
    "brown": (125, 90, 65),
}
PLACES = {"row": ("left", "right"), "column": ("top", "bottom")}
OVERSAMPLING = 4
INK, OUTLINE = (15, 15, 20), 0.035  # of the side; a shape shows whatever its colours
MAX_SHIFT = 0.04  # of the side


@dataclasses.dataclass(frozen=True)
class Group:
    """`count` like objects; more than one only in a scene of its own."""

    shape: str
    colour: str
    size: str
    texture: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows. Of two groups in a "row" the first is left, in a "column" on top."""

    background: str
    groups: tuple[Group, ...]
    layout: str  # "row" or "column"
    jitter: int  # seed of small shifts, which no caption mentions

    @property
    def places(self) -> tuple[str | None, ...]:
        """Where each group is: left and right, top and bottom, or nowhere in particular."""
        return PLACES[self.layout] if len(self.groups) == 2 else (None,)

    def content(self) -> tuple[Any, ...]:
        """All that a caption could tell; equal for scenes no caption can tell apart."""
        layout = self.layout if len(self.groups) == 2 else ""
        return self.background, self.groups, layout

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scene":
        """Inverse of `to_dict`."""
        return cls(**data | {"groups": tuple(Group(**group) for group in data["groups"])})


def random_scene(rng: np.random.Generator) -> Scene:
    """One group of one to three objects, or two single objects."""

    def group(count: int) -> Group:
        texture = str(rng.choice(TEXTURES, p=(0.5, 0.25, 0.25)))
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        return Group(shape, colour, str(rng.choice(list(SIZES))), texture, count)

    if rng.random() < 0.4:
        groups: tuple[Group, ...] = (group(int(rng.integers(1, 4))),)
    else:
        groups = (group(1), group(1))
        while groups[1] == groups[0]:
            groups = (groups[0], group(1))
    background, layout = str(rng.choice(list(BACKGROUNDS))), str(rng.choice(list(PLACES)))
    return Scene(background, groups, layout, int(rng.integers(2**31)))


def draw(scene: Scene, size: int = 32) -> Image.Image:
    """The picture of a scene, size x size pixels, RGB."""
    rng = np.random.default_rng(scene.jitter)
    side = size * OVERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    objects = [group for group in scene.groups for _ in range(group.count)]
    room = ROOM[len(objects)]
    # Along the layout objects move so little that they stay apart and inside the picture.
    free = 0.5 / len(objects) - room - OUTLINE
    shifts = np.array((min(MAX_SHIFT, free / 2), MAX_SHIFT))
    for i, group in enumerate(objects):
        along, across = np.array(((i + 0.5) / len(objects), 0.5)) + rng.uniform(-shifts, shifts)
        x, y = (along, across) if scene.layout == "row" else (across, along)
        draw_object(image, group, x * side, y * side, SIZES[group.size] * room * side)
    return image.resize((size, size), Image.Resampling.BOX)


def draw_object(image: Image.Image, group: Group, x: float, y: float, radius: float) -> None:
    """Draws one object with an inked outline, through a mask of its shape."""
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    box = (x - radius, y - radius, x + radius, y + radius)
    if group.shape in ("circle", "ring"):
        pen.ellipse(box, fill=255)
        if group.shape == "ring":
            hole = radius * 0.5
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
    elif group.shape == "square":
        inner = radius * 0.92
        pen.rectangle((x - inner, y - inner, x + inner, y + inner), fill=255)
    elif group.shape == "cross":
        arm = radius * 0.32
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)
    else:
        points = 3 if group.shape == "triangle" else 10
        pen.polygon(list(corners(points, x, y, radius)), fill=255)
    grown = mask.filter(ImageFilter.BoxBlur(round(OUTLINE * image.width)))
    image.paste(INK, mask=grown.point(lambda value: 255 * (value > 0)))
    image.paste(surface(image.size, group, x, y, radius), mask=mask)


def corners(points: int, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corners of a triangle (3) or of a five-pointed star (10), one tip up."""
    found = []
    for i in range(points):
        reach = radius * (0.42 if points == 10 and i % 2 else 1.0)
        angle = 2 * math.pi * i / points - math.pi / 2
        found.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return found


def surface(size: tuple[int, int], group: Group, x: float, y: float, radius: float) -> Image.Image:
    """The object's colour, with dark stripes or white dots if it has them."""
    colour = COLOURS[group.colour]
    image = Image.new("RGB", size, colour)
    pen = ImageDraw.Draw(image)
    step = 4.0 * OVERSAMPLING
    if group.texture == "striped":
        dark = tuple(c // 2 for c in colour)
        for top in np.arange(y % step - step, size[1], step):
            pen.rectangle((0, top, size[0], top + step * 0.45), fill=dark)
    elif group.texture == "dotted":
        step = min(step, radius * 0.75)  # the nearest dots lie on a ring, however small
        dot = step * 0.27
        grid = np.arange(-math.ceil(radius / step), math.ceil(radius / step) + 1) * step
        for cx, cy in itertools.product(x + grid, y + grid):
            pen.ellipse((cx - dot, cy - dot, cx + dot, cy + dot), fill=(255, 255, 255))
    return image
