"""The generated data set is reproducible, agrees with its ground truth, and colours do not give away the types."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.data import draw_parts, parts
from accel.data.looks import LOOKS, edge
from accel.evaluation import part_average_precision


def same(one, other):
    return all(np.array_equal(getattr(one, field), getattr(other, field)) for field in ("images", "labels", "truth"))


def sliced(images, start, stop):
    return parts.ImageSet(images.images[start:stop], images.labels[start:stop], images.truth[start:stop])


def test_same_bytes_as_ever():
    drawn = draw_parts(64, seed=7)
    digest = hashlib.sha256(drawn.images.tobytes() + drawn.labels.tobytes() + drawn.truth.tobytes())
    assert digest.hexdigest()[:16] == "70be1bdefd3787ad"


@given(
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**50),
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    size=st.sampled_from([16, 24, 32]),
    chunk=st.integers(1, 5),
)
@settings(max_examples=15)
def test_an_image_depends_on_seed_and_index_alone(seed, first, counts, size, chunk):
    options = {"seed": seed, "image_size": size, "num_types": 5}
    whole = draw_parts(sum(counts), first_image=first, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "CHUNK", chunk)
        head = draw_parts(counts[0], first_image=first, **options)
        tail = draw_parts(counts[1], first_image=first + counts[0], **options)
    assert same(sliced(whole, 0, counts[0]), head)
    assert same(sliced(whole, counts[0], None), tail)


def test_seeds_and_indices_give_different_images():
    drawn = [draw_parts(50, seed=0), draw_parts(50, seed=1), draw_parts(50, first_image=50)]
    pictures = np.concatenate([images.images for images in drawn])
    assert len(np.unique(pictures.reshape(150, -1), axis=0)) == 150


@pytest.mark.parametrize("size", [16, 40, 64, 96])
@pytest.mark.parametrize("types", [3, 8, 12])
def test_shapes_and_ranges(size, types):
    drawn = draw_parts(40, image_size=size, num_types=types)
    assert drawn.images.shape == (40, size, size, 3)
    assert drawn.images.dtype == np.uint8
    assert drawn.truth.shape == (40, types, size // 8, size // 8)
    assert drawn.truth.dtype == bool
    assert drawn.labels.dtype == np.int64
    assert drawn.labels.min() >= 0
    assert drawn.labels.max() < types


def test_every_type_occurs_in_three_percent_of_the_cells():
    share = draw_parts(3000, seed=3).truth.mean(axis=(0, 2, 3))
    assert np.abs(share - 0.031).max() < 0.003


def test_instances_keep_apart_and_repeat():
    shown = parts.scene(2000, 0, 0, 0.2, 8, 4)
    real = shown.part_type >= 0
    gap = np.linalg.norm(shown.part_centre[:, :, None] - shown.part_centre[:, None], axis=-1)
    pairs = real[:, :, None] & real[:, None] & np.triu(np.ones(gap.shape[1:], bool), 1)
    assert (gap[pairs] < 0.25).mean() < 0.02  # a part is a quarter of the image wide
    assert (gap[pairs] < 0.2).mean() < 0.003
    counts = real.reshape(2000, parts.PRESENT, parts.REPEATS).sum(axis=2)
    assert np.abs(np.bincount(counts.ravel())[1:] / counts.size - 1 / 3).max() < 0.03


@given(grid=st.integers(2, 9), seed=st.integers(0, 99))
def test_no_pixel_decides_which_cell_a_part_is_in(grid, seed):
    shown = parts.scene(50, seed, 0, 0.2, 8, grid)
    inside = (shown.part_centre * grid) % 1
    # float32 rounds a centre to 2⁻²⁴ of the image, which is grid · 2⁻²⁴ of a cell.
    assert np.abs(inside - 0.5).max() <= parts.MIDDLE / 2 + 2e-6
    assert np.abs(inside - 0.5).max() > 0.96 * parts.MIDDLE / 2


@pytest.mark.parametrize("size", [32, 48])
def test_truth_is_where_the_type_is_drawn(size):
    """Removing a type from the scene changes pixels near its true cells and nowhere else."""
    grid, cell = 4, size // 4
    shown = parts.scene(200, 11, 0, 0.2, 8, 4)
    truth = parts.truth(shown, 8, grid)
    everything = parts.render(shown, size).astype(int)
    reach = parts.RADIUS * 1.1 * parts.SHAPE_REACH * size + 1
    centres = np.arange(size) + 0.5
    single = 0
    for kind in range(8):
        kept = np.where(shown.part_type == kind, -1, shown.part_type)
        changed = (parts.render(dataclasses.replace(shown, part_type=kept), size) != everything).any(axis=-1)
        for image in np.flatnonzero(changed.any(axis=(1, 2)) | truth[:, kind].any(axis=(1, 2))):
            rows, columns = np.nonzero(changed[image])
            cells = np.argwhere(truth[image, kind]) * cell
            assert len(cells), "drawn, but not in the truth"
            assert len(rows), "in the truth, but not drawn"
            below = cells[:, None] - np.stack([centres[rows], centres[columns]], axis=1)
            outside = np.maximum(np.maximum(below, -below - cell), 0)
            assert np.hypot(*np.moveaxis(outside, -1, 0)).min(axis=0).max() <= reach
            if (shown.part_type[image] >= 0).sum() == 2:  # nothing hides or repeats the one instance
                middle = np.array([rows.min() + rows.max() + 1, columns.min() + columns.max() + 1]) / 2
                assert (middle >= cells[0] - 0.1 * cell - 1).all()
                assert (middle <= cells[0] + 1.1 * cell + 1).all()
                single += 1
    assert single > 20


def crops(size, jitter, types=3):
    """Pixels around the centre of each instance, by (image, type), drawn alone on a plain background."""
    shown = parts.scene(150, 5, 0, jitter, types, 4)
    plain = dataclasses.replace(
        shown, corners=np.full_like(shown.corners, 128), piece_kind=np.full_like(shown.piece_kind, -1)
    )
    images, found = parts.render(plain, size).astype(int), {}
    for image, slot in np.argwhere(shown.part_type >= 0):
        column, row = np.floor(shown.part_centre[image, slot] * size).astype(int)
        half = size // 16
        crop = images[image, row - half : row + half, column - half : column + half]
        found.setdefault((int(shown.part_type[image, slot]), int(image)), []).append(crop)
    return found


def differences(found):
    """Median difference, in grey levels, between instances of a type within one image, and between two images."""
    within, between = [], []
    kinds = sorted(found)
    for key, following in itertools.pairwise(kinds):
        within += [np.abs(found[key][0] - other).mean() for other in found[key][1:]]
        if key[0] == following[0]:
            between.append(np.abs(found[key][0] - found[following][0]).mean())
    return np.median(within), np.median(between)


def test_a_type_has_one_look_in_an_image_and_others_elsewhere():
    within, between = differences(crops(128, jitter=0.5))
    assert within < 8
    assert between > 4 * within
    within, between = differences(crops(128, jitter=0.0))
    assert between < 1.5 * within


def test_jitter_says_how_much_looks_vary():
    spread = [differences(crops(128, jitter=jitter))[1] for jitter in (0.0, 0.1, 0.2, 0.4, 0.8)]
    assert spread == sorted(spread)


@pytest.mark.parametrize("jitter", [0.0, 0.2, 1.0])
def test_jitter_scales_what_it_says(jitter):
    """The jitter is uniform on ± jitter times 127.5 levels, half the radius, 90°, and the texture's range."""
    shown = parts.scene(2000, 8, 0, jitter, 8, 4)
    real = shown.part_type >= 0
    plain = parts.PALETTES[[look.palette for look in LOOKS]][shown.part_type[real]]
    moved = shown.part_colours[real] - plain
    clipped = (shown.part_colours[real] == 0) | (shown.part_colours[real] == 255)
    varied = {
        "tint": (moved[~clipped], 127.5),
        "radius": (shown.part_radius[real] / parts.RADIUS - 1, 0.5),
        "angle": (np.degrees(np.arctan2(*shown.part_angle[real].T[::-1])), 90),
        "phase": (shown.part_phase[real], 1.0),
    }
    for name, (values, scale) in varied.items():
        limit = scale * jitter
        assert np.abs(values).max() <= limit + 1e-3 * scale, name
        if name != "tint" or jitter < 0.5:  # large tints are cut off at black and white
            assert np.abs(values.std() - limit / 3**0.5) <= 0.05 * limit + 1e-3 * scale, name


