"""`style.url_font`: a font that is not installed draws the captions, and whatever is wrong with it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.engine.subtitles.fonts import installed
from ffmpeg_ops.operation import OPERATIONS
from tests.ffmpeg_ops.media import Media, VideoWork, frames
from wire.errors import AssetInvalid

SRT = "1\n00:00:00,000 --> 00:00:00,400\n{}\n"
URL = "https://example.com/font.ttf"


def font(family: str, weight: int = 80) -> Path:
    found = (face for face in installed() if family in face.families and face.weight == weight)
    return Path(next(found).file)


def caption(
    work: VideoWork, media: Media, text: str, own: Path | None = None, /, **style: Any
) -> tuple[Any, list[str]]:
    """The first frame of a gray video with a caption, and the warnings."""
    video = media.gray("320x180", 0.4)
    assets = {"url_video": video, **({"style.url_font": own} if own else {})}
    style = {**style, **({"url_font": URL} if own else {})}
    params = {"url_video": URL, "subtitles": SRT.format(text), "style": style}
    operation = OPERATIONS["caption"]
    stats = operation.run(work, operation.params().load(params), assets)
    return frames(work.video)[0], stats.get("warnings", [])


def test_the_asset_is_named_by_its_path() -> None:
    operation = OPERATIONS["caption"]
    assert operation.asset_kinds["style.url_font"] == "font"
    params = operation.params().load({"url_video": URL, "subtitles": "x", "style": {"url_font": URL}})
    assert [asset.path for asset in operation.named_assets(params)] == ["url_video", "style.url_font"]


@pytest.mark.slow
def test_captions_look_as_with_the_same_font_installed(media: Media, work: VideoWork) -> None:
    """Symbola's letters are of another kind than those of the default font."""
    text = "Bom dia, João"
    default, _ = caption(work, media, text, bold=False)
    same, warned = caption(work, media, text, font="Symbola", bold=False)
    assert not warned
    own, warned = caption(work, media, text, font("Symbola"), bold=False)
    assert not warned
    assert (own == same).all()
    assert np.abs(own.astype(int) - default).max() > 100


@pytest.mark.slow
def test_it_is_drawn_in_the_weight_that_it_has(media: Media, work: VideoWork) -> None:
    """The default style is bold, which would smear a regular font."""
    regular, _ = caption(work, media, "Texto", font="Noto Sans", bold=False)
    bold, _ = caption(work, media, "Texto", font="Noto Sans", bold=True)
    assert (caption(work, media, "Texto", font("Noto Sans"), bold=True)[0] == regular).all()
    assert (caption(work, media, "Texto", font("Noto Sans", 200), bold=False)[0] == bold).all()


@pytest.mark.slow
def test_scripts_that_it_lacks_are_drawn_in_noto(media: Media, work: VideoWork) -> None:
    mixed, warned = caption(work, media, "Olá 日本", font("Noto Sans"))
    assert not warned
    assert (mixed != caption(work, media, "Olá", font("Noto Sans"))[0]).any()


@pytest.mark.slow
def test_a_font_without_any_of_the_characters_is_reported(media: Media, work: VideoWork) -> None:
    drawn, (warned,) = caption(work, media, "日本語", font("Noto Sans"))
    assert warned == "style.url_font: the font has none of the characters; Noto Sans CJK SC was used"
    assert (drawn == caption(work, media, "日本語")[0]).all()


def test_a_font_that_cannot_be_read_fails_by_its_path(media: Media, work: VideoWork, tmp_path: Path) -> None:
    path = tmp_path / "font"
    path.write_text("not a TTF or OTF font")
    with pytest.raises(AssetInvalid, match=r"^style\.url_font: the file is a text file, not a TTF or OTF font"):
        caption(work, media, "x", path)


def test_two_fonts_are_refused() -> None:
    errors = (
        OPERATIONS["caption"]
        .params()
        .validate({"url_video": URL, "subtitles": "x", "style": {"font": "Arial", "url_font": URL}})
    )
    assert errors == {"style": {"url_font": ["Give either a `font` or a `url_font`."]}}
