"""`frames` gives exactly the frames that are shown at the wanted times."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ffmpeg_ops.engine.clips import frames as frames_module
from ffmpeg_ops.engine.clips.frames import Target, frames
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.engine.clips.numbered import SIZE, numbered, numbers, opened
from tests.ffmpeg_ops.engine.test_process import processes_in
from tests.ffmpeg_ops.media import X264, Media, cut_off, flipped
from wire.errors import AssetInvalid, Cancelled

LOSSLESS = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -qp 8"
B_FRAMES = "-c:v libx264 -preset fast -bf 3 -b_strategy 0 -g 20 -pix_fmt yuv420p -qp 8"
# Containers and codecs that time frames in every way.
KINDS = {
    "mp4": (LOSSLESS, "mp4"),
    "b-frames": (B_FRAMES, "mp4"),
    "negative DTS in TS": (f"{B_FRAMES} -output_ts_offset -0.08 -avoid_negative_ts disabled", "ts"),
    "late TS": (f"{B_FRAMES} -output_ts_offset 10", "ts"),
    "whole milliseconds": (B_FRAMES, "mkv"),
    "raw": (B_FRAMES, "h264"),
    "avi": ("-c:v mpeg4 -q:v 2", "avi"),
    "edit list": (f"{B_FRAMES} -movflags +negative_cts_offsets -use_editlist 1", "mov"),
    "fragments": (f"{B_FRAMES} -movflags frag_keyframe+empty_moov", "mp4"),
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "b-frames" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_every_frame_comes_once_and_from_any_start(kind: str, media: Media, work: Work) -> None:
    path = numbered(media, options=KINDS[kind][0], extension=KINDS[kind][1])
    assert numbers(path, work, 50) == list(range(50))
    assert numbers(path, work, 10, start_s=33 / 25) == list(range(33, 43))
    assert numbers(path, work, 3, start_s=17.5 / 25) == [17, 18, 19], "what is shown between two frames"


@pytest.mark.parametrize(
    ("source", "rate", "found"),
    [
        ("25", 50, [0, 0, 1, 1, 2, 2, 3, 3]),
        ("50", 25, [0, 2, 4, 6, 8, 10, 12, 14]),
        ("24", 30, [0, 0, 1, 2, 3, 4, 4, 5]),
        ("30000/1001", 30, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("60", Fraction(30000, 1001), [0, 2, 4, 6, 8, 10, 12, 14]),
    ],
)
@pytest.mark.parametrize("extension", [pytest.param("mp4", marks=pytest.mark.slow), "mkv"])
def test_other_rates_show_what_a_player_shows_then(
    source: str, rate: int, found: list[int], extension: str, media: Media, work: Work
) -> None:
    """MKV rounds times to milliseconds, which must not make the motion uneven."""
    path = numbered(media, rate=source, options=LOSSLESS, extension=extension)
    assert numbers(path, work, 8, rate) == found


def test_slides_of_uneven_length_keep_their_times(media: Media, work: Work) -> None:
    times = "setpts='if(eq(N,0),0,if(eq(N,1),0.28,if(eq(N,2),0.48,1)))/TB'"
    source = numbered(media, 4).name
    path = media.made("slides.mp4", f"-i {source} -vf {times} -fps_mode vfr -enc_time_base 1/1000 {LOSSLESS}")
    assert numbers(path, work, 28) == [0] * 7 + [1] * 5 + [2] * 13 + [3] * 3
    assert numbers(path, work, 3, start_s=0.44) == [1, 2, 2]


@pytest.mark.slow
def test_a_short_clip_freezes_or_begins_again(media: Media, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered(media, 10)
    assert numbers(path, work, 8, start_s=0.28) == [7, 8, 9, 9, 9, 9, 9, 9]
    looped = [7, 8, 9, 7, 8, 9, 7, 8]
    assert numbers(path, work, 8, start_s=0.28, when_short="loop") == looped
    monkeypatch.setattr(frames_module, "_KEPT_BYTES", 0)
    assert numbers(path, work, 8, start_s=0.28, when_short="loop") == looped


def test_a_clip_that_changes_its_size_goes_on_in_time(media: Media, work: Work) -> None:
    """FFmpeg makes its filters anew then, and may repeat a neighbour of the last frame before the change."""
    first = numbered(media, 20)
    parts = [
        media.made(f"sized-{i}.ts", f"-i {first.name} -vf scale={size} {LOSSLESS} -output_ts_offset {offset}")
        for i, (size, offset) in enumerate([("64:48", 5), ("96:72", 5.8)])
    ]
    path = media.folder / "sized.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = numbers(path, work, 40)
    assert found[:19] == list(range(19)) and found[20:] == list(range(20))


def test_frames_cannot_be_written_to_and_are_counted(media: Media, work: Work) -> None:
    clip = opened(numbered(media, 10), work)
    with frames(clip, Target(SIZE, Fraction(25)), start_s=0.2, count=9, work=work) as found:
        whole = list(found)
    assert (found.count, found.decoded, found.errors) == (9, 5, 0)
    assert whole[0].shape == (72, 64) and not whole[0].flags.writeable


@pytest.mark.slow
def test_leaving_early_or_a_stop_ends_ffmpeg(media: Media, work: Work) -> None:
    clip = opened(media.video("640x360", 4.0), work)
    target = Target((1280, 720), Fraction(60))
    with frames(clip, target, start_s=0, count=1000, work=work) as found:
        next(found)
        assert processes_in(work.directory), "it decodes ahead"
    assert processes_in(work.directory) == []
    with frames(clip, target, start_s=0, count=1000, work=work) as found:
        next(found)
        work.stop.set(Cancelled())
        with pytest.raises(Cancelled):
            list(found)
    assert processes_in(work.directory) == []


# --- damage ----------------------------------------------------------------------------------------------------------

LONG = f"-f lavfi -i testsrc2=size=320x180:rate=25:duration=4 {X264} -movflags +faststart"


@pytest.mark.slow
def test_a_clip_that_is_cut_off_is_refused_by_name(media: Media, work: Work) -> None:
    clip = opened(cut_off(media, "long.mp4", LONG, 0.5), work)
    target = Target(SIZE, Fraction(25))
    whole = frames(clip, target, start_s=0, count=100, work=work)
    text = r"scenes\[3\].url_video: .* only \d+ of about 100 frames"
    with whole as found, pytest.raises(AssetInvalid, match=text):
        list(found)
    with frames(clip, target, start_s=0.4, count=20, work=work) as found:
        assert len(list(found)) == 20, "the part that is there can be used"
    end = frames(clip, target, start_s=3.8, count=5, work=work)
    with end as found, pytest.raises(AssetInvalid, match=r"scenes\[3\].url_video: .* none of its frames"):
        list(found)


def test_damage_that_leaves_all_frames_is_counted(media: Media, work: Work) -> None:
    clip = opened(flipped(media, "long.mp4", LONG, 3, seed=5), work)
    with frames(clip, Target(SIZE, Fraction(25)), start_s=0, count=100, work=work) as found:
        assert len(list(found)) == 100
    assert found.errors > 0


def test_a_file_without_video_is_refused_by_name(media: Media, work: Work) -> None:
    with pytest.raises(AssetInvalid, match=r"scenes\[3\].url_video: the file has no video stream"):
        opened(media.tone(1.0), work)
