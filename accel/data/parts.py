"""The generated data set `parts`: images of a few part types at random places, with ground truth of their places.

Image i is a function of (seed, i) alone: its random numbers are words i·WORDS to (i + 1)·WORDS of the seed's stream,
and its grain comes from a separate stream in the same way. All pixels of a chunk of images are computed together,
one instance after another.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from accel.data.ground import natural_ground
from accel.data.images import ImageSet
from accel.data.looks import ALIKE, LOOKS, PALETTES, Look, edge
from accel.data.words import CONTRAST_STREAM, GRAIN_STREAM, PARTS_STREAM, random_words, uniforms

PRESENT = 2  # default number of types per image
REPEATS = 3  # largest number of instances of a type in an image; the smallest is 1
CLUTTER = 8  # largest number of pieces of clutter in an image; the smallest is 0
CANDIDATES = 8  # places tried for each instance
RADIUS = 0.135  # of a part, in image sides
MARGIN = 0.09  # width of the border without centres, in image sides
MIDDLE = 0.5  # central fraction of a cell's width that may hold centres, so that the cell of a part is unambiguous
SPACING = 0.29  # smallest distance between centres, if a candidate satisfies it, in image sides
SHAPE_REACH = 1.45  # largest extent of a shape from its centre, in radii
PIECE_REACH = 1.7  # the same for a piece of clutter
GRAIN = 6.0  # standard deviation of each pixel's own brightness, in levels
CHUNK = 512  # images rendered together; changes the speed only

WORDS = 208  # random numbers per image with two types, a multiple of 4 (one Philox block)
WORDS_MORE = 72  # additional random numbers for each further type; a type and its places need 56


@dataclass(frozen=True)
class Difficulty:
    """Options that make the data set harder; each field is one difference from the default, and all can be combined.

    present: number of types per image, 2 to 4.
    anywhere: centres lie anywhere in a cell, even at its border.
    alike: all types have the same palette and texture, and differ only in shape.
    natural: the background has the spectrum of photographs and is shaded, instead of blending four colours.
    contrast: 0 to 1; an image's contrast about mid-grey is multiplied by a random factor from [1 − contrast, 1].

    Raises ValueError for a value outside its range.
    """

    present: int = PRESENT
    anywhere: bool = False
    alike: bool = False
    natural: bool = False
    contrast: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.present <= 4:
            raise ValueError(f"parts: present must be between 2 and 4, got {self.present}")
        if not 0 <= self.contrast <= 1:
            raise ValueError(f"parts: contrast must be between 0 and 1, got {self.contrast}")

    @property
    def looks(self) -> tuple[Look, ...]:
        """Shape, texture and palette of each type."""
        return ALIKE if self.alike else LOOKS

    @property
    def words(self) -> int:
        """Number of random numbers per image."""
        return WORDS + WORDS_MORE * (self.present - PRESENT)


TODAY = Difficulty()

# The ladder, as keywords of `draw_parts`: the default set, one difference at a time, and all that fit one image size.
RUNGS = {
    "today's set": {},
    "centres anywhere": {"anywhere": True},
    "shape alone": {"alike": True},
    "natural ground": {"natural": True},
    "contrast": {"contrast": 0.7},
    "12 types": {"num_types": 12},
    "3 types an image": {"present": 3},
    "4 types an image": {"present": 4},
    "parts of two cells": {"image_size": 64},
    "parts of four cells": {"image_size": 128},
    "all of it": {
        "anywhere": True,
        "alike": True,
        "natural": True,
        "contrast": 0.7,
        "num_types": 12,
        "present": 3,
    },
}


@dataclass(frozen=True)
class Scene:
    """The content of n images before rendering. Lengths are in image sides, angles are (cos, sin), colours 0 to 255.

    Each image has S = present · REPEATS places for instances of parts and K = CLUTTER for pieces of clutter; a slot may
    be empty.
    """

    label: np.ndarray  # (n,) int64
    corners: np.ndarray  # (n, 4, 3) colours of the background at the corners, row by row
    part_type: np.ndarray  # (n, S) int64, -1 for an empty slot
    part_centre: np.ndarray  # (n, S, 2) x, y
    part_radius: np.ndarray  # (n, S)
    part_angle: np.ndarray  # (n, S, 2)
    part_phase: np.ndarray  # (n, S)
    part_colours: np.ndarray  # (n, S, 2, 3) light, dark
    piece_kind: np.ndarray  # (n, K) int64, -1 for an empty slot, else an index of PIECES
    piece_centre: np.ndarray  # (n, K, 2)
    piece_radius: np.ndarray  # (n, K)
    piece_angle: np.ndarray  # (n, K, 2)
    piece_form: np.ndarray  # (n, K, 4) in [0, 1): the two numbers that shape the piece, and two for its tones
    piece_colours: np.ndarray  # (n, K, 2, 3)


def _triangle_piece(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lean = (b - np.float32(0.5)) * np.float32(0.5) * (v + np.float32(0.4))
    side = np.abs(u + lean) - (v + np.float32(1.1)) * (np.float32(0.3) + a * np.float32(0.25))
    return np.maximum(side * np.float32(0.8), v - np.float32(0.8))


def _blob_piece(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    v = v * (1 + a)
    return np.sqrt(u * u + v * v + (b - np.float32(0.5)) * u * v) - np.float32(0.9)


def _stroke_piece(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bend = (b - np.float32(0.5)) * (u * u - np.float32(0.5))
    return np.maximum(np.abs(u) - np.float32(1.2), np.abs(v + bend) - np.float32(0.2) - a * np.float32(0.3))


PIECES = (_triangle_piece, _blob_piece, _stroke_piece)


class _Draws:
    """Hands out the uniforms of each image in order: float32 in [0, 1), exact multiples of 2⁻²⁴."""

    def __init__(self, seed: int, first_image: int, count: int, words: int, stream: int = PARTS_STREAM):
        self.uniforms = uniforms(stream, seed, first_image, count, words)
        self.used = 0

    def __call__(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        taken = self.uniforms[:, self.used : self.used + size]
        self.used += size
        return taken.reshape(len(taken), *shape)  # raises if the words of an image are used up

    def integer(self, stop: int, *shape: int) -> np.ndarray:
        return (self(*shape) * np.float32(stop)).astype(np.int64)

    def symmetric(self, *shape: int) -> np.ndarray:
        return self(*shape) * 2 - 1


def _direction(turns: np.ndarray) -> np.ndarray:
    # float64 first: a last bit that differs between machines' sines is gone after rounding to float32
    angle = turns.astype(np.float64) * (2 * np.pi)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32)


def _places(draws: _Draws, needed: np.ndarray, grid: int, middle: float) -> np.ndarray:
    """Centres of the instances (n, S, 2), one after another: the first candidate with the required distance from all
    previous instances, else the candidate with the largest distance."""
    slots = needed.shape[1]
    candidates = (np.float32(MARGIN) + draws(slots, CANDIDATES, 2) * np.float32(1 - 2 * MARGIN)) * np.float32(grid)
    middles = np.floor(candidates) + np.float32(0.5)
    candidates = (middles + (candidates - middles) * np.float32(middle)) / np.float32(grid)
    centres = candidates[:, :, 0].copy()
    rows = np.arange(len(centres))
    for slot in range(1, slots):
        apart = candidates[:, slot, :, None] - centres[:, None, :slot]  # (n, candidates, earlier slots, 2)
        squared = apart[..., 0] ** 2 + apart[..., 1] ** 2
        squared = np.where(needed[:, None, :slot], squared, np.float32(SPACING**2))
        clearance = np.minimum(squared.min(axis=2), np.float32(SPACING**2))
        centres[:, slot] = candidates[rows, slot, clearance.argmax(axis=1)]
    return centres


def _label_and_types(draws: _Draws, num_types: int, present: int) -> tuple[np.ndarray, np.ndarray]:
    """The class (n,) and the types (n, present): a pair in random order, one of which beats the other, and others.

    For a pair, the class is the type that beats the other; for more types, the sum of their numbers modulo num_types.
    """
    label = draws.integer(num_types, 1)
    beaten = (label + 1 + draws.integer((num_types - 1) // 2, 1)) % num_types
    swap = draws(1) < 0.5
    types = np.concatenate([np.where(swap, beaten, label), np.where(swap, label, beaten)], axis=1)
    for _ in range(PRESENT, present):
        another = draws.integer(num_types - types.shape[1], 1)
        for taken in np.sort(types, axis=1).T:  # counts among the types that are not yet there
            another = another + (another >= taken[:, None])
        types = np.concatenate([types, another], axis=1)
    return (label[:, 0] if present == PRESENT else types.sum(axis=1) % num_types), types


def scene(
    count: int,
    seed: int,
    first_image: int,
    jitter: float,
    num_types: int,
    grid: int,
    difficulty: Difficulty = TODAY,
) -> Scene:
    """The random content of `count` images; see `draw_parts`."""
    draws, present = _Draws(seed, first_image, count, difficulty.words), difficulty.present
    label, types = _label_and_types(draws, num_types, present)
    repeats = 1 + draws.integer(REPEATS, present)
    shown = (np.arange(REPEATS) < repeats[..., None]).reshape(count, present * REPEATS)

    def every_slot(of_type: np.ndarray) -> np.ndarray:  # (n, present, …) → (n, S, …)
        return np.repeat(of_type, REPEATS, axis=1)

    varied = np.float32(jitter)
    palettes = PALETTES[[look.palette for look in difficulty.looks]]
    tint = draws.symmetric(present, 1, 3) * (varied * np.float32(127.5))
    part_colours = every_slot(np.clip(palettes[types] + tint, 0, 255))
    part_radius = every_slot((1 + draws.symmetric(present) * (varied / 2)) * np.float32(RADIUS))
    part_angle = every_slot(_direction(draws.symmetric(present) * (varied / 4)))
    part_phase = every_slot(draws.symmetric(present) * varied)

    tones = draws(4, 2)
    ends = PALETTES[draws.integer(len(PALETTES), 4)]
    corners = ends[:, :, 1] + (ends[:, :, 0] - ends[:, :, 1]) * tones[:, :, :1]
    corners = np.float32(128) + (corners - np.float32(128)) * (np.float32(0.3) + tones[:, :, 1:] / 2)

    pieces = draws.integer(CLUTTER + 1, 1)
    kind = draws.integer(len(PIECES), CLUTTER)
    return Scene(
        label=label,
        corners=corners,
        part_type=np.where(shown, every_slot(types), -1),
        part_centre=_places(draws, shown, grid, 1.0 if difficulty.anywhere else MIDDLE),
        part_radius=part_radius,
        part_angle=part_angle,
        part_phase=part_phase,
        part_colours=part_colours,
        piece_kind=np.where(np.arange(CLUTTER) < pieces, kind, -1),
        piece_centre=draws(CLUTTER, 2),
        piece_radius=(np.float32(0.7) + draws(CLUTTER) * np.float32(0.6)) * np.float32(RADIUS),
        piece_angle=_direction(draws(CLUTTER)),
        piece_form=draws(CLUTTER, 4),
        piece_colours=PALETTES[draws.integer(len(PALETTES), CLUTTER)],
    )


class _Canvas:
    """Images being painted, float32 (n, rows, 3 channels, columns), with a border that contains all stamps.

    The background is a blend of the colours of the corners, or the given images (n, H, W, 3).
    """

    def __init__(self, corners: np.ndarray, image_size: int, border: int, ground: np.ndarray | None):
        self.size, self.border, self.side = image_size, border, image_size + 2 * border
        if ground is not None:
            around = ((0, 0), (border, border), (0, 0), (border, border))
            self.pixels = np.pad(ground.transpose(0, 1, 3, 2).astype(np.float32), around)
            return
        at = (np.arange(self.side, dtype=np.float32) + np.float32(0.5 - border)) / np.float32(image_size)
        colours = corners[..., None]  # (n, 4, 3, 1)
        top = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * at
        bottom = colours[:, 2] + (colours[:, 3] - colours[:, 2]) * at
        self.pixels = np.ascontiguousarray(top[:, None] + (bottom - top)[:, None] * at[:, None, None])

    def stamps(self, half: int, centre: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, ...]:
        """Windows of 2 · half pixels a side about m centres: the first row and column (m, 2) of each on the canvas, its
        pixels' own coordinates u and v (m, 2·half, 2·half), and the radius in pixels (m, 1, 1)."""
        middle = centre * np.float32(self.size)
        whole = np.floor(middle)
        radius = radius[:, None, None] * np.float32(self.size)
        steps = np.arange(2 * half, dtype=np.float32) + np.float32(0.5 - half)
        offset = (steps + (whole - middle)[..., None]) / radius
        x, y = offset[:, 0, None, :], offset[:, 1, :, None]
        cosine, sine = angle[:, 0, None, None], angle[:, 1, None, None]
        first = whole[:, ::-1].astype(np.int64) + (self.border - half)
        return first, cosine * x + sine * y, cosine * y - sine * x, radius

    def paint(
        self, image: np.ndarray, first: np.ndarray, cover: np.ndarray, tone: np.ndarray, colours: np.ndarray
    ) -> None:
        """Blends one stamp into each of m different images: cover and tone (m, window, window), colours (m, 2, 3)."""
        window = cover.shape[-1]
        runs = np.lib.stride_tricks.sliding_window_view(self.pixels.reshape(-1), window, writeable=True)
        row = image[:, None] * self.side + first[:, :1] + np.arange(window)
        at = (row[..., None] * 3 + np.arange(3)) * self.side + first[:, 1, None, None]  # (m, window, 3)
        light, dark = colours[:, None, 0, :, None], colours[:, None, 1, :, None]
        cover, tone = cover[:, :, None], tone[:, :, None]
        below = runs[at]
        runs[at] = below + cover * (dark + (light - dark) * tone - below)

    def finished(self) -> np.ndarray:
        """The images without their borders, uint8 (n, H, W, 3)."""
        inside = slice(self.border, self.border + self.size)
        levels = (self.pixels[:, inside, :, inside] + np.float32(0.5)).astype(np.uint8)  # blends stay in [0, 255]
        return np.ascontiguousarray(levels.transpose(0, 1, 3, 2))


