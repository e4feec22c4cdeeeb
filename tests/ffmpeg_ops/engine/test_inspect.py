from __future__ import annotations

import socket
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from ffmpeg_ops.engine import inspect, process
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media
from wire.errors import AssetHasNoAudio, AssetInvalid, JobFault, WorkerError

PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"

NOT_MEDIA: dict[str, tuple[bytes, str]] = {
    "html": (b"<!DOCTYPE html><html><body>Log in</body></html>", "an HTML page"),
    "html_with_space": (b"\n\n  <HTML lang=pt>", "an HTML page"),
    "playlist": (PLAYLIST.format("/etc/passwd").encode(), "a playlist"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "a text file"),
    "json": (b'{"error": "expired"}', "a JSON document"),
    "srt": (b"1\n00:00:01,000 --> 00:00:02,000\nHi\n", "a subtitle file"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "zip": (b"PK\x03\x04\x14\0\0\0", "a ZIP archive"),
    "gzip": (b"\x1f\x8b\x08\0", "a gzip archive"),
    "noise": (bytes(range(255, -1, -1)) * 20, "of an unknown kind"),
    "zeros": (bytes(5000), "of an unknown kind"),
    "empty": (b"", "of an unknown kind"),
    "sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "a text file"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "an SVG image"),
    "dash": (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "a text file"),
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Where a test writes what calls itself a video."""
    return tmp_path / "video.mp4"


def test_a_video_is_described(media: Media, work: Work) -> None:
    info = inspect.probe(media.video(size="96x64", seconds=1.0, rate="30000/1001"), work)
    assert info.video is not None and info.audio is not None
    assert "mp4" in info.format and info.size_bytes > 0
    assert (info.video.codec, info.video.width, info.video.height, info.video.rotation) == ("h264", 96, 64, 0)
    assert info.video.frame_rate == Fraction(30000, 1001) and info.video.frames == 30
    assert info.video.duration_s == pytest.approx(1.0, abs=0.05)
    assert (info.audio.codec, info.audio.sample_rate, info.audio.channels) == ("aac", 44100, 1)


def test_the_sample_is_described(samples: Path, work: Work) -> None:
    info, video = inspect.video_asset(samples / "video.mp4", "url_video", work)
    assert (video.width, video.height, video.frames, video.frame_rate) == (1280, 720, 132, 25)
    assert info.audio is not None and info.audio.channels == 6


def test_a_rotated_video_has_the_size_that_is_shown(media: Media, work: Work) -> None:
    _, video = inspect.video_asset(media.rotated("160x90"), "url_video", work)
    assert (video.width, video.height, video.rotation) == (90, 160, 90)


def test_a_file_without_frame_count_has_none(media: Media, work: Work) -> None:
    _, video = inspect.video_asset(media.webm(), "url_video", work)
    assert video.frames is None and video.codec == "vp9"


def test_cover_art_is_no_video(media: Media, work: Work) -> None:
    info = inspect.probe(media.song_with_cover(), work)
    assert info.video is None and info.audio is not None
    with pytest.raises(AssetInvalid, match="url_video: the file has no video stream; it is audio only"):
        inspect.video_asset(media.song_with_cover(), "url_video", work)


def test_a_song_with_cover_art_is_a_sound(media: Media, work: Work) -> None:
    assert inspect.audio_asset(media.song_with_cover(), "url_audio", work)[1].codec == "mp3"


def test_a_video_may_serve_as_a_sound(media: Media, work: Work) -> None:
    assert inspect.audio_asset(media.video(), "url_audio", work)[1].codec == "aac"


def test_a_video_without_sound_has_no_audio(media: Media, work: Work) -> None:
    with pytest.raises(AssetHasNoAudio, match="url_audio"):
        inspect.audio_asset(media.video(audio=False), "url_audio", work)


@pytest.mark.parametrize("kind", NOT_MEDIA)
def test_what_is_no_media_is_refused_in_words_that_say_what_it_is(kind: str, fake: Path, work: Work) -> None:
    content, name = NOT_MEDIA[kind]
    fake.write_bytes(content)
    with pytest.raises(AssetInvalid) as caught:
        inspect.video_asset(fake, "url_video", work)
    assert caught.value.message == f"url_video: the file is {name}, not a video."


@pytest.mark.parametrize(("extension", "name"), [("mp4", "an MP4 or MOV file"), ("mkv", "a Matroska or WebM file")])
def test_media_without_its_end_is_not_called_something_else(
    extension: str, name: str, media: Media, fake: Path, work: Work
) -> None:
    """An upload that broke off: MP4's table of contents stands at the end."""
    whole = media.made(f"to-cut.{extension}", f"-i {media.video().name} -c copy").read_bytes()
    fake.write_bytes(whole[: len(whole) // 2] if extension == "mp4" else whole[:40])
    with pytest.raises(AssetInvalid) as caught:
        inspect.video_asset(fake, "url_video", work)
    assert caught.value.message == f"url_video: the file is {name} that is damaged or cut off."


@pytest.mark.parametrize(
    ("head", "name"), [(b"fLaC", "FLAC audio"), (b"RIFF\0\0\0\0WAVE", "WAV audio")], ids=["flac", "wav"]
)
def test_sound_that_cannot_be_read_is_called_damaged_and_no_video(
    head: bytes, name: str, fake: Path, work: Work
) -> None:
    fake.write_bytes(head + b"\0" * 40)
    with pytest.raises(AssetInvalid) as caught:
        inspect.audio_asset(fake, "url_audio", work)
    assert caught.value.message == f"url_audio: the file is {name} that is damaged or cut off."
    with pytest.raises(AssetInvalid) as caught:
        inspect.video_asset(fake, "url_video", work)
    assert caught.value.message == f"url_video: the file is {name}, not a video."


@pytest.mark.parametrize("kind", ["html", "playlist", "zeros", "empty"])
def test_what_is_no_media_is_no_sound_either(kind: str, fake: Path, work: Work) -> None:
    fake.write_bytes(NOT_MEDIA[kind][0])
    with pytest.raises(JobFault, match="url_audio"):
        inspect.audio_asset(fake, "url_audio", work)


@pytest.mark.parametrize(
    ("extension", "name"),
    [("png", "a PNG image"), ("jpg", "a JPEG image"), ("gif", "a GIF image"), ("bmp", "a BMP image")],
)
def test_an_image_is_refused_as_what_it_is(extension: str, name: str, media: Media, fake: Path, work: Work) -> None:
    image = media.made(
        f"still.{extension}",
        f"-f lavfi -i testsrc2=size=64x64 -frames:v 1 {'-c:v mjpeg' if extension == 'jpg' else ''}",
    )
    fake.write_bytes(image.read_bytes())
    with pytest.raises(AssetInvalid, match=name):
        inspect.video_asset(fake, "url_video", work)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "inside.mp4",
        "file:inside.mp4",
        "concat:inside.mp4|inside.mp4",
        "subfile,,start,0,end,9,,:inside.mp4",
    ],
)
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
    came = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        fake.write_text(PLAYLIST.format(f"http://127.0.0.1:{listener.getsockname()[1]}/x.ts"))
        with pytest.raises(AssetInvalid):
            inspect.probe(fake, work)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert not came.is_set()


def test_a_file_name_is_never_an_option_or_a_protocol(media: Media, work: Work) -> None:
    for name in ("-version", "concat:x|y", "http:x", "%03d.mp4", "a'b\"c.mp4"):
        path = work.directory / name
        path.write_bytes(media.video().read_bytes())
        assert inspect.probe(path, work).video is not None


def test_what_ffprobe_says_is_detail_and_never_message(fake: Path, work: Work) -> None:
    fake.write_bytes(b"%PDF-1.7")
    with pytest.raises(AssetInvalid) as caught:
        inspect.video_asset(fake, "url_video", work)
    assert "Invalid data" in (caught.value.detail or "")
    assert "Invalid data" not in caught.value.message and str(fake) not in caught.value.message


def test_a_killed_ffprobe_is_the_workers_fault(media: Media, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_wait", lambda process, work, timeout_s: -9)
    with pytest.raises(WorkerError):
        inspect.probe(media.video(), work)
