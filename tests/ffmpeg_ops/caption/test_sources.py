"""Videos as they come: whatever the source is, its frames, their times, its sound and its colours stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.engine import inspect
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import (
    HDR,
    Media,
    audio_length_s,
    ffmpeg,
    frame_count,
    frames,
    hdr,
    packets_md5,
    run,
    samples_of,
    stream,
    streams,
)
from wire.errors import AssetInvalid

SRT = "1\n00:00:00,000 --> 00:20:00,000\nTexto\n"
X264 = "-c:v libx264 -preset ultrafast"


def caption(work: Work, video: Path, text: str = SRT, **style: Any) -> dict[str, Any]:
    params = {"subtitles": text, **({"style": style} if style else {})}
    return run("caption", work, params, url_video=video)


def times(path: Path) -> list[float]:
    """When each frame is shown, in seconds."""
    raw = ffmpeg(
        "-i", path, "-map", "0:v:0", "-f", "framecrc", "-fps_mode", "passthrough", "-enc_time_base", "1/90000", "-"
    )
    return [int(line.split(b",")[2]) / 90000 for line in raw.splitlines() if not line.startswith(b"#")]


def uneven(media: Media, seconds: int, extension: str = "mp4") -> Path:
    """Pictures at irregular times, as phones and screen recorders make them."""
    source = f"-f lavfi -i testsrc2=size=64x48:rate=30:duration={seconds} -f lavfi -i sine=duration={seconds}"
    some = "-vf select='gt(random(7)\\,0.6)' -fps_mode vfr"
    return media.made(f"uneven-{seconds}.{extension}", f"{source} {some} {X264} -bf 0 -pix_fmt yuv420p -c:a aac")


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_uneven_times_stay_as_they_are(extension: str, media: Media, work: Work) -> None:
    video = uneven(media, 4, extension)
    caption(work, video)
    assert times(work.output("video")) == pytest.approx(times(video), abs=0.001)


@pytest.mark.slow
def test_ten_uneven_minutes_end_in_step(media: Media, work: Work) -> None:
    video = uneven(media, 600)
    caption(work, video)
    before, after = times(video), times(work.output("video"))
    assert len(after) == len(before) > 5000
    assert after == pytest.approx(before, abs=0.001)
    assert packets_md5(work.output("video"), "a") == packets_md5(video, "a")
    assert float(stream(work.output("video"), "audio")["duration"]) == pytest.approx(600, abs=0.05)


@pytest.mark.parametrize(
    ("name", "codecs", "sound"),
    [
        ("a.mkv", "-c:v libx264 -c:a flac", "aac"),
        ("a.mov", "-c:v prores_ks -profile:v 0 -c:a pcm_s16le", "aac"),
        ("a.avi", "-c:v mpeg4 -c:a mp3", "mp3"),
        ("a.ts", "-c:v mpeg2video -c:a mp2", "aac"),
        ("a.webm", "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libvorbis", "aac"),
    ],
)
def test_other_containers_and_codecs_become_mp4(name: str, codecs: str, sound: str, media: Media, work: Work) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -f lavfi -i sine=duration=1"
    video = media.made(name, f"{source} {codecs}")
    stats = caption(work, video)
    assert stats["frames"] == frame_count(video) == 25
    assert stream(work.output("video"), "audio")["codec_name"] == sound
    assert audio_length_s(work.output("video")) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("name", "codec"), [("camera.avi", "mjpeg -pix_fmt yuvj420p"), ("camera.mxf", "mpeg2video")])
def test_sound_that_is_encoded_keeps_its_time_to_the_sample(name: str, codec: str, media: Media, work: Work) -> None:
    """These containers count in whole pictures, which is too coarse a clock for sound."""
    sound = "-f lavfi -i aevalsrc=gt(t\\,0.5)*sin(2*PI*1000*t):s=48000:d=1"
    video = media.made(name, f"-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 {sound} -c:v {codec} -c:a pcm_s16le")
    caption(work, video)
    loud = np.flatnonzero(np.abs(samples_of(work.output("video"))) > 16000)
    assert loud[0] == pytest.approx(24_000, abs=48)
    assert float(stream(work.output("video"), "audio")["duration"]) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(("channels", "layout"), [("5.1(side)", "5.1"), ("mono", "mono")])
def test_surround_becomes_what_every_player_has(channels: str, layout: str, media: Media, work: Work) -> None:
    """Browsers show an MP4 with AC-3 in silence, and AAC has a number of its own for the usual layouts alone."""
    sound = f"-f lavfi -i sine=duration=1,aformat=channel_layouts={channels}"
    video = media.made(
        f"surround-{channels}.mkv", f"-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 {sound} {X264} -c:a ac3"
    )
    assert stream(video, "audio")["channel_layout"] == channels
    caption(work, video)
    made = stream(work.output("video"), "audio")
    assert (made["codec_name"], made["channel_layout"]) == ("aac", layout)


def test_the_default_sound_track_is_the_one_that_is_kept(media: Media, work: Work) -> None:
    source = (
        "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -f lavfi -i sine=duration=1 -f lavfi -i sine=880:duration=1"
    )
    more = "-map 0 -map 1 -map 2 -ac:a:1 2 -c:a aac -disposition:a:0 0 -disposition:a:1 default"
    video = media.made("two-tracks.mp4", f"{source} {more} {X264} -pix_fmt yuv420p")
    caption(work, video)
    assert [s["codec_type"] for s in streams(work.output("video"))] == ["video", "audio"]
    assert stream(work.output("video"), "audio")["channels"] == 2


def test_cover_art_is_not_taken_for_the_video(media: Media, work: Work) -> None:
    cover = media.made("cover.png", "-f lavfi -i color=red:size=64x64 -frames:v 1")
    plain = media.video("96x64", 1.0)
    more = "-map 1 -map 0 -c copy -c:v:0 png -disposition:v:0 attached_pic"
    video = media.made("with-cover.mp4", f"-i {plain.name} -i {cover.name} {more}")
    stats = caption(work, video)
    assert (stats["width"], stats["height"], stats["frames"]) == (96, 64, 25)
    assert [s["codec_type"] for s in streams(work.output("video"))] == ["video", "audio"]


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv422p10le", "gray"])
def test_other_depths_and_samplings_become_what_every_player_takes(pixels: str, media: Media, work: Work) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.2"
    video = media.made(f"{pixels}.mp4", f"{source} {X264} -pix_fmt {pixels}")
    caption(work, video)
    assert stream(work.output("video"), "video")["pix_fmt"] == "yuv420p"
    assert np.abs(frames(work.output("video"))[:, :30].astype(int) - frames(video)[:, :30]).mean() < 6


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colour_tags_of_sdr_stay(matrix: str, media: Media, work: Work) -> None:
    tags = f"-colorspace {matrix} -color_primaries {matrix} -color_trc {matrix} -color_range tv"
    setparams = f"-vf setparams=colorspace={matrix}:color_primaries={matrix}:color_trc={matrix}:range=tv"
    source = "-f lavfi -i color=red:size=96x64:rate=25:duration=0.2"
    video = media.made(f"tags-{matrix}.mp4", f"{source} {setparams} {tags} {X264} -pix_fmt yuv420p")
    caption(work, video)
    was, now = stream(video, "video"), stream(work.output("video"), "video")
    for tag in ("color_space", "color_primaries", "color_transfer", "color_range"):
        assert now.get(tag) == was[tag]


def test_full_range_becomes_limited_with_the_same_colours(media: Media, work: Work) -> None:
    source = "-f lavfi -i color=0xF0F0F0:size=320x180:rate=25:duration=0.2 -vf scale=out_range=pc,format=yuvj420p"
    video = media.made("full.mp4", f"{source} -color_range pc {X264}")
    caption(work, video)
    assert stream(work.output("video"), "video").get("color_range") in {"tv", None}
    assert frames(work.output("video"), gray=False)[2, :60].mean() == pytest.approx(240, abs=2)
    assert frames(work.output("video"), gray=False).max() >= 253, "white letters are white"


@pytest.mark.parametrize("transfer", HDR)
def test_hdr_becomes_bright_sdr_and_captions_stay_white(transfer: str, media: Media, work: Work) -> None:
    stats = caption(work, hdr(media, transfer), size=0.2, outline=0, shadow=0, position="bottom-left")
    assert stats["frames"] == 10
    now = stream(work.output("video"), "video")
    assert (now["pix_fmt"], now["color_space"], now["color_primaries"], now["color_transfer"]) == (
        "yuv420p",
        *["bt709"] * 3,
    )
    picture = frames(work.output("video"))[5]
    assert picture[20:60, 20:120].mean() < 8, "black is black"
    assert 215 < picture[20:60, 200:300].mean() < 245, "paper is white, not gray"
    assert picture[100:, :150].max() >= 250, "and so are captions"


@pytest.mark.parametrize("aspect", ["4/3"])
def test_letters_are_not_stretched_on_pixels_that_are_not_square(aspect: str, media: Media, work: Work) -> None:
    wide = media.made(
        f"sar-{aspect.replace('/', '_')}.mp4",
        f"-f lavfi -i color=gray:size=360x288:rate=25:duration=0.2,setsar={aspect} {X264} -pix_fmt yuv420p",
    )

    def shape(video: Path) -> tuple[int, int]:
        caption(work, video, SRT.replace("Texto", "HHHH"), size=0.2)
        changed = np.abs(frames(work.output("video"))[2].astype(int) - 126) > 60
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        return int(np.ptp(columns)), int(np.ptp(rows))

    stretched, square = shape(wide), shape(media.gray("360x288", 0.2))
    assert stream(work.output("video"), "video")["width"] == 360
    over, under = (int(part) for part in aspect.split("/"))
    assert stretched[0] * over / under == pytest.approx(square[0], rel=0.04)
    assert stretched[1] == pytest.approx(square[1], abs=3)


def test_pixels_keep_their_shape(media: Media, work: Work) -> None:
    video = media.made(
        "sar.mp4", f"-f lavfi -i testsrc2=size=96x64:rate=25:duration=0.2,setsar=4/3 {X264} -pix_fmt yuv420p"
    )
    caption(work, video)
    assert stream(work.output("video"), "video")["sample_aspect_ratio"] == "4:3"


def test_interlaced_pictures_are_left_alone(media: Media, work: Work) -> None:
    source = "-f lavfi -i testsrc2=size=96x64:rate=50:duration=1 -vf tinterlace=interleave_top,fieldorder=tff"
    video = media.made("interlaced.mp4", f"{source} {X264} -flags +ildct+ilme -pix_fmt yuv420p -crf 10")
    caption(work, video)
    assert frame_count(work.output("video")) == frame_count(video)
    rows = frames(work.output("video"))[10, :30].astype(int) - frames(video)[10, :30]
    assert np.abs(rows).mean() < 6


# --- damage ----------------------------------------------------------------------------------------------------------


def damaged(media: Media, flips: int) -> Path:
    plain = media.made(
        "long.mp4",
        f"-f lavfi -i testsrc2=size=160x96:rate=25:duration=4 {X264} -g 25 -pix_fmt yuv420p -movflags +faststart",
    )
    content = bytearray(plain.read_bytes())
    start = content.index(b"mdat") + 4000
    for i in range(flips):
        content[start + i * (len(content) - start) // flips] ^= 0xFF
    path = media.folder / f"damaged-{flips}.mp4"
    path.write_bytes(content)
    return path


def test_a_damaged_video_that_plays_is_used_and_its_errors_are_counted(media: Media, work: Work) -> None:
    stats = caption(work, damaged(media, 6))
    assert stats["frames"] >= 98
    assert len(stats["warnings"]) == 1 and stats["warnings"][0].rstrip("s").endswith(" decode error")
    assert int(stats["warnings"][0].split()[0]) > 0


def test_a_sound_video_has_no_warnings(media: Media, work: Work) -> None:
    assert "warnings" not in caption(work, media.video())


def test_a_video_that_is_cut_off_is_refused(media: Media, work: Work) -> None:
    whole = damaged(media, 0).read_bytes()
    cut = media.folder / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetInvalid, match="frames could be read"):
        caption(work, cut)


def test_frames_that_an_edit_hides_are_not_missed(media: Media, work: Work) -> None:
    plain = media.made("gop.mp4", f"-f lavfi -i testsrc2=size=96x64:rate=25:duration=4 {X264} -g 100 -pix_fmt yuv420p")
    clip = media.made("clip.mp4", f"-ss 2.5 -i {plain.name} -c copy")
    assert int(stream(clip, "video")["nb_frames"]) > 50
    caption(work, clip)
    assert frame_count(work.output("video")) == frame_count(clip)


def test_progress_is_true_and_never_goes_back(media: Media, work: Work) -> None:
    seen: list[float] = []
    caption(Work(work.directory, work.limits, work.stop, seen.append), media.video("320x180", 8.0))
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_what_is_probed_of_a_phone_s_video_is_as_shown(media: Media, work: Work) -> None:
    _, video = inspect.video_asset(media.rotated("160x90"), "url_video", work)
    assert (video.width, video.height, video.pixel_aspect) == (90, 160, 1)
