"""Levels, fades, ducking, loudness and sync, measured on decoded outputs of adicionaAudio."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.adiciona_audio import sources
from tests.ffmpeg_ops.adiciona_audio.listen import RATE, Wave, add, level_db, loudness, tone, wave, with_sound
from tests.ffmpeg_ops.media import Media, VideoWork, packets_md5, stream, streams

OLD, NEW = 500.0, 1300.0
A_TENTH_DB = -20.0
slow = partial(pytest.param, marks=pytest.mark.slow)


def sine(hz: float, amplitude: float = 0.1) -> str:
    return f"'{amplitude}*sin(2*PI*{hz}*t)'"


@pytest.fixture
def video(media: Media) -> Any:
    return with_sound(media, "old", sine(OLD), 3.0)


@pytest.fixture
def new(media: Media) -> Any:
    return tone(media, "new.wav", sine(NEW), 3.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "old_db", "new_db"),
    [
        slow({"mode": "mix"}, -20, -20),
        ({"mode": "mix", "volume": 0.5}, -20, -26),
        ({"mode": "mix", "original_volume": 2, "volume": 0.1}, -14, -40),
        ({"mode": "mix", "original_volume": 0}, None, -20),
        slow({"volume": 2}, None, -14),
        slow({}, None, -20),
    ],
)
def test_both_sounds_have_the_requested_volume(
    params: dict[str, Any], old_db: float | None, new_db: float, video: Any, new: Any, work: VideoWork
) -> None:
    add(work, video, new, **params)
    heard = wave(work.video)
    assert level_db(heard, NEW, 0.5, 2.5) == pytest.approx(new_db, abs=0.3)
    if old_db is None:
        assert level_db(heard, OLD, 0.5, 2.5) < -70
    else:
        assert level_db(heard, OLD, 0.5, 2.5) == pytest.approx(old_db, abs=0.3)


def test_the_new_sound_fades_in_and_out(video: Any, new: Any, work: VideoWork) -> None:
    add(work, video, new, fade_in=1, fade_out=1)
    heard = wave(work.video)
    levels = [level_db(heard, NEW, at - 0.02, at + 0.02) for at in (0.25, 0.5, 1.5, 2.5, 2.75)]
    assert levels == pytest.approx([-32.0, -26.0, -20.0, -26.0, -32.0], abs=0.7)


def test_a_short_sound_fades_out_where_it_ends(media: Media, video: Any, work: VideoWork) -> None:
    add(work, video, tone(media, "short.mp3", sine(NEW), 1.0), start=1, fade_out=0.5)
    heard = wave(work.video)
    assert level_db(heard, NEW, 1.3, 1.4) == pytest.approx(A_TENTH_DB, abs=0.5)
    assert level_db(heard, NEW, 1.73, 1.77) == pytest.approx(A_TENTH_DB - 6, abs=0.8)
    assert level_db(heard, NEW, 2.1, 2.9) < -70


@pytest.mark.slow
@pytest.mark.parametrize("in_memory_s", [60, 0], ids=["memory", "file"])
def test_a_loop_has_no_gap(
    in_memory_s: float, media: Media, video: Any, work: VideoWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_REPEATED_IN_MEMORY_S", in_memory_s)
    add(work, video, tone(media, "half.wav", sine(NEW), 0.5), loop=True)
    heard = wave(work.video)
    parts = [float(np.sqrt(np.mean(heard[i : i + 480] ** 2))) for i in range(4800, int(2.9 * RATE), 480)]
    assert min(parts) > 0.9 * max(parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{}, {"start": 0.7, "volume": 0.5}, {"mode": "mix", "ducking": "new", "fade_in": 0.5}]
)
@pytest.mark.parametrize("extension", ["mp3", "flac"])
def test_a_loop_from_a_file_sounds_like_one_from_memory(
    extension: str, params: Any, media: Media, video: Any, work: VideoWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tone(media, f"loop.{extension}", f"{sine(NEW)}*t", 0.7)
    heard = []
    for in_memory_s in (60, 0):
        monkeypatch.setattr(sources, "_REPEATED_IN_MEMORY_S", in_memory_s)
        add(work, video, new, loop=True, **params)
        heard.append(wave(work.video))
    assert len(heard[0]) == len(heard[1])
    assert np.abs(heard[0] - heard[1]).max() < 0.02 * np.abs(heard[0]).max()
    assert (work.directory / "new.w64").exists()


@pytest.mark.slow
@pytest.mark.parametrize("quieter", ["new", "original"])
def test_music_is_lowered_under_speech(quieter: str, media: Media, work: VideoWork) -> None:
    speech, music = "'0.3*sin(2*PI*500*t)*between(t,1,2)'", sine(NEW, 0.1)
    old, sound = (speech, music) if quieter == "new" else (music, speech)
    video = with_sound(media, f"ducked-{quieter}", old, 4.0)
    add(work, video, tone(media, f"duck-{quieter}.wav", sound, 4.0), mode="mix", ducking=quieter)
    heard = wave(work.video)
    before, during, after = (level_db(heard, NEW, a, a + 0.5) for a in (0.3, 1.4, 3.4))
    assert before == pytest.approx(A_TENTH_DB, abs=0.5) and after == pytest.approx(A_TENTH_DB, abs=1)
    assert before - 24 < during < before - 8
    assert level_db(heard, 500, 1.4, 1.9) == pytest.approx(-10.5, abs=0.5), "the speech stays"


@pytest.mark.slow
@pytest.mark.parametrize("target", [-23, -16])
def test_the_result_has_the_requested_loudness(target: float, media: Media, work: VideoWork, samples: Any) -> None:
    add(work, samples / "video.mp4", samples / "narration.mp3", loudness=target)
    integrated, peak = loudness(work.video)
    assert integrated == pytest.approx(target, abs=1)
    assert peak <= -1


@pytest.mark.slow
def test_a_mix_has_the_requested_loudness_and_a_copied_video(video: Any, new: Any, work: VideoWork) -> None:
    add(work, video, new, mode="mix", loudness=-14, ducking="new")
    integrated, peak = loudness(work.video)
    assert integrated == pytest.approx(-14, abs=1) and peak <= -1
    assert packets_md5(work.video) == packets_md5(video)


@pytest.mark.slow
def test_silence_stays_silent_at_any_loudness(media: Media, work: VideoWork) -> None:
    add(work, media.video(seconds=1.0), tone(media, "nothing.wav", "0", 1.0), loudness=-14)
    assert float(abs(wave(work.video)).max()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("params", [{"mode": "mix"}, {"volume": 10}, {"mode": "mix", "original_volume": 4}])
def test_nothing_clips(params: dict[str, Any], media: Media, work: VideoWork) -> None:
    video = with_sound(media, "loud", sine(OLD, 0.95), 1.0)
    add(work, video, tone(media, "loud.wav", sine(NEW, 0.95), 1.0), **params)
    assert float(abs(wave(work.video)).max()) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8000, 44100, 96000, "5.1"])
def test_any_rate_and_layout_becomes_48_khz_in_stereo(rate: int | str, media: Media, work: VideoWork) -> None:
    """Of surround sound, the center channel is heard, in which there is speech."""
    if rate == "5.1":
        sound = tone(media, "5.1.wav", f"0|0|{sine(NEW)}|0|0|0", 1.0, options="-channel_layout 5.1")
    else:
        source = f"-f lavfi -i sine=frequency={NEW}:sample_rate={rate}:duration=1"
        sound = media.made(f"rate-{rate}.wav", source)
    add(work, media.video(seconds=1.0, audio=False), sound, mode="mix", original_volume=0.5)
    made = stream(work.video, "audio")
    assert (int(made["sample_rate"]), int(made["channels"])) == (48000, 2)
    level, tolerance = (-23, 1.0) if rate == "5.1" else (-18.1, 0.3)
    assert level_db(wave(work.video), NEW, 0.2, 0.8) == pytest.approx(level, abs=tolerance)


@pytest.mark.slow
def test_of_several_tracks_the_first_is_taken(media: Media, video: Any, new: Any, work: VideoWork) -> None:
    two = media.made("two.mkv", f"-i {video.name} -i {new.name} -map 0:v -map 0:a -map 1:a -c:v copy -c:a flac")
    add(work, two, media.tone(0.1), mode="mix", volume=0)
    heard = wave(work.video)
    assert level_db(heard, OLD, 0.5, 2.5) > -21 and level_db(heard, NEW, 0.5, 2.5) < -70
    assert len(streams(work.video)) == 2


CLICK_AT_S = 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extension", "codec", "start"),
    [
        slow("wav", "pcm_s16le", 0.0),
        ("wav", "pcm_s16le", 0.7531),
        ("mp3", "libmp3lame", 0.25),
        slow("m4a", "aac", 0.0),
        ("m4a", "aac", 0.25),
        slow("mov", "aac", 0.0),
        ("mkv", "aac", 0.0),
        ("mkv", "libopus", 0.25),
        slow("ogg", "libvorbis", 0.0),
    ],
)
def test_a_click_is_in_sync(extension: str, codec: str, start: float, media: Media, work: VideoWork) -> None:
    expression = f"'0.9*sin(2*PI*3000*t)*between(t,{CLICK_AT_S},{CLICK_AT_S}+0.002)'"
    click = tone(media, f"click-{codec}.{extension}", expression, 2.5, options=f"-c:a {codec} -b:a 192k")
    add(work, media.video(seconds=2.0), click, start=start)
    assert clicked_s(wave(work.video)) == pytest.approx(clicked_s(wave(click)) + start, abs=0.005)
    if (extension, codec) != ("mkv", "aac"):  # where FFmpeg plays its own encoder's delay
        assert clicked_s(wave(work.video)) == pytest.approx(CLICK_AT_S + start, abs=0.005)


def clicked_s(sound: Wave) -> float:
    return int(np.argmax(abs(sound) > abs(sound).max() / 2)) / RATE
