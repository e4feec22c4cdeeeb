"""`text.layers`: texts look as captions do, in their place, and never past their area."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ffmpeg_ops.engine.i420 import Layer, blank, blend, planes
from ffmpeg_ops.engine.overlays import text
from ffmpeg_ops.engine.overlays.placement import area
from ffmpeg_ops.engine.overlays.text import Text
from ffmpeg_ops.engine.subtitles.fonts import installed
from ffmpeg_ops.engine.subtitles.style import POSITIONS
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.overlays.support import BLUE, over, params
from tests.ffmpeg_ops.media import ffmpeg
from wire.errors import AssetInvalid, Cancelled, InvalidParams

SIZE = (360, 640)
LONG = "The quick brown fox jumps over the lazy dog, and it does so again. "


def drawn(
    work: Work, *given: dict[str, Any], size: tuple[int, int] = SIZE, assets: dict[str, Path] | None = None
) -> tuple[list[Layer | None], list[str]]:
    warnings: list[str] = []
    texts = [Text(f"overlays[{i}]", params(**one)) for i, one in enumerate(given)]
    return list(text.layers(texts, size, assets or {}, work, warnings.append)), warnings


def ink(layer: Layer | None) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is seen of a layer."""
    assert layer is not None and layer.alphas is not None
    rows, columns = np.nonzero(layer.alphas[0])
    x, y = layer.x, layer.y
    return x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1


STYLES: list[dict[str, Any]] = [
    {},
    {"box": "on"},
    {"color": "#FF000080", "outline_color": "#00FF0080", "size": 0.1, "bold": False},
    {"color": "#FFD60A", "outline": 0, "shadow": 0, "box": "#00000060"},
    {"preset": "minimal"},
]


@pytest.mark.parametrize(
    "style", [*STYLES[:2], *(pytest.param(style, marks=pytest.mark.slow) for style in STYLES[2:])], ids=str
)
def test_a_text_is_blended_as_libass_itself_draws_it(style: dict[str, Any], work: Work) -> None:
    """Also translucent colours over each other, whose alpha FFmpeg's own `alpha=1` gets wrong."""
    (layer,), _ = drawn(work, {"text": "Olá", "style": style})
    source = ["-f", "lavfi", "-i", f"color=0x{BLUE[1:]}:size={SIZE[0]}x{SIZE[1]}:duration=1,format=gbrp"]
    raw = ffmpeg(
        *source, "-vf", "ass=overlays.ass,format=rgb24", "-frames:v", "1", "-f", "rawvideo", "-", cwd=work.directory
    )
    burned = np.frombuffer(raw, np.uint8).reshape(SIZE[1], SIZE[0], 3)
    luma = 16 + burned @ [0.2126, 0.7152, 0.0722] * 219 / 255
    assert np.abs(planes(over(layer, SIZE))[0] - luma).max() <= 3


@pytest.mark.parametrize("style", [{}, {"box": "on"}, {"preset": "pop"}], ids=str)
@pytest.mark.parametrize("safe", [False, True])
def test_every_position_keeps_to_its_area(safe: bool, style: dict[str, Any], work: Work) -> None:
    given = [{"text": "Typ", "position": name, "safe_area": safe, "style": style} for name in POSITIONS]
    layers, warned = drawn(work, *given)
    assert not warned
    within = area(params(**given[0]), SIZE)
    slack = 0.12 * SIZE[1] * 0.085  # outline and shadow, and what a line has above and below its letters
    for one, layer in zip(given, layers, strict=True):
        left, top, right, bottom = ink(layer)
        row, column = str(one["position"]).split("-")
        assert within.left - slack <= left < right <= within.right + slack
        assert within.top - slack <= top < bottom <= within.bottom + slack
        near = 0.4 * 0.085 * SIZE[1]
        assert {"left": left < within.left + near, "right": right > within.right - near}.get(column, True)
        assert {"top": top < within.top + near, "bottom": bottom > within.bottom - near}.get(row, True)
        if column == "center":
            assert (left + right) / 2 == pytest.approx((within.left + within.right) / 2, abs=3)


def test_texts_with_and_without_tails_stand_on_one_line(work: Work) -> None:
    """A place is that of the line, not of the letters that happen to be in it."""
    layers, _ = drawn(work, *({"text": one, "position": "top-left", "style": {"shadow": 0}} for one in ("nn", "ngn")))
    plain, tailed = map(ink, layers)
    assert plain[1] == tailed[1] and plain[3] < tailed[3]


def test_x_and_y_place_the_middle_and_keep_the_text_readable(work: Work) -> None:
    places = [(0.5, 0.25), (0.0, 0.0), (1.0, 1.0)]
    layers, _ = drawn(work, *({"text": "Texto", "x": x, "y": y, "margin": 0.02} for x, y in places))
    middle, first, last = map(ink, layers)
    assert (middle[0] + middle[2]) / 2 == pytest.approx(180, abs=3)
    assert (middle[1] + middle[3]) / 2 == pytest.approx(160, abs=6)
    margin = round(0.02 * 360)
    assert first[:2] == (margin, margin) and last[2:] == (360 - margin, 640 - margin)


