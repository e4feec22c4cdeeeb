"""ffmpeg_ops.engine.mixing.voice: one sound, decoded, skipped, repeated and faded, as exact as its samples allow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.engine import inspect
from ffmpeg_ops.engine.mixing import voice
from ffmpeg_ops.engine.mixing.voice import Sound, Voice
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.mixing.sounds import RATE, Wave, click, clicks, rms, sine, sound, wav
from tests.ffmpeg_ops.media import Media, damaged
from wire.errors import AssetInvalid

slow = partial(pytest.param, marks=pytest.mark.slow)


def taken(one: Sound, work: Work, count: int = 3600 * RATE) -> Wave:
    """The samples of a sound."""
    reading = Voice(one, work)
    try:
        return reading.take(count)
    finally:
        reading.close()
        assert not work.processes


def test_samples_come_as_they_are_in_the_file(work: Work, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (2 * RATE + 12345, 2)).astype(np.float32)
    path = wav(tmp_path / "noise.wav", noise)
    assert np.array_equal(taken(sound(path, work), work), noise)
    assert np.allclose(taken(sound(path, work, volume=0.5), work), noise / 2)
    assert np.array_equal(taken(sound(path, work, skip_s=1.5), work), noise[round(1.5 * RATE) :])
    assert np.array_equal(taken(sound(path, work, skip_s=0.25, samples=70_000), work), noise[12_000:82_000])
    assert len(taken(sound(path, work, skip_s=9), work)) == 0


def test_any_number_of_samples_can_be_taken(work: Work, tmp_path: Path) -> None:
    noise = np.random.default_rng(2).uniform(-0.5, 0.5, (100_000, 2)).astype(np.float32)
    reading = Voice(sound(wav(tmp_path / "noise.wav", noise), work, samples=99_999), work)
    parts = [reading.take(count) for count in (1, 0, 47_999, 3, 51_995)]
    assert [len(part) for part in parts] == [1, 0, 47_999, 3, 51_995] and not reading.ended
    parts.append(reading.take(10))
    assert reading.ended and len(reading.take(10)) == 0
    reading.close()
    assert np.array_equal(np.concatenate(parts), noise[:99_999])


@pytest.mark.parametrize("in_memory", [True, slow(False)])
@pytest.mark.parametrize("extension", ["wav", slow("mp3"), slow("m4a")])
def test_a_loop_has_no_gap(
    extension: str, in_memory: bool, work: Work, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice, "_KEPT", RATE if in_memory else 0)
    path = media.made(f"loop.{extension}", f"-f lavfi -i sine=frequency=500:duration=0.5:sample_rate={RATE} -b:a 192k")
    # M4A is decoded with the encoder's padding at its end
    made = taken(sound(path, work, loop=True, loop_samples=RATE // 2, samples=2 * RATE + 7), work)
    assert len(made) == 2 * RATE + 7
    levels = [rms(made[at : at + 480]) for at in range(960, len(made) - 480, 480)]
    assert min(levels) > 0.8 * max(levels)
    if extension == "wav":
        assert rms(made[:, 0] - sine(500, 3, 1 / 8)[: len(made)]) < 1e-4


@pytest.mark.parametrize(("length", "starts"), [(9_600, [1000, 10_600, 20_200]), slow(30_000, [1000, 31_000])])
def test_a_round_of_a_loop_may_have_a_length_of_its_own(
    length: int, starts: list[int], work: Work, tmp_path: Path
) -> None:
    path = wav(tmp_path / "click.wav", click(2000, 24_000))
    made = taken(sound(path, work, loop=True, loop_samples=length, skip_s=1000 / RATE, samples=starts[-1] + 500), work)
    assert clicks(made) == starts


def test_a_loop_of_nothing_ends(work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "short.wav", sine(500, 0.1))
    assert len(taken(sound(path, work, loop=True, skip_s=1), work)) == 0


def test_fades_are_straight_and_end_with_the_sound(work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "constant.wav", np.full((3 * RATE, 2), 0.5))
    made = taken(sound(path, work, fade_in=RATE, fade_out=RATE // 2), work)
    assert made[[0, RATE // 2, RATE, 2 * RATE]] == pytest.approx(
        np.array([[0.0] * 2, [0.25] * 2, [0.5] * 2, [0.5] * 2])
    )
    assert made[-RATE // 4, 0] == pytest.approx(0.25) and 0 < made[-1, 0] < 1e-4
    cut = taken(sound(path, work, samples=RATE, fade_out=RATE // 2, skip_s=1), work)
    assert len(cut) == RATE and cut[RATE // 2 - 1, 0] == 0.5 and cut[3 * RATE // 4, 0] == pytest.approx(0.25)
    short = taken(sound(path, work, samples=RATE, fade_out=9 * RATE), work)
    assert short[0, 0] == 0.5 and short[RATE // 2, 0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("channels", "layout", "left", "right"),
    [
        (1, "", 0.2, 0.2),
        slow(2, "", 0.2, 0.1),
        (6, "-channel_layout 5.1", 0.412, 0.312),  # with the center, in which there is speech, at −3 dB
    ],
)
def test_any_layout_becomes_stereo(
    channels: int, layout: str, left: float, right: float, work: Work, media: Media
) -> None:
    levels = "|".join(f"{level}" for level in (0.2, 0.1, 0.3, 0, 0, 0)[:channels])
    path = media.made(f"{channels}.wav", f"-f lavfi -i aevalsrc={levels}:s={RATE}:d=1 {layout} -c:a pcm_f32le")
    made = taken(sound(path, work), work)
    assert made[RATE // 2] == pytest.approx([left, right], abs=2e-3)
    assert len(made) == RATE


@pytest.mark.parametrize("rate", [slow(8000), 44_100, slow(96_000)])
def test_any_rate_becomes_48_khz(rate: int, work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "rate.wav", sine(440, 1.5, rate=rate), rate)
    made = taken(sound(path, work), work)
    assert abs(len(made) - 1.5 * RATE) <= 1
    assert rms(made[4800:-4800, 0] - sine(440, 1.5)[4800 : len(made) - 4800]) < 1e-3


@pytest.mark.parametrize(
    ("name", "options", "slack"),
    [
        ("a.m4a", "-c:a aac -b:a 192k", 1),
        slow("a.mp3", "-c:a libmp3lame -b:a 192k", 1),
        slow("a.webm", "-c:a libopus -b:a 192k", 2),
        slow("a.ogg", "-c:a libvorbis -b:a 192k", 1),
        slow("a.flac", "", 0),
    ],
)
def test_an_encoder_s_delay_is_not_heard(name: str, options: str, slack: int, work: Work, media: Media) -> None:
    samples = wav(media.folder / "delayed.wav", click(30_000, 2 * RATE))
    path = media.made(f"delay-{name}", f"-i {samples.name} {options}")
    found = clicks(taken(sound(path, work), work), 0.1)
    assert found == pytest.approx([30_000], abs=slack)


# --- the sound of a video, in sync with its picture ------------------------------------------------------------------


def clip(media: Media, extension: str, offset_s: float, seconds: int = 12) -> Path:
    """A video with a click every second, whose sound begins `offset_s` after its picture."""
    whole = np.concatenate(
        [click(round((0.5 - offset_s) * RATE) if i == 0 else RATE // 2, RATE) for i in range(seconds)]
    )
    first = round(max(0.0, -offset_s) * RATE)
    samples = wav(media.folder / f"clicks-{offset_s}.wav", whole)
    picture = media.video(seconds=float(seconds), audio=False)
    codec = "pcm_s16le" if extension in {"mov", "mkv"} else "aac -b:a 192k"
    return media.made(
        f"clicks-{offset_s}-{first}.{extension}",
        f"-i {picture.name} -itsoffset {offset_s} -i {samples.name} -map 0 -map 1 -c:v copy -c:a {codec}",
    )


def own_sound(path: Path, work: Work, skip_s: float, **fields: Any) -> Sound:
    info = inspect.media_asset(path, "url_video", work)
    assert info.video and info.audio
    return Sound(path, info.audio, "url_video", 0, 4 * RATE, skip_s=skip_s, zero_s=info.video.start_s, **fields)


@pytest.mark.parametrize("extension", ["mov", slow("mp4"), slow("mkv"), slow("ts")])
@pytest.mark.parametrize("skip_s", [slow(0.0), 0.25, slow(7.25)])
@pytest.mark.parametrize("offset_s", [slow(0.0), 0.04, slow(0.3)])
def test_a_video_s_sound_stays_in_sync(
    extension: str, skip_s: float, offset_s: float, work: Work, media: Media
) -> None:
    """However late it begins, and wherever in the video."""
    path = clip(media, extension, offset_s)
    found = clicks(taken(own_sound(path, work, skip_s), work))
    later = round(offset_s * RATE)
    expected = [
        RATE // 2 + (0 if second == 0 else later) + second * RATE - round(skip_s * RATE) for second in range(12)
    ]
    expected = [at for at in expected if 0 <= at < 4 * RATE]
    assert len(found) == len(expected)
    # MP4 states in milliseconds how much later a stream begins
    assert found == pytest.approx(expected, abs={"ts": 3, "mp4": 48}.get(extension, 1))


@pytest.mark.parametrize("extension", ["mov", slow("mp4"), slow("mkv")])
def test_seeking_changes_no_sample(extension: str, work: Work, media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(media, extension, 0.04)
    assert "-ss" in voice.command(own_sound(path, work, 7.25))
    sought = taken(own_sound(path, work, 7.25), work)
    monkeypatch.setattr(voice, "_WORTH_SEEKING_S", 99)
    assert np.abs(taken(own_sound(path, work, 7.25), work) - sought).max() < 1e-4


def test_no_place_is_sought_where_there_is_no_index(work: Work, media: Media) -> None:
    assert "-ss" not in voice.command(own_sound(clip(media, "ts", 0.0), work, 7.25))


def test_a_sound_that_ends_before_it_is_heard_is_silent(work: Work, media: Media) -> None:
    picture = media.video(seconds=2.0, audio=False)
    path = media.made("early.mov", f"-i {picture.name} -i {media.tone(0.5).name} -c:v copy -c:a pcm_s16le")
    assert len(taken(own_sound(path, work, 1.0), work)) == 0


@pytest.mark.parametrize("of_video", [slow(False), True])
def test_a_sound_that_changes_its_rate_goes_on(of_video: bool, work: Work, media: Media) -> None:
    """As joined recordings do. Nothing is lost where FFmpeg restarts its filters, and no silence is added."""
    parts = [
        media.made(f"part-{rate}.ts", f"-f lavfi -i sine=d=2:sample_rate={rate} -c:a aac -output_ts_offset {offset}")
        for rate, offset in ((48_000, 0), (44_100, 2))
    ]
    path = media.folder / "changing.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    made = taken(sound(path, work, **({"zero_s": inspect.probe(path, work).start_s} if of_video else {})), work)
    assert len(made) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    levels = [rms(made[at : at + 4800]) for at in range(4800, len(made) - 9600, 4800)]
    assert min(levels) > 0.5 * max(levels)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_damage_ends_a_voice_with_its_name(work: Work, media: Media) -> None:
    whole = media.made("whole.m4a", "-f lavfi -i anoisesrc=d=1:seed=1:a=0.1 -c:a aac -movflags faststart").read_bytes()
    path = media.folder / "narration.m4a"
    path.write_bytes(whole)
    described = sound(path, work)
    at = whole.index(b"mdat") + 4
    path.write_bytes(whole[:at] + b"\xff" * (len(whole) - at))
    with pytest.raises(AssetInvalid, match=r"narration: the file's sound cannot be decoded"):
        taken(described, work)


def test_values_that_are_no_numbers_are_refused_by_name(work: Work, tmp_path: Path) -> None:
    samples = sine(440, 2)
    samples[70_000] = np.nan
    with pytest.raises(AssetInvalid, match="music: the file is damaged: its sound has values that are no numbers"):
        taken(sound(wav(tmp_path / "music.wav", samples), work), work)


def test_damaged_parts_are_counted(work: Work, media: Media) -> None:
    path = damaged(media, "noise.aac", "-f lavfi -i anoisesrc=d=5:seed=1:a=0.1 -c:a aac", 20)
    reading = Voice(sound(path, work), work)
    made = reading.take(3600 * RATE)
    reading.close()
    assert reading.errors > 0 and len(made) > 3 * RATE
