"""What is heard in films, and how loud: every sound has a pitch of its own, by which it is found in the mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.ffmpeg_ops import media as look
from tests.ffmpeg_ops.compose.films import RED, compose
from tests.ffmpeg_ops.media import Media, VideoWork
from wire.errors import AssetInvalid, InvalidParams

RATE = 48_000
VOICE_HZ, MUSIC_HZ, CLIP_HZ = 1000, 300, 2000
LOUD = 0.5


def tone(media: Media, hertz: int, seconds: float) -> Path:
    """A sine of amplitude LOUD."""
    wave = f"-f lavfi -i aevalsrc={LOUD}*sin(2*PI*{hertz}*t):s={RATE}:d={seconds}"
    return media.made(f"tone-{hertz}-{seconds}.wav", wave)


def clip(media: Media, seconds: float, hertz: int = CLIP_HZ) -> Path:
    sound = f"-f lavfi -i aevalsrc={LOUD}*sin(2*PI*{hertz}*t):s={RATE}:d={seconds} -c:a aac -b:a 192k"
    picture = f"-f lavfi -i color=gray:size=96x64:rate=10:duration={seconds}"
    return media.made(f"clip-{hertz}-{seconds}.mp4", f"{picture} {sound} -c:v libx264")


def level(work: VideoWork, hertz: int, start_s: float, end_s: float) -> float:
    """The amplitude of a pitch in a part of the film's sound."""
    wave = look.samples_of(work.video)[round(start_s * RATE) : round(end_s * RATE)] / 32768
    turn = np.exp(-2j * np.pi * hertz * np.arange(len(wave)) / RATE)
    return float(2 * abs((wave * turn).mean()))


def voice(path: Path, **more: Any) -> dict[str, Any]:
    return {"narration": {"url_audio": path, **more}}


def test_a_voice_begins_on_its_sample_and_gives_its_scene_its_length(work: VideoWork, media: Media) -> None:
    scenes = [{"color": RED, "duration": 0.5}, {"color": RED, **voice(tone(media, VOICE_HZ, 1), start=0.2)}]
    scenes[1]["pause_after"] = 0.3
    result = compose(work, scenes)
    assert result["result"]["scenes"][1] == {"start": 0.5, "duration": 1.5}
    wave = np.abs(look.samples_of(work.video) / 32768)
    heard = np.flatnonzero(wave > LOUD / 5)
    assert heard[0] == pytest.approx(0.7 * RATE, abs=40)
    assert heard[-1] == pytest.approx(1.7 * RATE, abs=40)
    assert len(wave) == pytest.approx(2 * RATE, abs=1024)


def test_music_steps_back_while_somebody_speaks(work: VideoWork, media: Media) -> None:
    scenes = [
        {"color": RED, "duration": 2},
        {"color": RED, **voice(tone(media, VOICE_HZ, 2))},
        {"color": RED, "duration": 2},
    ]
    compose(work, scenes, music={"url_audio": tone(media, MUSIC_HZ, 1.5)})
    before, under, after = (level(work, MUSIC_HZ, start, start + 1) for start in (0.5, 2.8, 5))
    assert before == pytest.approx(0.2 * LOUD, rel=0.05), (
        "a fifth where there is narration; it is repeated without a gap"
    )
    assert after == pytest.approx(before, rel=0.05)
    assert under < 0.6 * before
    assert level(work, VOICE_HZ, 2.5, 3.5) == pytest.approx(LOUD, rel=0.05)
    assert level(work, VOICE_HZ, 0.5, 1.5) < 0.01


@pytest.mark.slow
def test_music_alone_is_as_loud_as_it_is_and_ends_once_without_loop(work: VideoWork, media: Media) -> None:
    music = {"url_audio": tone(media, MUSIC_HZ, 1.5), "loop": False, "fade_out": 0.5}
    compose(work, [{"color": RED, "duration": 3}], music=music)
    assert level(work, MUSIC_HZ, 0.2, 0.9) == pytest.approx(LOUD, rel=0.05)
    assert 0.1 * LOUD < level(work, MUSIC_HZ, 1.2, 1.3) < 0.8 * LOUD
    assert level(work, MUSIC_HZ, 1.6, 2.9) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("narrated", "volume", "wanted"),
    [("nothing", None, LOUD), ("film", None, 0), ("scene", None, 0), ("film", 0.5, LOUD / 2), ("nothing", 0, 0)],
)
def test_a_clip_is_heard_unless_there_is_narration(
    work: VideoWork, media: Media, narrated: str, volume: float | None, wanted: float
) -> None:
    spoken = voice(tone(media, VOICE_HZ, 0.5))
    scene = {"url_video": clip(media, 2), "duration": 2, "volume": volume}
    compose(work, [{**scene, **(spoken if narrated == "scene" else {})}], **(spoken if narrated == "film" else {}))
    if narrated == "nothing" and not wanted:
        assert {stream["codec_type"] for stream in look.streams(work.video)} == {"video"}
    else:
        assert level(work, CLIP_HZ, 0.8, 1.8) == pytest.approx(wanted, abs=0.02)


@pytest.mark.slow
def test_a_clip_fades_out_under_the_next_scene(work: VideoWork, media: Media) -> None:
    fading = {"color": RED, "duration": 2, "transition": {"type": "crossfade", "duration": 1}}
    compose(work, [{"url_video": clip(media, 4), "duration": 2}, fading])
    assert level(work, CLIP_HZ, 1.5, 1.9) == pytest.approx(LOUD, rel=0.05)
    assert level(work, CLIP_HZ, 2.4, 2.6) == pytest.approx(LOUD / 2, rel=0.1)
    assert level(work, CLIP_HZ, 3.1, 3.9) < 0.005


