"""`trim` is exact to the frame and the sample."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.ffmpeg_ops.engine.clips.numbered import numbered, numbers_in
from tests.ffmpeg_ops.media import X264, Media, VideoWork, audio_length_s, cut_off, frames, run, samples_of, stream
from wire.errors import AssetInvalid, InvalidParams

B_FRAMES = "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -g 20 -pix_fmt yuv420p -qp 8"


@pytest.mark.parametrize(
    ("params", "first", "count"),
    [
        ({"start": 0.4, "end": 1.2}, 10, 20),
        pytest.param({"start": 1.24}, 31, 19, marks=pytest.mark.slow),
        pytest.param({"duration": 0.2}, 0, 5, marks=pytest.mark.slow),
        pytest.param({"start": 0.5, "duration": 0.01}, 12, 1, marks=pytest.mark.slow),
    ],
)
def test_the_frames_between_two_times_are_kept(
    params: dict[str, float], first: int, count: int, media: Media, work: VideoWork
) -> None:
    stats = run("trim", work, params, url_video=numbered(media, options=B_FRAMES))
    assert numbers_in(work.video) == list(range(first, first + count))
    start = params.get("start", 0.0)
    assert stats["result"]["parts"] == [{"start": start, "end": pytest.approx(start + count / 25)}]
    assert stats["frames"] == count


@pytest.mark.slow
def test_parts_follow_in_their_order(media: Media, work: VideoWork) -> None:
    parts = [{"start": 1.2, "duration": 0.2}, {"end": 0.12}, {"start": 1.8, "end": 9}]
    stats = run("trim", work, {"parts": parts}, url_video=numbered(media, options=B_FRAMES))
    assert numbers_in(work.video) == [30, 31, 32, 33, 34, 0, 1, 2, 45, 46, 47, 48, 49]
    assert stats["warnings"] == ["parts[2].end: the video ends after 2.00 seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["ts", "mkv"])
def test_random_cuts_are_exact_in_other_containers(extension: str, media: Media, work: VideoWork) -> None:
    video = numbered(media, rate="30000/1001", options=f"{B_FRAMES} -output_ts_offset 7", extension=extension)
    chance = random.Random(7)
    cuts = [(start, chance.randint(1, 50 - start)) for start in chance.sample(range(50), 6)]
    rate = 30000 / 1001
    parts = [{"start": start / rate + 0.005, "duration": count / rate} for start, count in cuts]
    run("trim", work, {"parts": parts}, url_video=video)
    assert numbers_in(work.video) == [n for start, count in cuts for n in range(start, start + count)]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "extension"), [("-c:a aac", "mp4"), ("-c:a flac", "mkv"), ("-c:a mp2", "ts")])
def test_the_sound_is_cut_at_the_sample(options: str, extension: str, media: Media, work: VideoWork) -> None:
    """A click at 1.5 s of a sound of 44.1 kHz is heard 0.3 s after a cut at 1.2 s."""
    click = "-f lavfi -i aevalsrc='if(gte(t,1.5)*lt(t,1.502),0.8,0)':sample_rate=44100:duration=2"
    video = media.made(f"click.{extension}", f"-i {numbered(media).name} {click} -ac 1 {X264} -bf 2 {options}")
    run("trim", work, {"start": 1.2, "end": 2.0}, url_video=video)
    heard = np.nonzero(np.abs(samples_of(work.video).astype(float)) > 6000)[0]
    assert heard[0] / 48000 == pytest.approx(0.3, abs=0.002)
    assert audio_length_s(work.video) == pytest.approx(0.8, abs=0.0214)
    assert len(numbers_in(work.video)) == 20


@pytest.mark.slow
def test_rotation_is_kept_upright_and_a_late_start_is_refused(media: Media, work: VideoWork) -> None:
    run("trim", work, {"start": 0.4, "duration": 0.4}, url_video=media.rotated())
    assert frames(work.video).shape == (10, 160, 90) and "side_data_list" not in stream(work.video, "video")
    with pytest.raises(InvalidParams, match=r"parts\[1\].start: the video ends after 2.00 seconds"):
        run("trim", work, {"parts": [{"start": 1}, {"start": 2}]}, url_video=media.gray())


@pytest.mark.slow
def test_what_is_whole_of_a_damaged_video_can_be_cut_out(media: Media, work: VideoWork) -> None:
    source = f"-f lavfi -i testsrc2=size=320x180:rate=25:duration=4 {X264} -movflags +faststart"
    video = cut_off(media, "trim-4.mp4", source, 0.5)
    assert run("trim", work, {"start": 0.2, "duration": 1}, url_video=video)["frames"] == 25
    with pytest.raises(AssetInvalid, match="url_video: .* only .* frames could be read"):
        run("trim", work, {"start": 0.2}, url_video=video)