def render(s: Scene, image_size: int, looks: tuple[Look, ...] = LOOKS, ground: np.ndarray | None = None) -> np.ndarray:
    """The images of a scene, uint8 (n, image_size, image_size, 3): background, then clutter, then parts.

    ground: the background (n, image_size, image_size, 3), 0 to 255, instead of a blend of the scene's corners.
    """
    reach = {"part": s.part_radius.max() * SHAPE_REACH, "piece": s.piece_radius.max() * PIECE_REACH}
    half = {name: int(np.ceil(longest * image_size)) + 1 for name, longest in reach.items()}
    canvas = _Canvas(s.corners, image_size, max(half.values()), ground)

    for slot in range(CLUTTER):
        for kind, piece in enumerate(PIECES):
            at = np.flatnonzero(s.piece_kind[:, slot] == kind), slot
            if len(at[0]) == 0:
                continue
            first, u, v, sharpness = canvas.stamps(
                half["piece"], s.piece_centre[at], s.piece_radius[at], s.piece_angle[at]
            )
            a, b, start, slope = s.piece_form[at].T[..., None, None]
            tone = np.clip(start + (slope * 4 - 2) * u, 0, 1)
            canvas.paint(at[0], first, edge(-piece(u, v, a, b), sharpness), tone, s.piece_colours[at])

    for slot in range(s.part_type.shape[1]):
        for kind, look in enumerate(looks):
            at = np.flatnonzero(s.part_type[:, slot] == kind), slot
            if len(at[0]) == 0:
                continue
            first, u, v, sharpness = canvas.stamps(half["part"], s.part_centre[at], s.part_radius[at], s.part_angle[at])
            tone = look.texture(u, v, s.part_phase[at][:, None, None], sharpness)
            canvas.paint(at[0], first, edge(-look.shape(u, v), sharpness), tone, s.part_colours[at])
    return canvas.finished()