def test_a_clip_begins_at_its_start_in_picture_and_sound(work: VideoWork, media: Media) -> None:
    click = f"-f lavfi -i aevalsrc='{LOUD}*between(t,1,1.02)*sin(2*PI*2000*t)':s={RATE}:d=2 -c:a aac -b:a 192k"
    picture = "-f lavfi -i color=black:size=96x64:rate=10:duration=2,drawbox=c=white:t=fill:enable='between(n,10,10)'"
    made = media.made("click-flash.mp4", f"{picture} {click} -c:v libx264 -bf 2")
    scenes = [{"color": "#000000", "duration": 0.5}, {"url_video": made, "start": 0.4, "duration": 1}]
    compose(work, [*scenes, {"url_video": made, "start": 0.8, "duration": 1}])
    flashes = np.flatnonzero(look.frames(work.video).mean(axis=(1, 2)) > 100)
    assert list(flashes) == [11, 17]
    wave = np.abs(look.samples_of(work.video) / 32768)
    for frame in flashes:
        heard = np.flatnonzero(wave[(frame - 1) * 4800 : (frame + 1) * 4800] > LOUD / 3)
        assert heard[0] == pytest.approx(4800, abs=100)


@pytest.mark.slow
def test_a_clip_that_is_repeated_stays_in_step_with_its_sound(work: VideoWork, media: Media) -> None:
    """Its sound is shorter than its picture, and would run ahead by a tenth of a second each time."""
    click = f"-f lavfi -i aevalsrc='{LOUD}*lt(t,0.02)*sin(2*PI*2000*t)':s={RATE}:d=0.4 -c:a aac -b:a 192k"
    picture = "-f lavfi -i color=black:size=96x64:rate=10:duration=0.5,drawbox=c=white:t=fill:enable='eq(n,0)'"
    made = media.made("short-click-flash.mp4", f"{picture} {click} -c:v libx264")
    compose(work, [{"url_video": made, "duration": 3, "when_short": "loop"}])
    flashes = np.flatnonzero(look.frames(work.video).mean(axis=(1, 2)) > 100)
    assert list(flashes) == [0, 5, 10, 15, 20, 25]
    wave = np.abs(look.samples_of(work.video) / 32768)
    for frame in flashes[1:]:
        heard = np.flatnonzero(wave[frame * 4800 - 2400 : frame * 4800 + 2400] > LOUD / 3)
        assert heard[0] == pytest.approx(2400, abs=100)


@pytest.mark.slow
def test_a_video_overlay_is_heard_when_it_is_asked_for(work: VideoWork, media: Media) -> None:
    inset = {"url_video": clip(media, 2), "width": 0.3, "start": 0.5, "end": 1.5, "volume": 0.5}
    compose(work, [{"color": RED, "duration": 2}], overlays=[inset])
    assert level(work, CLIP_HZ, 0.6, 1.4) == pytest.approx(LOUD / 2, rel=0.05)
    assert max(level(work, CLIP_HZ, 0, 0.45), level(work, CLIP_HZ, 1.55, 2)) < 0.01


@pytest.mark.slow
def test_the_film_s_fade_takes_the_sound_with_it(work: VideoWork, media: Media) -> None:
    compose(work, [{"color": RED, "duration": 3}], music={"url_audio": tone(media, MUSIC_HZ, 1.5)}, fade_out=1)
    assert level(work, MUSIC_HZ, 1, 1.9) == pytest.approx(LOUD, rel=0.05)
    assert level(work, MUSIC_HZ, 2.4, 2.6) == pytest.approx(LOUD / 2, rel=0.1)
    assert level(work, MUSIC_HZ, 2.95, 3) < 0.05 * LOUD


def test_a_voice_that_is_longer_than_the_set_scenes_is_refused(work: VideoWork, media: Media) -> None:
    with pytest.raises(InvalidParams) as caught:
        compose(work, [{"color": RED, "duration": 1}], **voice(tone(media, VOICE_HZ, 2)))
    assert caught.value.message == "narration: it ends after 2 s, but all scenes have a duration, 1 s together."
    with pytest.raises(InvalidParams) as caught:
        compose(work, [{"color": RED, "duration": 1, **voice(tone(media, VOICE_HZ, 2))}])
    assert caught.value.message == "scenes[0].narration: it ends after 2 s, but the scene's duration is 1 s."


def test_music_that_cannot_be_read_is_found_before_any_frame_is_made(work: VideoWork, tmp_path: Path) -> None:
    broken = tmp_path / "music.mp3"
    broken.write_bytes(b"ID3" + bytes(5000))
    with pytest.raises(AssetInvalid) as caught:
        compose(work, [{"color": RED, "duration": 1}], music={"url_audio": broken})
    assert caught.value.message.startswith("music.url_audio: ")
    assert not work.video.exists()


@pytest.mark.slow
def test_a_film_without_faults_logs_no_warning(work: VideoWork, media: Media) -> None:
    scenes = [{"url_video": clip(media, 2)}, {"color": RED, **voice(tone(media, VOICE_HZ, 1))}]
    with capture_logs() as lines:
        compose(work, scenes, music={"url_audio": tone(media, MUSIC_HZ, 1.5)}, loudness=-16, poster={"at": 1})
    assert [line for line in lines if line["log_level"] == "warning"] == []