def test_label_follows_from_the_types_shown():
    drawn = draw_parts(6000, seed=2)
    shown = drawn.truth.any(axis=(2, 3))
    assert (shown.sum(axis=1) == 2).all()
    labels = {}
    for types, label in zip(shown, drawn.labels, strict=True):
        labels.setdefault(tuple(np.flatnonzero(types)), set()).add(int(label))
    assert all(len(found) == 1 and found <= set(types) for types, found in labels.items())
    assert len(labels) == 24  # of 28 pairs, 4 are opposite in the ring and beat each other
    assert np.abs(np.bincount(drawn.labels) / 6000 - 1 / 8).max() < 0.02
    given_type = [
        np.bincount(drawn.labels[shown[:, kind]], minlength=8).max() / shown[:, kind].sum() for kind in range(8)
    ]
    assert max(given_type) < 0.56


def test_label_does_not_depend_on_place():
    drawn = draw_parts(8000, seed=4)
    occupied = drawn.truth.any(axis=1).reshape(8000, -1).astype(float)
    overall = occupied.mean(axis=0)
    for label in range(8):
        chosen = occupied[drawn.labels == label]
        deviation = (chosen.mean(axis=0) - overall) / np.sqrt(overall * (1 - overall) / len(chosen))
        assert np.abs(deviation).max() < 4.5


def test_clutter_never_repeats():
    shown = parts.scene(500, 0, 0, 0.2, 8, 4)
    real = shown.piece_kind >= 0
    assert np.abs(np.bincount(real.sum(axis=1), minlength=9) / 500 - 1 / 9).max() < 0.05
    assert len(np.unique(shown.piece_form[real], axis=0)) == real.sum()


