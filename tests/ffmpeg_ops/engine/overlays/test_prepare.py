"""`prepare` and what it makes: every overlay in its place and time, all mistakes before the first frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffmpeg_ops.engine.i420 import Frame, blank
from ffmpeg_ops.engine.overlays import pictures
from ffmpeg_ops.engine.overlays.overlay import Nothing, Overlay, Video
from ffmpeg_ops.engine.overlays.placement import times
from ffmpeg_ops.engine.overlays.prepare import Wanted, prepare
from ffmpeg_ops.engine.overlays.store import LayerStore
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.overlays.support import params
from wire.errors import AssetInvalid, InvalidParams

SIZE, RATE = (320, 180), Fraction(30)
URL = {"url_image": "https://example.com/a.png"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayerStore]:
    with closing(LayerStore(tmp_path / "layers")) as made:
        yield made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGBA", (40, 40), (255, 0, 0, 255)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def animation(tmp_path: Path) -> Path:
    """Three frames of 100 ms."""
    first, *others = (Image.new("RGB", (40, 40), (value, 0, 0)) for value in (50, 150, 250))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    return tmp_path / "a.gif"


def prepared(
    store: LayerStore, work: Work, *wanted: dict[str, Any], frames: int = 60, **assets: Path
) -> tuple[list[Overlay | None], list[str]]:
    warnings: list[str] = []
    asked = [Wanted(f"overlays[{i}]", params(**one), frames) for i, one in enumerate(wanted)]
    files = {f"overlays[{name[1:]}].url_image": path for name, path in assets.items()}
    return prepare(asked, SIZE, RATE, store, files, work, warnings.append), warnings


def shades(overlay: Overlay | None, frames: range) -> list[int | None]:
    """The first byte of luma of what is shown in each frame."""
    assert overlay is not None
    layers = map(overlay.layer_at, frames)
    return [int(layer.colors[0][4, 4]) if layer else None for layer in layers]


def test_overlays_come_in_their_order_and_videos_are_left_to_the_caller(
    store: LayerStore, work: Work, picture: Path
) -> None:
    text, video = {"text": "x"}, {"url_video": "https://example.com/a.mp4"}
    made, warned = prepared(store, work, text, URL, video, {**text, "position": "top-left"}, o1=picture)
    assert not warned and made[2] is None
    found = [overlay.layer_at(0) for overlay in made if overlay]
    assert len(found) == 3 and all(found)
    assert found[2] is not None and found[2].y < 40


def test_a_still_is_shown_in_its_time_with_its_opacity(store: LayerStore, work: Work, picture: Path) -> None:
    (still,), _ = prepared(store, work, {**URL, "start": 0.5, "end": 1, "opacity": 0.5, "fade": 0.1}, o0=picture)
    assert still is not None
    layers = [still.layer_at(k) for k in range(60)]
    assert [k for k, layer in enumerate(layers) if layer] == list(range(15, 30))
    assert layers[20] is not None and layers[20].opacity == 0.5
    assert layers[15] is not None and 0 < layers[15].opacity < 0.2


def test_the_same_picture_in_many_scenes_is_read_once(
    store: LayerStore, work: Work, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    layers = pictures.layers
    monkeypatch.setattr(pictures, "layers", lambda path, name, *more: read.append(name) or layers(path, name, *more))
    logo = {**URL, "position": "top-right"}
    fading, elsewhere = {**logo, "fade": 0.5, "start": 1}, {**logo, "x": 0.5}
    made, _ = prepared(store, work, logo, fading, elsewhere, o0=picture, o1=picture, o2=picture)
    assert read == ["overlays[0].url_image", "overlays[2].url_image"]
    first, second, third = (overlay.layer_at(40) for overlay in made if overlay)
    assert first and second and third
    assert first.x == second.x != third.x and second.opacity < first.opacity


def test_an_animation_begins_with_its_overlay_and_begins_anew(store: LayerStore, work: Work, animation: Path) -> None:
    (made,), _ = prepared(store, work, {**URL, "start": 1}, o0=animation)
    assert shades(made, range(30)) == [None] * 30
    seen = shades(made, range(30, 60))
    assert [len(set(seen[i : i + 3])) for i in range(0, 30, 3)] == [1] * 10
    assert seen[:9] == seen[9:18] == seen[18:27] and len(set(seen)) == 3
    assert shades(made, range(59, 29, -1)) == seen[::-1], "frames may be asked for in any order"


def test_an_animation_goes_on_under_the_next_transition(store: LayerStore, work: Work, animation: Path) -> None:
    (made,), _ = prepared(store, work, URL, frames=4, o0=animation)
    seen = shades(made, range(64))
    assert seen[:9] == seen[9:18] == seen[54:63] and len(set(seen[:9])) == 3 and None not in seen


def test_a_picture_that_nothing_is_seen_of_is_reported(store: LayerStore, work: Work, tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / "a.png")
    made, warned = prepared(store, work, URL, o0=tmp_path / "a.png")
    assert isinstance(made[0], Nothing) and made[0].layer_at(0) is None
    assert warned == ["overlays[0].url_image: no pixel of the picture is seen"]


def test_a_time_that_is_never_seen_is_refused_before_anything_is_read(
    store: LayerStore, work: Work, tmp_path: Path
) -> None:
    (tmp_path / "none").write_text("no picture")
    with pytest.raises(InvalidParams, match=r"^overlays\[1\]\.start: 2 s is not before the end, which is at 2 s\.$"):
        prepared(store, work, URL, {"text": "x", "start": 2}, o0=tmp_path / "none")
    with pytest.raises(AssetInvalid, match=r"^overlays\[0\]\.url_image: "):
        prepared(store, work, URL, o0=tmp_path / "none")


@pytest.mark.slow
def test_five_hundred_texts_are_drawn_in_one_run(store: LayerStore, work: Work) -> None:
    made, _ = prepared(store, work, *({"text": f"{i}", "position": "top-left"} for i in range(500)))
    layers = [overlay.layer_at(0) for overlay in made if overlay]
    assert len(layers) == 500 and all(layers)
    assert len({layer.colors[0].tobytes() for layer in layers if layer}) == 500


class TestVideo:
    """`Video`: a picture in the picture."""

    def test_its_frames_follow_each_other_from_its_start_and_the_last_one_stays(self) -> None:
        def frames() -> Iterator[Frame]:
            for value in (10, 20, 30):
                frame = blank((16, 16))
                frame[:] = value
                yield frame

        shown = times(params(text="x", start=0.1, end=1), "overlays[0]", 60, RATE)
        video = Video(shown, frames(), 4, 6)
        assert shades(video, range(8)) == [None, None, None, 10, 20, 30, 30, 30]
        layer = video.layer_at(8)
        assert layer is not None and (layer.x, layer.y, layer.size, layer.alphas) == (4, 6, (16, 16), None)
        assert shades(video, range(28, 33)) == [30, 30, None, None, None]

    def test_a_frame_that_was_skipped_is_not_shown_later(self) -> None:
        values = (np.full((24, 16), value, np.uint8) for value in range(100))
        video = Video(times(params(text="x"), "overlays[0]", 60, RATE), values, 0, 0)
        assert [shades(video, range(k, k + 1))[0] for k in (0, 5, 5, 9)] == [0, 5, 5, 9]

    def test_a_video_without_frames_is_not_shown(self) -> None:
        video = Video(times(params(text="x"), "overlays[0]", 60, RATE), iter([]), 0, 0)
        assert video.layer_at(0) is None