def test_lines_are_wrapped_at_the_width(work: Work) -> None:
    narrow, wide = (ink(layer) for layer in drawn(work, *({"text": LONG, "width": w} for w in (0.4, 0.9)))[0])
    assert narrow[2] - narrow[0] <= 0.4 * 360 + 2 and wide[2] - wide[0] <= 0.9 * 360
    assert narrow[3] - narrow[1] > 1.5 * (wide[3] - wide[1])


def test_a_text_that_does_not_fit_is_drawn_smaller_and_one_that_never_fits_is_refused(work: Work) -> None:
    (layer,), (warned,) = drawn(work, {"text": LONG * 10, "style": {"size": 0.06}, "position": "top-center"})
    assert warned.startswith("overlays[0].text: the text is drawn smaller, at ")
    assert ink(layer)[3] <= 640 * 0.99
    with pytest.raises(InvalidParams, match=r"^overlays\[1\]\.text: the text has no room"):
        drawn(work, {"text": "x"}, {"text": LONG * 29, "style": {"size": 0.3}, "width": 0.2})
    with pytest.raises(InvalidParams, match="no room"):
        drawn(work, {"text": "x", "width": 0.01, "style": {"box": "on"}})


def test_no_text_is_a_command(work: Work) -> None:
    """Neither ASS's tags, nor its line breaks, nor the filter's own syntax."""
    said = r"{\an8\fs200}a\Nb:c,d'e"
    (layer, plain), _ = drawn(work, {"text": said, "style": {"size": 0.03}}, {"text": "x", "style": {"size": 0.03}})
    left, top, right, bottom = ink(layer)
    assert bottom - top < 2 * (ink(plain)[3] - ink(plain)[1]) + 8 and right - left > 8 * 0.3 * 0.03 * 640


def test_emoji_and_scripts_are_drawn_without_boxes(work: Work) -> None:
    said = ["😀🎉❤️", "مرحبا بالعالم", "שלום עולם", "日本語のテキスト", "नमस्ते", "สวัสดี"]
    layers, warned = drawn(work, *({"text": one, "style": {"size": 0.05}} for one in said))
    assert not warned
    for layer in layers:
        assert layer is not None and layer.alphas is not None and np.count_nonzero(layer.alphas[0]) > 200


def test_right_to_left_begins_on_the_right(work: Work) -> None:
    """The digits at the end of a Hebrew sentence are on its left."""
    style = {"outline": 0, "shadow": 0}
    layers, _ = drawn(work, {"text": "שלום 1111", "style": style}, {"text": "abcd 1111", "style": style})

    def filled(layer: Layer | None) -> NDArray[Any]:
        assert layer is not None and layer.alphas is not None
        return (layer.alphas[0] > 128).any(axis=0)[: layer.size[0] // 4].mean()  # type: ignore[no-any-return]

    ones, letters = map(filled, layers)
    assert ones < letters, "strokes of 1 are thin"


def test_a_text_that_nothing_can_draw_has_no_layer(work: Work) -> None:
    (layer,), (warned,) = drawn(work, {"text": "\U000f0000"})
    assert layer is None
    assert warned == "overlays[0].text: no font has \U000f0000; left out"


def test_a_preset_with_highlights_has_one_colour(work: Work) -> None:
    """Nothing is spoken: no word is coloured."""
    pop = {"text": "one two", "style": {"preset": "pop"}}
    karaoke = {"text": "one two", "style": {"preset": "karaoke"}}
    for layer in drawn(work, pop, karaoke)[0]:
        assert layer is not None and layer.alphas is not None
        inside = layer.alphas[1] == 255
        assert np.abs(layer.colors[1][inside].astype(int) - 128).max() <= 2, "no yellow"


def test_texts_have_the_fonts_of_their_styles(work: Work) -> None:
    symbola = next(Path(face.file) for face in installed() if "Symbola" in face.families)
    given = [
        {"text": "Rag", "style": {"bold": False}},
        {"text": "Rag", "style": {"url_font": "https://example.com/a.ttf"}},
        {"text": "Rag", "style": {"font": "Symbola", "bold": False}},
    ]
    (plain, own, same), warned = drawn(work, *given, assets={"overlays[1].style.url_font": symbola})
    assert not warned
    assert (over(own, SIZE) == over(same, SIZE)).all()
    assert (over(own, SIZE) != over(plain, SIZE)).any()


def test_a_font_that_is_none_is_refused_by_path(work: Work, tmp_path: Path) -> None:
    (tmp_path / "font").write_text("nothing")
    style = {"url_font": "https://example.com/a.ttf"}
    with pytest.raises(AssetInvalid, match=r"^overlays\[0\]\.style\.url_font: the file is a text file"):
        drawn(work, {"text": "x", "style": style}, assets={"overlays[0].style.url_font": tmp_path / "font"})


def test_a_layer_costs_only_its_rectangle(work: Work) -> None:
    (layer,), _ = drawn(work, {"text": "Texto"}, size=(1920, 1080))
    assert layer is not None and layer.size[0] * layer.size[1] < 0.02 * 1920 * 1080
    frame = blank((1920, 1080), BLUE)
    blend(frame, layer)
    changed = planes(frame)[0] != planes(blank((2, 2), BLUE))[0][0, 0]
    rows, columns = np.nonzero(changed)
    assert columns.min() >= layer.x and rows.max() < layer.y + layer.size[1]


def test_a_stop_ends_it(work: Work) -> None:
    work.stop.set(Cancelled())
    with pytest.raises(Cancelled):
        drawn(work, {"text": "x"})