def test_palettes_are_shared():
    for types in (LOOKS[:8], LOOKS):
        assert np.bincount([look.palette for look in types]).min() >= 2
    assert len({look.shape for look in LOOKS}) == len(LOOKS)
    assert len({(look.palette, look.texture) for look in LOOKS}) == len(LOOKS)


def test_types_of_one_palette_meet_whatever_their_number():
    """A model could represent types that never share an image by one part, whose appearance distinguishes them."""
    for num_types in range(3, len(LOOKS) + 1):
        drawn = parts.draw_parts(600, image_size=16, num_types=num_types)
        shown = drawn.truth.any(axis=(2, 3))
        meet = shown.T.astype(int) @ shown.astype(int) > 0
        for a, b in itertools.combinations(range(num_types), 2):
            assert meet[a, b] or LOOKS[a].palette != LOOKS[b].palette


def test_colour_leaves_much_to_shape_and_texture():
    """Least squares on the mean colour of a cell, its squares and products, fitted with the truth: chance is 0.03.

    Even if fitted with the truth, colour leaves at least a third of the precision to shape and texture.
    """
    drawn = draw_parts(4000, seed=6)
    cells = (drawn.images / 127.5 - 1).reshape(4000, 4, 8, 4, 8, 3).mean(axis=(2, 4))  # (n, 4, 4, 3)
    products = [cells[..., a] * cells[..., b] for a in range(3) for b in range(a, 3)]
    features = np.stack([np.ones_like(products[0]), *np.moveaxis(cells, -1, 0), *products], axis=1)
    known, asked = slice(0, 2000), slice(2000, None)

    def columns(x):
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(float)

    weights, *_ = np.linalg.lstsq(columns(features[known]), columns(drawn.truth[known]), rcond=None)
    scores = np.einsum("nfhw,ft->nthw", features[asked], weights)
    precision = np.diag(part_average_precision(scores, drawn.truth[asked]))
    assert precision.mean() < 0.6
    assert precision.max() < 0.85


@pytest.mark.parametrize("form", [*[look.shape for look in LOOKS], *parts.PIECES], ids=lambda form: form.__name__)
def test_no_stamp_reaches_beyond_its_window(form):
    turn = np.linspace(0, 2 * np.pi, 721, dtype=np.float32)
    reach, numbers = parts.SHAPE_REACH, [()]
    if form in parts.PIECES:
        ends = np.float32([0, 0.5, 1])
        reach, numbers = parts.PIECE_REACH, [(a, b) for a in ends for b in ends]
    for further in (0.25, 0.5, 1, 2):  # the window is at least a pixel larger than the reach
        u, v = np.cos(turn) * (reach + np.float32(further)), np.sin(turn) * (reach + np.float32(further))
        for ab in numbers:
            assert edge(-form(u, v, *ab), np.float32(4)).max() == 0


def test_grain_is_small_even_and_of_every_pixel_alone():
    grey = np.full((200, 32, 32, 3), 128, np.uint8)
    levels = parts.add_grain(grey, 3, 10).astype(float) - 128
    assert (levels == levels[..., :1]).all()
    levels = levels[..., 0]
    # 204,800 draws, whole levels: rounding adds 1/12 to the variance; four standard errors of mean and deviation.
    assert abs(levels.mean()) < 4 * parts.GRAIN / 452
    assert abs(levels.std() - np.hypot(parts.GRAIN, 12**-0.5)) < 4 * parts.GRAIN / 452
    for other in (levels[:, 1:] * levels[:, :-1], levels[:, :, 1:] * levels[:, :, :-1], levels[1:] * levels[:-1]):
        assert abs(other.mean()) < 4 * parts.GRAIN**2 / 440
    assert np.array_equal(parts.add_grain(grey[5:], 3, 15), parts.add_grain(grey, 3, 10)[5:])
    dark, light = parts.add_grain(grey * 0, 3, 10), parts.add_grain(grey // 128 * 255, 3, 10)
    assert dark.max() < 16
    assert light.min() > 239


def test_small_images_are_large_ones_seen_from_afar(monkeypatch):
    """Tests anti-aliasing: pixels are averages over their area."""
    monkeypatch.setattr(parts, "GRAIN", 0.0)
    small, large = draw_parts(50, image_size=32), draw_parts(50, image_size=128, grid=4)
    averaged = large.images.reshape(50, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    sampled = large.images[:, 2::4, 2::4]
    assert np.array_equal(small.truth, large.truth)
    error, aliased = (np.abs(small.images - other).mean() for other in (averaged, sampled))
    assert error < 1.5
    assert error < 0.5 * aliased


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"count": -1}, "count"),
        ({"first_image": -1}, "first_image"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"num_types": 2}, "num_types"),
        ({"num_types": 13}, "num_types"),
        ({"image_size": 8}, "image_size"),
        ({"image_size": 36, "grid": 8}, "grid"),
        ({"grid": 0}, "grid"),
    ],
)
def test_refuses_arguments_out_of_range(options, named):
    with pytest.raises(ValueError, match=named):
        draw_parts(**{"count": 1, **options})
