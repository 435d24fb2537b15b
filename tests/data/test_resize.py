"""Nearly whole pictures: what is kept, where it lies, and that its pixels are those of the picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.data.resize import LONGEST, fit, fit_whole

Image = pytest.importorskip("PIL.Image")


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 5), st.sampled_from([1, 4, 8]))
def test_a_whole_picture_is_kept_but_for_less_than_a_cell(width, height, cells, cell):
    size = cells * cell
    # Red is the column and green is the row, in steps that a byte can hold.
    columns, rows = (np.linspace(0, 255, side) if side > 1 else np.zeros(1) for side in (width, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = columns.round(), rows.round()[:, None]
    resized, left, top, pixel = fit_whole(Image.fromarray(pixels), size, cell)
    shape = resized.height, resized.width
    assert min(shape) == size
    assert all(side % cell == 0 for side in shape)
    assert pixel == min(width, height) / size
    for side, edge, count in ((width, left, resized.width), (height, top, resized.height)):
        beside = side - count * pixel
        assert edge == pytest.approx(max(beside, 0) / 2)
        if count < LONGEST * size:
            assert -1e-9 < beside < cell * pixel
    # A linear ramp is kept by a symmetric filter, except near the edges, where the filter is cut off.
    reach = max(2.0, 1 / pixel + 1)
    seen = np.asarray(resized).astype(float)
    middle_row, middle_column = seen[size // 2, :, 0], seen[:, size // 2, 1]
    for side, edge, values in ((width, left, middle_row), (height, top, middle_column)):
        centres = edge + (np.arange(len(values)) + 0.5) * pixel - 0.5
        inner = (centres > reach * pixel) & (centres < side - 1 - reach * pixel)
        if side > 1:
            # Three roundings of ½: of the ramp, and of each of the two passes of resizing.
            np.testing.assert_allclose(values[inner], (centres * 255 / (side - 1))[inner], atol=1.5)


@given(st.integers(1, 200), st.sampled_from([8, 32]))
def test_a_square_is_resized_as_for_training(side, size):
    picture = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8))
    resized, left, top, _ = fit_whole(picture, size, 8)
    assert (left, top) == (0, 0)
    np.testing.assert_array_equal(np.asarray(resized), np.asarray(fit(picture, size)))
