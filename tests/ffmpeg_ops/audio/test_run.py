"""Joined sounds, decoded and compared to the sample."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marshmallow import ValidationError
from numpy.typing import NDArray

from ffmpeg_ops.engine.inspect import AudioStream
from ffmpeg_ops.engine.mixing import measure
from ffmpeg_ops.operation import OPERATIONS, Work
from tests.ffmpeg_ops.media import Media, ffmpeg, recorded, stream
from wire.errors import AssetHasNoAudio, AssetInvalid

slow = partial(pytest.param, marks=pytest.mark.slow)
RATE = 48000


def join(directory: Path, *paths: Path, **params: Any) -> tuple[dict[str, Any], Path]:
    operation = OPERATIONS["audio"]
    urls = [f"https://example.com/{i}" for i in range(len(paths))]
    loaded = operation.params().load({"url_audios": urls, "format": "wav", **params})
    work = Work(directory, outputs=operation.declared(loaded))
    assets = {f"url_audios[{i}]": path for i, path in enumerate(paths)}
    return operation.run(work, loaded, assets), work.output("audio")


def samples(path: Path) -> NDArray[Any]:
    """What is heard, as (samples, 2)."""
    return np.frombuffer(ffmpeg("-i", path, "-f", "f32le", "-ar", str(RATE), "-ac", "2", "-"), "f4").reshape(-1, 2)


def level(sound: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(sound.astype(float) ** 2)))


def test_sounds_follow_each_other_to_the_sample(media: Media, tmp_path: Path) -> None:
    first = media.made("first.wav", f"-f lavfi -i sine=f=440:r={RATE} -af atrim=end_sample=12345")
    second = media.made("second.wav", "-f lavfi -i sine=f=880:r=44100 -af atrim=end_sample=44100 -ac 2")
    made, path = join(tmp_path, first, second, first, gap=0.25)
    heard, gap = samples(path), RATE // 4
    assert made["result"]["starts"] == pytest.approx(
        [0, (12345 + gap) / RATE, (12345 + 2 * gap + RATE) / RATE], abs=1e-5
    )
    assert len(heard) == 12345 * 2 + gap * 2 + RATE == round(made["result"]["duration_s"] * RATE)
    assert level(heard[12345 : 12345 + gap]) < 1e-4 < 0.05 < level(heard[:12345])
    begin = 12345 + gap
    assert level(heard[begin : begin + RATE]) > 0.05
    assert np.abs(heard[-12345:] - heard[:12345]).max() < 1e-3, "the third is the first again, at its place"


@pytest.mark.parametrize("form", ["m4a", slow("mp3")])
def test_every_format_is_as_long_as_planned(form: str, media: Media, tmp_path: Path) -> None:
    made, path = join(tmp_path, media.tone(1.0), media.tone(0.5), format=form)
    assert made["result"]["duration_s"] == pytest.approx(1.5)
    assert stream(path, "audio")["codec_name"] == {"m4a": "aac", "mp3": "mp3"}[form]
    heard = samples(path)
    assert 0 <= len(heard) - 1.5 * RATE <= 1152
    assert level(heard[int(0.2 * RATE) : int(1.3 * RATE)]) > 0.05


@pytest.mark.slow
def test_a_video_gives_its_sound_and_so_does_a_song_with_a_cover(media: Media, tmp_path: Path) -> None:
    made, path = join(tmp_path, media.video(), media.song_with_cover())
    assert len(samples(path)) == round(made["result"]["duration_s"] * RATE)
    assert stream(path, "audio")["channels"] == 2


@pytest.mark.slow
def test_the_whole_gets_the_loudness(media: Media, tmp_path: Path) -> None:
    quiet = media.made("quiet.wav", f"-f lavfi -i sine=f=997:r={RATE}:d=4 -af volume=-20dB")
    made, path = join(tmp_path, quiet, quiet, loudness=-16)
    sound = AudioStream(0, "pcm_s16le", RATE, 2, None)
    lufs, peak_db = measure.loudness(path, sound, Work(tmp_path))
    assert lufs == pytest.approx(-16, abs=1)
    assert peak_db < -1
    assert len(samples(path)) == round(made["result"]["duration_s"] * RATE)


@pytest.mark.slow
def test_a_sound_that_changes_midway_is_heard_whole(media: Media, tmp_path: Path) -> None:
    parts = [
        media.made(f"{r}.aac", f"-f lavfi -i sine=f={r // 50}:r={r}:d=1 -c:a aac").read_bytes() for r in (44100, 22050)
    ]
    (path := tmp_path / "changes.aac").write_bytes(b"".join(parts))
    made, out = join(tmp_path, media.tone(0.5), path, media.tone(0.5))
    assert made["result"]["duration_s"] == pytest.approx(3.0, abs=0.2)
    assert level(samples(out)[-RATE // 4 :]) > 0.05


@pytest.mark.slow
def test_a_hundred_sounds_are_one_encode(media: Media, tmp_path: Path) -> None:
    short = media.made("short.wav", f"-f lavfi -i sine=r={RATE} -af atrim=end_sample=1001")
    made, path = join(tmp_path, *[short] * 100)
    assert len(samples(path)) == 100_100
    assert len(made["result"]["starts"]) == 100


@pytest.mark.slow
def test_many_channels_become_two(media: Media, tmp_path: Path) -> None:
    _, path = join(tmp_path, recorded(media, 6))
    assert stream(path, "audio")["channels"] == 2


def test_the_file_that_is_wrong_is_named(media: Media, tmp_path: Path) -> None:
    with pytest.raises(AssetHasNoAudio, match=r"url_audios\[1\]: the file has no audio track"):
        join(tmp_path, media.tone(0.5), media.video(audio=False))
    (page := tmp_path / "page.html").write_text("<!doctype html>")
    with pytest.raises(AssetInvalid, match=r"url_audios\[0\]: the file is an HTML page, not an audio file"):
        join(tmp_path, page)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"url_audios": []}, "url_audios"),
        ({"url_audios": ["https://example.com/a"] * 101}, "url_audios"),
        ({"url_audios": "https://example.com/a"}, "url_audios"),
        ({"url_audios": ["ftp://example.com/a"]}, "url_audios"),
        ({"gap": -1}, "gap"),
        ({"gap": 61}, "gap"),
        ({"format": "ogg"}, "format"),
        ({"loudness": 0}, "loudness"),
    ],
)
def test_other_params_are_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OPERATIONS["audio"].params().load({"url_audios": ["https://example.com/a"], **wrong})
    assert list(caught.value.normalized_messages()) == [field]
