"""`blend`, `layer_of_rgba`, `blank`, `planes`: the right bytes change, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffmpeg_ops.engine import i420
from ffmpeg_ops.engine.i420 import Frame, Layer, blank, blend, layer_of_frame, layer_of_rgba, planes

SIZE = (64, 36)
RED = (255, 0, 0)


def noise(size: tuple[int, int] = SIZE, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (size[1] * 3 // 2, size[0]), np.uint8)


def picture(width: int, height: int, color: tuple[int, int, int], alpha: int) -> np.ndarray:
    return np.full((height, width, 4), (*color, alpha), np.uint8)


def blended(frame: Frame, layer: Layer | None) -> list[np.ndarray]:
    assert layer is not None
    made = frame.copy()
    blend(made, layer)
    return list(planes(made))


def ycbcr(color: tuple[int, int, int]) -> list[int]:
    """By the definition of BT.709 in limited range."""
    red, green, blue = (value / 255 for value in color)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return [round(16 + 219 * luma), round(128 + 224 * (blue - luma) / 1.8556), round(128 + 224 * (red - luma) / 1.5748)]


@pytest.mark.parametrize("height", [2, 6, 36, 1350])
def test_planes_are_views_of_the_frame(height: int) -> None:
    """Also where half the height is odd, so that a plane of chroma ends within a row of the array."""
    frame = blank((16, height))
    y, cb, cr = planes(frame)
    assert (y.shape, cb.shape, cr.shape) == ((height, 16), (height // 2, 8), (height // 2, 8))
    for value, plane in enumerate((y, cb, cr), 1):
        plane[:] = value
    assert frame.tobytes() == bytes([1]) * 16 * height + bytes([2]) * 4 * height + bytes([3]) * 4 * height


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), RED, (0, 255, 0), (18, 52, 86)])
def test_a_blank_frame_and_an_opaque_layer_have_the_same_colour(color: tuple[int, int, int]) -> None:
    frame = blank(SIZE, "#{:02x}{:02X}{:02x}".format(*color))
    assert [np.unique(plane).tolist() for plane in planes(frame)] == [[value] for value in ycbcr(color)]
    over = blended(noise(), layer_of_rgba(picture(*SIZE, color, 255), 0, 0, SIZE))
    assert all((made == plane).all() for made, plane in zip(over, planes(frame), strict=True))


def test_every_mix_is_rounded_to_the_nearest() -> None:
    """`_mix` of every colour over every other with every alpha."""
    values = np.arange(256, dtype=np.uint8)
    over, alpha = np.meshgrid(values, values)
    for under in range(256):
        made = np.full((256, 256), under, np.uint8)
        i420._mix(made, over, alpha)
        exact = (over * (alpha / 255.0)) + under * (1 - alpha / 255.0)
        assert np.abs(made - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("opacity", [0.0, 0.001])
def test_nothing_changes_below_what_is_transparent(opacity: float) -> None:
    frame = noise()
    layer = layer_of_rgba(picture(*SIZE, RED, 255), 0, 0, SIZE)
    assert layer is not None
    made = blended(frame, replace(layer, opacity=opacity))
    assert all((a == b).all() for a, b in zip(made, planes(frame), strict=True))


def test_alpha_0_leaves_bytes_untouched_inside_a_layer() -> None:
    frame, rgba = noise(), picture(20, 20, RED, 0)
    rgba[0, 0, 3] = rgba[19, 19, 3] = 255
    y, cb, cr = blended(frame, layer_of_rgba(rgba, 10, 8, SIZE))
    before = planes(frame)
    assert sorted(zip(*np.nonzero(y != before[0]), strict=True)) == [(8, 10), (27, 29)]
    for made, old in ((cb, before[1]), (cr, before[2])):
        # column 10 has a sample of its own; column 29 gives a quarter to each of its neighbours
        assert set(zip(*np.nonzero(made != old), strict=True)) <= {(4, 5), (13, 14), (13, 15)}


def test_many_blends_at_opacity_1_and_0_do_not_drift() -> None:
    frame = noise()
    layer = layer_of_rgba(np.random.default_rng(1).integers(0, 256, (16, 16, 4), np.uint8), 4, 4, SIZE)
    assert layer is not None
    solid = replace(layer, alphas=tuple(np.where(alpha > 127, 255, 0).astype(np.uint8) for alpha in layer.alphas or ()))
    once = frame.copy()
    blend(once, solid)
    again = once.copy()
    for _ in range(100):
        blend(again, solid)
        blend(again, replace(solid, opacity=0.0))
    assert (again == once).all()


@given(x=st.integers(-30, 70), y=st.integers(-30, 40), width=st.integers(1, 40), height=st.integers(1, 40))
def test_a_picture_covers_exactly_its_pixels_in_the_frame(x: int, y: int, width: int, height: int) -> None:
    """At odd and negative places, and beyond every edge: luma to the pixel, chroma at most a pixel around it."""
    frame = blank(SIZE, "#000000")
    layer = layer_of_rgba(picture(width, height, RED, 255), x, y, SIZE)
    columns = range(max(0, x), min(SIZE[0], x + width))
    rows = range(max(0, y), min(SIZE[1], y + height))
    if not columns or not rows:
        assert layer is None
        return
    made_y, made_cb, made_cr = blended(frame, layer)
    expected = np.zeros(SIZE[::-1], bool)
    expected[rows.start : rows.stop, columns.start : columns.stop] = True
    assert (made_y == np.where(expected, ycbcr(RED)[0], 16)).all()
    # Left siting: a sample is the mean of the columns around an even one, by 1, 2 and 1, and of two rows.
    padded = np.pad(expected.astype(float), ((0, 0), (1, 0)), "edge")
    if x > 0:
        padded[:, 0] = 0
    pairs = (padded[0::2] + padded[1::2]) / 2
    share = (pairs[:, 0:-2:2] + 2 * pairs[:, 1:-1:2] + pairs[:, 2::2]) / 4
    for made, value in zip((made_cb, made_cr), ycbcr(RED)[1:], strict=True):
        assert np.abs(made - (128 + share * (value - 128))).max() <= 1


def test_chroma_of_a_translucent_edge_is_weighted_by_alpha() -> None:
    """A transparent pixel has no say in the colour of its neighbour, whatever colour hides in it."""
    rgba = picture(16, 16, (0, 0, 255), 0)
    rgba[:, 9:] = (*RED, 255)
    layer = layer_of_rgba(rgba, 0, 0, SIZE)
    assert layer is not None and layer.alphas is not None
    seen = layer.alphas[1] > 0
    assert np.unique(layer.colors[1][seen]).tolist() == [ycbcr(RED)[1]]
    assert np.unique(layer.colors[2][seen]).tolist() == [ycbcr(RED)[2]]
    assert 0 < layer.alphas[1][:, 0].max() < 255


def test_a_layer_is_no_larger_than_what_is_seen() -> None:
    rgba = picture(1920, 1080, RED, 0)
    rgba[500:540, 901:1100] = (*RED, 200)
    layer = layer_of_rgba(rgba, 0, 0, (1920, 1080))
    assert layer is not None
    assert (layer.x, layer.y, layer.size) == (900, 500, (202, 40))


def test_a_picture_without_a_visible_pixel_has_no_layer() -> None:
    assert layer_of_rgba(picture(4, 4, RED, 0), 0, 0, SIZE) is None


@pytest.mark.parametrize("opacity", [1.0, 0.25])
def test_a_frame_in_the_frame(opacity: float) -> None:
    frame, small = noise(), noise((16, 12), seed=2)
    made = blended(frame, replace(layer_of_frame(small, 4, 6), opacity=opacity))
    for plane, old, inner, half in zip(made, planes(frame), planes(small), (1, 2, 2), strict=True):
        expected = old.astype(float)
        part = (slice(6 // half, 18 // half), slice(4 // half, 20 // half))
        expected[part] = expected[part] * (1 - opacity) + inner * opacity
        assert np.abs(plane - expected).max() <= 0.5


def test_the_layer_stays_as_it_is() -> None:
    layer = layer_of_rgba(picture(8, 8, RED, 128), 1, 1, SIZE)
    assert layer is not None and layer.alphas is not None
    arrays = [*layer.colors, *layer.alphas]
    before = [array.copy() for array in arrays]
    blend(noise(), replace(layer, opacity=0.5))
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True))
