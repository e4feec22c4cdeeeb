from __future__ import annotations

import socket
from fractions import Fraction
from pathlib import Path

import pytest

from ffmpeg_ops.engine import inspect, packets, process
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, with_tracks
from wire.errors import AssetHasNoAudio, AssetInvalid, JobFault, WorkerError

PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"

NOT_MEDIA = [
    (b"<!DOCTYPE html><html><body>Log in</body></html>", "an HTML page"),
    (PLAYLIST.format("/etc/passwd").encode(), "a playlist"),
    (b"ffconcat version 1.0\nfile /etc/passwd\n", "a text file"),
    (b"1\n00:00:01,000 --> 00:00:02,000\nHi\n", "a subtitle file"),
    (bytes(range(255, -1, -1)) * 20, "of an unknown kind"),
    (b"", "of an unknown kind"),
    (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "a text file"),
]


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Where a test writes a file that claims to be a video."""
    return tmp_path / "video.mp4"


def refusal(path: Path, work: Work, name: str = "url_video") -> str:
    asset = inspect.video_asset if name == "url_video" else inspect.audio_asset
    with pytest.raises(JobFault) as caught:
        asset(path, name, work)
    assert str(path) not in caught.value.message
    return caught.value.message


# --- what is found ---------------------------------------------------------------------------------------------------


def test_a_video_is_described(media: Media, work: Work) -> None:
    info = inspect.probe(media.video(size="96x64", seconds=1.0, rate="30000/1001"), work)
    assert info.video is not None and info.audio is not None
    assert "mp4" in info.formats and info.size_bytes > 0
    assert (info.video.codec, info.video.width, info.video.height) == ("h264", 96, 64)
    assert info.video.frame_rate == Fraction(30000, 1001) and info.video.frames == 30
    assert info.video.duration_s == pytest.approx(1.0, abs=0.05)
    assert (info.audio.codec, info.audio.sample_rate, info.audio.channels) == ("aac", 44100, 1)


def test_the_sample_is_described(samples: Path, work: Work) -> None:
    info, video = inspect.video_asset(samples / "video.mp4", "url_video", work)
    assert (video.width, video.height, video.frames, video.frame_rate) == (1280, 720, 132, 25)
    assert info.audio is not None and info.audio.channels == 6


def test_rotation_and_a_missing_frame_count_are_found(media: Media, work: Work) -> None:
    _, video = inspect.video_asset(media.rotated("160x90"), "url_video", work)
    assert (video.width, video.height, video.pixel_aspect) == (90, 160, 1)
    _, video = inspect.video_asset(media.webm(), "url_video", work)
    assert video.frames is None and video.codec == "vp9"


def test_any_file_with_sound_is_audio_and_cover_art_is_no_video(media: Media, work: Work) -> None:
    song = media.song_with_cover()
    assert inspect.audio_asset(media.video(), "url_audio", work)[1].codec == "aac"
    assert inspect.audio_asset(song, "url_audio", work)[1].codec == "mp3"
    assert inspect.probe(song, work).video is None
    assert refusal(song, work) == "url_video: the file has no video stream; it is audio only."
    with pytest.raises(AssetHasNoAudio, match="url_audio"):
        inspect.audio_asset(media.video(audio=False), "url_audio", work)


@pytest.mark.parametrize(
    ("default", "unknown", "channels", "said"),
    [
        (0, (), 1, None),
        (1, (), 2, None),
        (1, (0,), 2, None),
        (0, (0,), 2, "sound track 1 cannot be decoded; track 2 was used"),
        (0, (0, 1), 3, "sound track 1 cannot be decoded; track 3 was used"),
        (2, (2,), 1, "sound track 3 cannot be decoded; track 1 was used"),
    ],
)
def test_the_default_track_comes_first_then_the_first_that_can_be_decoded(
    default: int, unknown: tuple[int, ...], channels: int, said: str | None, media: Media, work: Work
) -> None:
    info, audio = inspect.audio_asset(with_tracks(media, default, *unknown), "url_audio", work)
    assert audio.channels == channels
    assert info.audio_warnings == ((f"url_audio: {said}",) if said else ())


def test_sound_that_cannot_be_decoded_is_as_none(media: Media, work: Work) -> None:
    """Players show the picture alone."""
    path = with_tracks(media, 1, 0, 1, 2)
    info, _ = inspect.video_asset(path, "url_video", work)
    assert info.audio is None
    assert info.audio_warnings == ("url_video: its sound cannot be decoded; it was left out",)
    with pytest.raises(AssetInvalid, match="url_audio: the file's sound cannot be decoded"):
        inspect.audio_asset(path, "url_audio", work)


def test_data_that_outlasts_picture_and_sound_does_not_count(media: Media, work: Work) -> None:
    (media.folder / "minutes.srt").write_text("1\n00:00:00,000 --> 00:30:00,000\nlong\n")
    path = media.made("minutes.mp4", f"-i {media.video().name} -i minutes.srt -c copy -c:s mov_text")
    info, video = inspect.video_asset(path, "url_video", work)
    assert info.duration_s == pytest.approx(1, abs=0.05) and video.duration_s == pytest.approx(1, abs=0.05)


def test_a_windows_media_file_without_a_length_is_measured(media: Media, work: Work) -> None:
    content = media.made("live.wmv", f"-i {media.video().name} -c:v wmv2 -c:a wmav2").read_bytes()
    at = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 64  # in the header of the file
    path = media.folder / "zero.wmv"
    path.write_bytes(content[:at] + bytes(16) + content[at + 16 :])
    assert inspect.video_asset(path, "url_video", work)[1].duration_s == pytest.approx(1, abs=0.05)


def test_a_raw_stream_of_an_absurd_rate_is_refused(media: Media, work: Work) -> None:
    to_raw = "-c copy -bsf:v h264_mp4toannexb,h264_metadata=tick_rate=2000000"
    path = media.made("absurd.h264", f"-i {media.video(audio=False).name} {to_raw}")
    with pytest.raises(AssetInvalid, match="url_video: a raw stream of 1000000 frames a second"):
        inspect.video_asset(path, "url_video", work)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
@pytest.mark.parametrize("first", ["unknown", "still", "good"])
def test_the_first_video_track_that_is_one_and_can_be_decoded_is_used(
    first: str, extension: str, media: Media, work: Work
) -> None:
    small = media.made("still.jpg", "-f lavfi -i color=red:size=48x32 -frames:v 1 -pix_fmt yuvj420p")
    small = small if first == "still" else media.video("48x32", audio=False)
    both = f"-i {small.name} -i {media.video().name} -map 0:v -map 1:v -c copy"
    path = media.made(f"two-{first}.{extension}", both)
    if first == "unknown":
        codec, other = (b"avc1", b"xxxx") if extension == "mp4" else (b"V_MPEG4/ISO/AVC", b"V_MPEG9/XYZ/ABC")
        head, *tail = path.read_bytes().split(codec)
        tracks = [other, codec] if extension == "mkv" else [codec, other, codec]  # MP4 also names it as a brand
        content = head + b"".join(name + part for name, part in zip(tracks, tail, strict=True))
        path = media.folder / f"unknown.{extension}"
        path.write_bytes(content)
    info, video = inspect.video_asset(path, "url_video", work)
    assert video.width == (48 if first == "good" else 96)
    said = ("url_video: video track 1 cannot be decoded; track 2 was used",) if first == "unknown" else ()
    assert info.video_warnings == said


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "name"), NOT_MEDIA)
def test_files_that_are_not_media_are_refused_as_what_they_are(
    content: bytes, name: str, fake: Path, work: Work
) -> None:
    fake.write_bytes(content)
    assert refusal(fake, work) == f"url_video: the file is {name}, not a video."


@pytest.mark.parametrize(("extension", "name"), [("mp4", "an MP4 or MOV file"), ("mkv", "a Matroska or WebM file")])
def test_media_without_its_end_is_called_cut_off(
    extension: str, name: str, media: Media, fake: Path, work: Work
) -> None:
    """An interrupted upload: MP4's index is at the end."""
    whole = media.made(f"to-cut.{extension}", f"-i {media.video().name} -c copy").read_bytes()
    fake.write_bytes(whole[: len(whole) // 2] if extension == "mp4" else whole[:40])
    assert refusal(fake, work) == f"url_video: the file is {name} that is damaged or cut off."


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_avi_that_is_cut_off_is_told_from_one_that_drops_frames(
    kept: float, media: Media, fake: Path, work: Work
) -> None:
    """Its header counts frames, of which a screen recorder stores unchanged ones as nothing."""
    some = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=4 -c:v mpeg4"
    info, video = inspect.video_asset(media.made("whole.avi", some), "url_video", work)
    assert (video.frames, video.duration_s, info.duration_s) == (None, 4, 4)
    fake.write_bytes((whole := (media.folder / "whole.avi").read_bytes())[: int(len(whole) * kept)])
    assert "the file is cut off" in refusal(fake, work)
    drops = media.made("drops.avi", f"{some} -vf select=lt(t\\,1)+gt(t\\,3) -fps_mode vfr")
    _, video = inspect.video_asset(drops, "url_video", work)
    assert video.duration_s == 4 and packets.count_frames(drops, video.index, work) == 49


@pytest.mark.parametrize(("head", "name"), [(b"fLaC", "FLAC audio"), (b"RIFF\0\0\0\0WAVE", "WAV audio")])
def test_unreadable_audio_is_called_damaged_and_no_video(head: bytes, name: str, fake: Path, work: Work) -> None:
    fake.write_bytes(head + b"\0" * 40)
    assert refusal(fake, work, "url_audio") == f"url_audio: the file is {name} that is damaged or cut off."
    assert refusal(fake, work) == f"url_video: the file is {name}, not a video."


@pytest.mark.parametrize(("extension", "name"), [("png", "a PNG image"), ("jpg", "a JPEG image")])
def test_an_image_is_no_video(extension: str, name: str, media: Media, fake: Path, work: Work) -> None:
    codec = "-c:v mjpeg" if extension == "jpg" else ""
    image = media.made(f"still.{extension}", f"-f lavfi -i testsrc2=size=64x64 -frames:v 1 {codec}")
    fake.write_bytes(image.read_bytes())
    assert name in refusal(fake, work)


NAMES = ["../../etc/passwd", "inside.mp4", "file:inside.mp4", "concat:inside.mp4|inside.mp4", "subfile,,start,0,end,9,,:inside.mp4"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("script", [PLAYLIST, "ffconcat version 1.0\nfile '{}'\n"])
def test_a_script_does_not_open_the_files_that_it_names(
    script: str, name: str, media: Media, fake: Path, work: Work
) -> None:
    for place in (fake.parent, work.directory):
        (place / "inside.mp4").write_bytes(media.video().read_bytes())
    for extension in ("mp4", "m3u8"):
        path = fake.with_suffix(f".{extension}")
        path.write_text(script.format(name))
        with pytest.raises(AssetInvalid):
            inspect.probe(path, work)


def test_a_playlist_does_not_reach_the_network(fake: Path, work: Work) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        fake.write_text(PLAYLIST.format(f"http://127.0.0.1:{listener.getsockname()[1]}/x.ts"))
        with pytest.raises(AssetInvalid):
            inspect.probe(fake, work)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_file_name_is_never_an_option_or_a_protocol(media: Media, work: Work) -> None:
    for name in ("-version", "concat:x|y", "http:x", "%03d.mp4", "a'b\"c.mp4"):
        path = work.directory / name
        path.write_bytes(media.video().read_bytes())
        assert inspect.probe(path, work).video is not None


def test_what_ffprobe_prints_is_in_the_detail_only(fake: Path, work: Work) -> None:
    fake.write_bytes(b"%PDF-1.7")
    with pytest.raises(AssetInvalid) as caught:
        inspect.video_asset(fake, "url_video", work)
    assert "Invalid data" in (caught.value.detail or "")
    assert "Invalid data" not in caught.value.message


def test_a_killed_ffprobe_is_the_worker_s_fault(media: Media, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_wait", lambda process, work, timeout_s, check: -9)
    with pytest.raises(WorkerError):
        inspect.probe(media.video(), work)
