from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from common.validation import flatten
from ffmpeg_ops.compose import OPERATION
from ffmpeg_ops.compose.params import MAX_FILM_SECONDS, MAX_SCENES, ComposeParams
from ffmpeg_ops.engine.overlays.params import MAX_IN_FILM, MAX_OVERLAYS

STILL = {"url_image": "https://example.com/a.jpg"}
CLIP = {"url_video": "https://example.com/a.mp4"}
COLOR = {"color": "#101820"}
VOICE = {"url_audio": "https://example.com/a.mp3"}
TEXT = {"text": "Hello"}
FADE = {"type": "fade", "duration": 1}


def load(**params: Any) -> dict[str, Any]:
    return ComposeParams().load({"scenes": [STILL], **params})


def refused(**params: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        load(**params)
    return flatten(caught.value.normalized_messages())


def test_one_still_is_a_film() -> None:
    film = load()
    assert (film["size"], film["frame_rate"], film["tail"], film["fade_out"]) == ("9:16", 30, 0, 0)
    assert film["loudness"] is None
    assert "duration" not in film["scenes"][0]
    assert film["scenes"][0]["motion"] == "zoom_in"


def test_music_repeats_and_steps_back_and_its_volume_depends_on_the_rest() -> None:
    music = load(music=VOICE)["music"]
    assert (music["loop"], music["ducking"], music["fade_out"], music["volume"]) == (True, True, 0, None)


@pytest.mark.parametrize(
    ("wrong", "path", "says"),
    [
        ({"scenes": []}, "scenes", "Length must be between"),
        ({"scenes": [COLOR] * (MAX_SCENES + 1)}, "scenes", "Length must be between"),
        ({"scenes": [{}]}, "scenes[0].url_image", "exactly one of url_image, url_video, color, not none"),
        ({"scenes": [{**STILL, **CLIP}]}, "scenes[0].url_video", "not url_image and url_video"),
        ({"scenes": [{**COLOR, "motion": "none"}]}, "scenes[0].motion", "Does not belong to a scene of color."),
        ({"scenes": [{**COLOR, "fit": "cover"}]}, "scenes[0].fit", "Does not belong to a scene of color."),
        ({"scenes": [{**STILL, "start": 1}]}, "scenes[0].start", "Does not belong to a scene of url_image."),
        ({"scenes": [{**CLIP, "easing": "linear"}]}, "scenes[0].easing", "Does not belong to a scene of url_video."),
        ({"scenes": [{**CLIP, "duration": 0}]}, "scenes[0].duration", "greater than 0"),
        ({"scenes": [{**STILL, "pause_after": 1}]}, "scenes[0].pause_after", "Needs a narration of this scene."),
        ({"scenes": [{**STILL, "color": "red"}]}, "scenes[0].color", "colour like"),
        ({"scenes": [{**STILL, "transition": {"type": "wipe"}}]}, "scenes[0].transition.type", "can only fade in"),
        ({"scenes": [STILL, {**STILL, "transition": {**FADE, "duration": 2.1}}]}, "scenes[1].transition.duration", "2"),
        ({"scenes": [STILL, {**STILL, "transition": {"type": "x"}}]}, "scenes[1].transition.type", "Must be one of"),
        ({"scenes": [{**STILL, "duration": 600}] * 2}, "scenes", f"at most {MAX_FILM_SECONDS}"),
        ({"scenes": [{**STILL, "duration": 1}], "tail": 1}, "tail", "Needs a scene without `duration`"),
        ({"captions": {}}, "captions.url_srt", "exactly one of"),
        ({"captions": {"subtitles": "x", "words": [{"word": "a", "start": 1}]}}, "captions.words", "exactly one of"),
        ({"overlays": [{}]}, "overlays[0].text", "exactly one of"),
        ({"overlays": [TEXT] * (MAX_OVERLAYS + 1)}, "overlays", "At most"),
        ({"overlays": [{"text": "x" * 100_000}]}, "overlays[0].text", "Length must be"),
        ({"narration": {}}, "narration.url_audio", "Missing data"),
        ({"poster": {"at": -1}}, "poster.at", "Must be from 0"),
    ],
)
def test_what_cannot_be_a_film_is_refused_by_path(wrong: dict[str, Any], path: str, says: str) -> None:
    assert says in refused(**wrong)[path][0]


def test_overlays_are_counted_in_the_whole_film() -> None:
    full = {**STILL, "overlays": [TEXT] * MAX_OVERLAYS}
    most = MAX_IN_FILM // MAX_OVERLAYS
    assert load(scenes=[full] * most)
    assert "501" in refused(scenes=[full] * most, overlays=[TEXT])["overlays"][0]


def test_what_is_null_or_empty_is_not_set() -> None:
    scene = {**COLOR, "motion": None, "start": "", "url_video": None, "narration": None}
    assert "narration" not in load(scenes=[scene])["scenes"][0]


def test_assets_are_found_at_every_depth() -> None:
    overlays = [{"url_image": "https://example.com/b.png"}, {"url_video": "https://example.com/b.mp4"}]
    scenes = [STILL, {**CLIP, "narration": VOICE, "overlays": overlays}]
    film = load(
        scenes=scenes,
        narration=VOICE,
        music=VOICE,
        overlays=overlays,
        captions={"url_srt": "https://example.com/a.srt"},
    )
    found = {asset.path: asset.kind for asset in OPERATION.named_assets(film)}
    assert found == {
        "scenes[0].url_image": "image",
        "scenes[1].url_video": "video",
        "scenes[1].narration.url_audio": "audio",
        "scenes[1].overlays[0].url_image": "image",
        "scenes[1].overlays[1].url_video": "video",
        "narration.url_audio": "audio",
        "music.url_audio": "audio",
        "captions.url_srt": "subtitles",
        "overlays[0].url_image": "image",
        "overlays[1].url_video": "video",
    }


def test_a_poster_is_an_output_when_it_is_asked_for() -> None:
    assert list(OPERATION.outputs(load())) == ["video"]
    assert list(OPERATION.outputs(load(poster={"at": 1}))) == ["video", "poster"]
