"""Where an image lies in the square: points there and back, cells, label maps, the picture."""

import numpy as np
import pytest
import torch

from gate_cache.core.geometry import Frame, Placement, Window
from gate_cache.core.size import Fit, Size
from gate_cache.datasets.common.images import to_frame
from gate_cache.learn.tasks.correspondence import cells

SIZES = [(40, 40), (30, 60), (225, 300), (300, 153), (7, 1000), (1, 1), (513, 512)]
ALL_SIZES = pytest.mark.parametrize(("height", "width"), SIZES)
WHOLE = Size(64, 64)
FITS = pytest.mark.parametrize("fit", ["squash", "pad"])


def points(count: int = 50) -> np.ndarray:
    """Shares of the sides, the corners and places a little outside among them."""
    some = np.random.default_rng(0).uniform(-0.01, 1.01, (count, 2))
    return np.concatenate([some, [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]])


def padded(height: int, width: int, size: int = 64) -> Placement:
    return Frame(size, "pad").place(height, width)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@FITS
@ALL_SIZES
def test_pixels_go_to_the_square_and_back(fit: Fit, height: int, width: int) -> None:
    place = Frame(64, fit).place(height, width)
    pixels = points() * [width, height]
    back = place.to_image(place.to_frame(pixels / [width, height])) * [width, height]
    np.testing.assert_allclose(back, pixels, rtol=0, atol=1e-9)


@FITS
@ALL_SIZES
@pytest.mark.parametrize("resolution", [4, 16, 24])
def test_pixels_go_to_a_window_and_back(fit: Fit, height: int, width: int,
                                        resolution: int) -> None:
    window = Frame(64, fit).place(height, width).window(resolution)
    shares = points().clip(0, 1)
    back = window.leave(window.enter(shares)) * [width, height]
    np.testing.assert_allclose(back, shares * [width, height], rtol=0, atol=1e-9)


@pytest.mark.parametrize("resolution", [3, 16, 48])
@pytest.mark.parametrize(("fit", "height", "width"), [
    ("squash", 30, 60), ("squash", 7, 1000), ("squash", 40, 40), ("pad", 40, 40), ("pad", 1, 1)])
def test_where_nothing_is_padded_points_keep_every_bit(
        fit: Fit, height: int, width: int, resolution: int) -> None:
    place = Frame(48, fit).place(height, width)
    inside, window = points().clip(0, 1), place.window(resolution)
    for moved in (place.to_frame(inside), window.enter(inside), window.leave(inside)):
        np.testing.assert_array_equal(moved, inside)
    maps = np.zeros((2, resolution, resolution))
    assert window.cut(maps).shape == maps.shape
    assert place.mask(resolution).all()


@pytest.mark.parametrize(("height", "width", "expected"), [
    (30, 60, Placement(WHOLE, 16, 0, 32, 64)), (60, 30, Placement(WHOLE, 0, 16, 64, 32)),
    (225, 300, Placement(WHOLE, 8, 0, 48, 64)), (201, 300, Placement(WHOLE, 10, 0, 43, 64)),
    (1, 1000, Placement(WHOLE, 31, 0, 1, 64)), (5, 5, Placement(WHOLE, 0, 0, 64, 64)),
])
def test_padding_centres_the_image_and_keeps_its_aspect(
        height: int, width: int, expected: Placement) -> None:
    assert padded(height, width) == expected


@ALL_SIZES
@pytest.mark.parametrize("resolution", [2, 8, 16])
def test_a_cell_counts_when_it_shows_any_of_the_image(height: int, width: int,
                                                      resolution: int) -> None:
    place = padded(height, width)
    side = 64 // resolution
    pixels = np.zeros(place.size, bool)
    pixels[place.area] = True
    blocks = pixels.reshape(resolution, side, resolution, side).any((1, 3))
    np.testing.assert_array_equal(place.mask(resolution), blocks)