def add_grain(images: np.ndarray, seed: int, first_image: int) -> np.ndarray:
    """Images uint8 (n, H, W, 3) with noise of standard deviation GRAIN added to the brightness of every pixel.

    The noise is the sum of two random bytes, centred and scaled: a triangular distribution.
    """
    count, height, width, _ = images.shape
    blocks = -(-(height * width) // 16)  # a block's 32 bytes are 16 pixels
    words = random_words(GRAIN_STREAM, seed, first_image * blocks, count * blocks * 4)
    pairs = words.astype("<u8").view(np.uint8).reshape(count, -1, 2)[:, : height * width].astype(np.float32)
    deviation = np.float32(np.sqrt((256**2 - 1) / 6))
    levels = (pairs[..., 0] + pairs[..., 1] - np.float32(255)) * (np.float32(GRAIN) / deviation)
    levels = np.rint(levels).astype(np.int16).reshape(count, height, width, 1)
    return np.clip(images + levels, 0, 255).astype(np.uint8)


def lower_contrast(images: np.ndarray, seed: int, first_image: int, contrast: float) -> np.ndarray:
    """Images uint8 (n, H, W, 3), each with its contrast multiplied by a random factor from [1 − contrast, 1]."""
    kept = 1 - _Draws(seed, first_image, len(images), 4, CONTRAST_STREAM)(1, 1, 1) * np.float32(contrast)
    return np.rint(np.float32(128) + (images - np.float32(128)) * kept).astype(np.uint8)


def truth(s: Scene, num_types: int, grid: int) -> np.ndarray:
    """Bool (n, num_types, grid, grid): the cells that hold the centre of an instance of each type."""
    image, slot = np.nonzero(s.part_type >= 0)
    column, row = (s.part_centre[image, slot] * np.float32(grid)).astype(np.int64).T
    cells = np.zeros((len(s.part_type), num_types, grid, grid), dtype=bool)
    cells[image, s.part_type[image, slot], row, column] = True
    return cells


def _refuse_arguments(
    count: int, image_size: int, first_image: int, jitter: float, num_types: int, grid: int | None
) -> None:
    """Raises ValueError for an argument of `draw_parts` outside its range."""
    if grid is None and (image_size < 16 or image_size % 8):
        raise ValueError(f"parts: image_size must be a multiple of 8 and at least 16, got {image_size}")
    if count < 0 or first_image < 0:
        raise ValueError(f"parts: count and first_image must not be negative, got {count} and {first_image}")
    if grid is not None and (grid < 1 or image_size < 16 or image_size % grid):
        raise ValueError(
            f"parts: image_size must be at least 16 and a multiple of grid, got image_size {image_size} and grid {grid}"
        )
    if not 0 <= jitter <= 1:
        raise ValueError(f"parts: jitter must be between 0 and 1, got {jitter}")
    if not 3 <= num_types <= len(LOOKS):
        raise ValueError(f"parts: num_types must be between 3 and {len(LOOKS)}, got {num_types}")


def draw_parts(
    count: int,
    *,
    image_size: int = 32,
    seed: int = 0,
    first_image: int = 0,
    jitter: float = 0.2,
    num_types: int = 8,
    grid: int | None = None,
    **differences: Any,
) -> ImageSet:
    """Draws `count` images of the set `parts`. Image i of the result depends only on (seed, first_image + i), so any
    split of the indices over calls gives the same bytes.

    Each image shows two of the `num_types` types, each one to three times: four instances on average, each about a
    quarter of the image wide, drawn anti-aliased at random places apart from each other. A centre lies in the
    middle of a cell of the ground truth's grid (MIDDLE of its width and height), so it is never ambiguous which cell
    holds a part. The background is a smooth, greyed blend of four corner colours, with zero to eight pieces of clutter:
    triangles, blobs and strokes of random form, size, direction and tones, none of which recurs.
    Types, clutter and backgrounds share four palettes of a light and a dark colour, and each palette belongs to two
    of eight types, which occur together in one of six images. A fine grain is added, as in photographs: without it
    backgrounds would have no gradient energy, and the weighted loss would not penalise a part painted there.

    Each type has its own shape, texture and palette (`looks.LOOKS`). Variations are drawn once for each image and type,
    and are the same for all instances of the type in the image. With independent U uniform on [-1, 1]:
    each colour channel moves by U · jitter · 127.5 levels (light and dark together), the radius is multiplied by
    1 + U · jitter / 2, the part is rotated by U · jitter · 90°, and the texture moves by U · jitter of its range.

    The label depends only on the set of types shown, not on their places or numbers. The types are arranged in a ring,
    and each beats the (num_types - 1) // 2 types that follow it; of the two types shown, the label is the one that
    beats the other. So there are `num_types` equally frequent classes, types are equally frequent, and no single type
    gives the class.

    Args:
        image_size: H = W in pixels, a multiple of `grid`.
        seed: 0 ≤ seed < 2⁶⁴.
        first_image: index of the first image, not negative.
        jitter: 0 (no variation) to 1.
        num_types: T, 3 to 12.
        grid: number of cells per side of the ground truth, by default image_size // 8.
        differences: fields of `Difficulty`, which make the set harder; RUNGS lists examples.

    Returns:
        ImageSet of images uint8 (count, image_size, image_size, 3), labels int64 (count,) in [0, num_types), truth bool
        (count, num_types, grid, grid): the cells that hold an instance's centre. About 3 % of them are true for T = 8.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is unknown.
    """
    difficulty = Difficulty(**differences)
    _refuse_arguments(count, image_size, first_image, jitter, num_types, grid)
    grid = image_size // 8 if grid is None else grid
    images = np.empty((count, image_size, image_size, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    cells = np.empty((count, num_types, grid, grid), dtype=bool)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        here = part.stop - part.start, seed, first_image + start
        shown = scene(*here, jitter, num_types, grid, difficulty)
        ground = natural_ground(*here, image_size) if difficulty.natural else None
        drawn = render(shown, image_size, difficulty.looks, ground)
        if difficulty.contrast:
            drawn = lower_contrast(drawn, *here[1:], difficulty.contrast)
        images[part] = add_grain(drawn, *here[1:])
        labels[part] = shown.label
        cells[part] = truth(shown, num_types, grid)
    return ImageSet(images, labels, cells)
