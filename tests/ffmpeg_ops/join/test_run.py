"""`join` shows every video whole and in sync, whatever the videos are like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.operation import OPERATIONS
from tests.ffmpeg_ops.engine.clips.numbered import numbered, numbers_in
from tests.ffmpeg_ops.media import (
    X264,
    Media,
    VideoWork,
    audio_length_s,
    cut_off,
    ffmpeg,
    frames,
    hdr,
    samples_of,
    stream,
    streams,
)
from wire.errors import AssetInvalid


def join(work: VideoWork, videos: list[Path], **params: object) -> dict[str, object]:
    urls = [f"https://example.com/{path.name}" for path in videos]
    operation = OPERATIONS["join"]
    assets = {f"url_videos[{i}]": path for i, path in enumerate(videos)}
    return operation.run(work, operation.params().load({"url_videos": urls, **params}), assets)


@pytest.mark.slow
def test_every_frame_of_every_video_follows(media: Media, work: VideoWork) -> None:
    """Also of a transport stream with B-frames and negative decoding times."""
    stream_ts = f"{X264} -bf 2 -qp 8 -output_ts_offset -0.08 -avoid_negative_ts disabled"
    videos = [numbered(media, 10), numbered(media, 15, options=stream_ts, extension="ts"), numbered(media, 5)]
    stats = join(work, videos)
    assert numbers_in(work.video) == [*range(10), *range(15), *range(5)]
    assert stats["frames"] == 30 and stats["result"] == {"starts": [0.0, 0.4, 1.0]}
    assert [s["codec_type"] for s in streams(work.video)] == ["video"], "none of them has sound"


@pytest.mark.slow
def test_videos_of_all_kinds_get_the_size_and_the_rate_of_the_first(media: Media, work: VideoWork) -> None:
    videos = [media.video("160x90", 1.0, "30"), media.rotated(), hdr(media, "smpte2084"), media.webm()]
    stats = join(work, videos, fit="contain", background="#000000")
    made = stream(work.video, "video")
    assert (made["width"], made["height"], made["r_frame_rate"]) == (160, 90, "30/1")
    assert stats["frames"] == 30 + 60 + 12 + 30
    assert abs(audio_length_s(work.video) - 132 / 30) < 0.0214, "up to a whole packet"
    shown = frames(work.video)
    assert shown[60][45, 5] < 20 < 100 < shown[60][45, 80], "upright in the middle"
    assert shown[95][45, 40] < 20 and shown[95][45, 120] > 200, "HDR"


@pytest.mark.slow
def test_a_hundred_mixed_videos_stay_in_sync(media: Media, work: VideoWork) -> None:
    """Each begins with a white frame and a click, at sizes, rates and sample rates that differ, some without sound."""
    kinds = [
        ("25", "48000", 2, "mp4"),
        ("30000/1001", "44100", 1, "mp4"),
        ("24", "22050", 1, "mkv"),
        ("50", "", 0, "ts"),
    ]
    made = []
    for i, (rate, sound, channels, extension) in enumerate(kinds):
        flash = "geq=lum='if(lt(T,0.01),235,16)':cb=128:cr=128"
        video = f"-f lavfi -i color=black:size={64 + 16 * i}x{48 + 32 * (i % 2)}:rate={rate}:duration={0.33 + i / 30:.3f},{flash}"
        click = f"aevalsrc='if(lt(t,0.002),0.8,0)':sample_rate={sound}:duration={0.3 if i else 0.6}"
        audio = f"-f lavfi -i {click} -ac {channels} -c:a {'flac' if extension == 'mkv' else 'aac'}" if sound else ""
        made.append(media.made(f"click-{i}.{extension}", f"{video} {audio} {X264} -bf 2"))
    stats = join(work, [made[i % 4] for i in range(100)], frame_rate=30)
    starts = stats["result"]["starts"]  # type: ignore[index]
    bright = np.nonzero(frames(work.video).mean(axis=(1, 2)) > 150)[0]
    flashes = [float(n) / 30 for n in bright if n - 1 not in bright]
    assert len(flashes) == 100 and np.abs(np.array(flashes) - starts).max() < 1e-3
    loud = np.nonzero(np.abs(samples_of(work.video).astype(float)) > 6000)[0] / 48000
    clicks = [t for t, before in zip(loud, [-1, *loud], strict=False) if t - before > 0.1]
    heard = [start for i, start in enumerate(starts) if i % 4 != 3]
    assert len(clicks) == 75 and np.abs(np.array(clicks) - heard).max() < 1 / 30
    assert abs(audio_length_s(work.video) - stats["frames"] / 30) < 0.0214  # type: ignore[operator]


@pytest.mark.slow
def test_a_video_without_sound_is_silent_and_moves_nothing(media: Media, work: VideoWork) -> None:
    videos = [media.video("96x64", 0.6), media.video("96x64", 1.0, audio=False), media.video("96x64", 0.6)]
    join(work, videos)
    heard = np.abs(samples_of(work.video).astype(float))
    assert heard[5000:24000].max() > 1000 and heard[80000:].max() > 1000
    assert heard[32000:74000].max() < 100, "silent"


@pytest.mark.slow
def test_a_damaged_video_is_named(media: Media, work: VideoWork) -> None:
    whole = f"-f lavfi -i testsrc2=size=320x180:rate=25:duration=4 {X264} -movflags +faststart"
    videos = [media.video(), cut_off(media, "join-4.mp4", whole, 0.5)]
    with pytest.raises(AssetInvalid, match=r"url_videos\[1\]: .* only \d+ of about 100 frames"):
        join(work, videos)
    with pytest.raises(AssetInvalid, match=r"url_videos\[1\]: .* no video stream"):
        join(work, [media.video(), media.tone()])


@pytest.mark.slow
def test_the_frame_at_a_boundary_belongs_to_no_other(media: Media, work: VideoWork) -> None:
    """29.97 into 30: lengths add up, and no frame is blended, lost or shown twice around a boundary."""
    videos = [numbered(media, 30, "30000/1001")] * 4
    join(work, videos, frame_rate=30)
    found = numbers_in(work.video)
    assert len(found) == 120 and [found[n] for n in (0, 29, 30, 59, 60, 119)] == [0, 29, 0, 29, 0, 29]
    ffmpeg("-i", work.video, "-f", "null", "-")