def test_windows_of_cells_that_are_no_whole_pixels() -> None:
    """24 cells of 64 pixels: rows 10 to 53 lie in cells 3 (of 8 to 10.7) to 19 (to 53.3)."""
    window = padded(201, 300).window(24)
    assert (window.rows, window.columns) == (slice(3, 20), slice(0, 24))


def test_points_in_the_padding_are_moved_into_the_image() -> None:
    window = padded(201, 300).window(16)  # rows 8 to 56 of the square, the image's are 10 to 53
    found = window.leave(np.array([[0.5, 0.0], [0.5, 1.0], [0.5, 0.5]]))
    np.testing.assert_allclose(found[:, 1], [0, 1, (32 - 10) / 43])
    np.testing.assert_array_equal(found[:, 0], 0.5)


# ------------------------------------------------------------------------------- the picture


def cell_of(window: Window, shares: np.ndarray) -> tuple[int, int]:
    """Row and column, in the whole map, of the cell that a window says holds a point."""
    wide = window.columns.stop - window.columns.start
    high = window.rows.stop - window.rows.start
    cell = int(cells(torch.from_numpy(window.enter(shares[None])), high, wide))
    return window.rows.start + cell // wide, window.columns.start + cell % wide


@FITS
@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (150, 200), (128, 128)])
def test_a_marked_point_is_drawn_in_the_cell_that_holds_it(fit: Fit, height: int,
                                                           width: int) -> None:
    window = Frame(64, fit).place(height, width).window(16)
    for x, y in ((0.5, 0.5), (0.031, 0.97), (0.97, 0.031), (0.29, 0.71)):
        image = np.zeros((height, width, 3), np.uint8)
        row, column = int(y * height), int(x * width)
        image[row - 2 : row + 3, column - 2 : column + 3] = 255
        drawn = to_frame(image, 64, fit)[..., 0].reshape(16, 4, 16, 4).sum((1, 3))
        drawn[~window.placement.mask(16)] = 0  # where a mark at the border is continued
        brightest = np.unravel_index(drawn.argmax(), drawn.shape)
        assert cell_of(window, np.array([column + 0.5, row + 0.5]) / [width, height]) == brightest


@pytest.mark.parametrize("side", [16, 40, 90])
def test_a_square_image_is_the_same_bytes_squashed_and_padded(side: int) -> None:
    image = picture(side, side)
    np.testing.assert_array_equal(to_frame(image, 40, "pad"), to_frame(image, 40))


@pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20), (25, 40), (3, 900)])
def test_padding_continues_the_border(height: int, width: int) -> None:
    place, square = padded(height, width, 40), to_frame(picture(height, width), 40, "pad")
    inner = square[place.area]
    assert inner.shape == (place.height, place.width, 3)
    nearest = np.ix_(*(np.clip(np.arange(40) - start, 0, length - 1) for start, length in (
        (place.top, place.height), (place.left, place.width))))
    np.testing.assert_array_equal(square, inner[nearest])


def test_an_image_whose_longer_side_fits_keeps_its_pixels() -> None:
    image = picture(20, 40)
    np.testing.assert_array_equal(to_frame(image, 40, "pad")[10:30], image)


# -------------------------------------------------------------------------------- label maps


@FITS
@ALL_SIZES
def test_label_maps_keep_their_labels(fit: Fit, height: int, width: int) -> None:
    place = Frame(64, fit).place(height, width)
    labels = np.full((height, width), 7, np.int16)
    found = place.labels_to_frame(labels, 255)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.where(place.mask(64), 7, 255))


def test_labels_take_the_nearest_pixel() -> None:
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    grown = padded(2, 4, 8).labels_to_frame(labels, 99)
    np.testing.assert_array_equal(grown[2:6], labels.repeat(2, 0).repeat(2, 1))
    shrunk = Frame(2, "squash").place(2, 4).labels_to_frame(labels, 99)
    np.testing.assert_array_equal(shrunk, [[1, 3], [5, 7]])


def test_labels_that_the_dtype_cannot_hold_are_refused() -> None:
    with pytest.raises(OverflowError):
        padded(2, 4).labels_to_frame(np.zeros((2, 4), np.uint8), -1)
