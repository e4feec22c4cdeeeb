"""Untrusted files meet limits in every command, before any memory is spent on them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.adiciona_audio import video_options
from ffmpeg_ops.engine import ffmpeg, inspect, output, probe, process
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, VideoWork, cut_off, frames, run, stream
from wire.errors import AssetInvalid, AssetTooLarge

SRT = "1\n00:00:00,000 --> 00:00:01,000\nTexto\n"
WEBM = "libvpx-vp9"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """Every command that is started, with the directory that it runs in."""
    seen: list[tuple[list[str], Path]] = []
    really = process._started

    @contextmanager
    def running(command: list[str], work: Work, stdin: int, *, reduced: bool) -> Iterator[subprocess.Popen[bytes]]:
        seen.append((command, work.directory))
        with really(command, work, stdin, reduced=reduced) as child:
            assert os.getpgid(child.pid) == child.pid, "a group of its own, to be killed as one"
            yield child

    monkeypatch.setattr(process, "_started", running)
    return seen


def value(options: list[str], name: str) -> str | None:
    """The last value of an option, which is the one that FFmpeg uses."""
    return next((after for option, after in reversed(list(pairwise(options))) if option == name), None)


def inputs(argv: list[str]) -> Iterator[tuple[list[str], str]]:
    """The options of every input with its name."""
    begin = 1
    for i, option in enumerate(argv):
        if option == "-i":
            yield argv[begin:i], argv[i + 1]
            begin = i + 2


def check(command: list[str], directory: Path, work: VideoWork) -> None:
    at = next(i for i, part in enumerate(command) if part in {"ffmpeg", "ffprobe", "fc-list"})
    around, argv = command[:at], command[at:]
    assert around[:3] == ["setpriv", "--pdeathsig", "KILL"]
    limits = dict(part[2:].split("=") for part in around if "=" in part)
    assert (limits["nofile"], limits["core"]) == ("1024", "0")
    assert 0 < int(limits["cpu"]) <= work.limits.timeout_s * (os.cpu_count() or 1)
    assert 0 < int(limits["fsize"]) <= max(work.limits.max_output_bytes + 1, 16_000_000)
    if argv[0] == "fc-list" or argv[1] == "-version" or argv[-1] == "-filters":
        return
    assert directory == work.directory
    found = list(inputs(argv))
    assert found
    for options, name in found:
        protocols, formats = value(options, "-protocol_whitelist"), value(options, "-format_whitelist")
        if name == "pipe:0":
            assert (protocols, formats) == ("pipe", "rawvideo")
        else:
            assert (protocols, formats) == ("file,pipe", ffmpeg.FORMATS)
            assert Path(name).is_absolute()
        assert 0 < int(value(options, "-max_pixels") or 0) <= 8192 * 8192
    if argv[0] == "ffmpeg":
        last = argv[len(argv) - argv[::-1].index("-i") :]
        assert float(value(last, "-t") or 0) == ffmpeg.MAX_LENGTH_S
        assert "-nostdin" in argv
        encodes_picture = any(name in last for name in ("libx264", "h264_nvenc"))
        if encodes_picture:
            assert int(value(found[0][0], "-max_pixels") or 0) <= 4160 * 2368


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "caption": ("caption", {"subtitles": SRT}),
    "img2vid": ("img2vid", {"duration": 0.2, "size": "64x64"}),
    "replace": ("adicionaAudio", {}),
    "cut": ("adicionaAudio", {"length": "shortest"}),
    "longer": ("adicionaAudio", {"length": "audio", "start": 1.0}),
    "loud": ("adicionaAudio", {"mode": "mix", "loudness": -16, "fade_out": 0.2}),
}


@pytest.mark.parametrize("kind", ["mp4", "webm"])
@pytest.mark.parametrize("case", CASES)
def test_every_command_has_its_limits(
    case: str, kind: str, media: Media, samples: Path, work: VideoWork, started: list[tuple[list[str], Path]]
) -> None:
    name, params = CASES[case]
    video = media.video() if kind == "mp4" else media.webm(WEBM)
    sources = {
        "caption": {"url_video": video},
        "img2vid": {"url_image": samples / "photo.jpg"},
        "adicionaAudio": {"url_video": video, "url_audio": media.tone(0.5, "mp3")},
    }
    probe.best()  # its probe uses a source of its own
    started.clear()
    run(name, work, params, **sources[name])
    assert started
    for command, directory in started:
        check(command, directory, work)


def test_packets_are_counted_up_to_a_limit(media: Media, work: VideoWork, monkeypatch: pytest.MonkeyPatch) -> None:
    _, video = inspect.video_asset(media.video(), "url_video", work)
    assert len(video_options.packets(media.video(), video, work)) == 25
    monkeypatch.setattr(video_options, "MAX_PACKETS", 24)
    with pytest.raises(AssetTooLarge, match="url_video"):
        video_options.packets(media.video(), video, work)


# --- pixels ----------------------------------------------------------------------------------------------------------


def huge(media: Media, size: str) -> Path:
    source = f"-f lavfi -i color=gray:size={size}:rate=1:duration=1"
    return media.made(f"huge-{size}.mp4", f"{source} -c:v libx264 -preset ultrafast")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), [("caption", {"subtitles": SRT}), ("adicionaAudio", {"length": "audio"})])
def test_a_picture_that_is_too_large_is_refused_at_once(
    name: str, params: dict[str, Any], media: Media, work: VideoWork, started: list[tuple[list[str], Path]]
) -> None:
    assets = {"url_video": huge(media, "8192x8192")}
    if name == "adicionaAudio":
        assets["url_audio"] = media.tone(3.0)
    with pytest.raises(AssetTooLarge, match="url_video"):
        run(name, work, params, **assets)
    assert not any("output-video.mp4" in command for command, _ in started), "nothing was decoded for an output"
    with pytest.raises(AssetTooLarge, match="url_video: .*67 megapixels"):
        inspect.video_asset(huge(media, "8208x8192"), "url_video", work)


def test_a_large_picture_may_be_copied(media: Media, work: VideoWork) -> None:
    video = huge(media, "7680x4320")
    stats = run("adicionaAudio", work, url_video=video, url_audio=media.tone(1.0))
    assert (stats["encoder"], stats["width"], stats["height"]) == ("copy", 7680, 4320)
    assert stream(work.video, "video")["width"] == 7680


# --- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_video_that_is_too_long_is_refused(extension: str, media: Media, work: VideoWork) -> None:
    long = media.made(f"long.{extension}", "-f lavfi -i color=size=16x16:rate=1/60:duration=14520 -c:v libx264")
    with pytest.raises(AssetTooLarge, match="url_video: the video is longer than 4 hours"):
        inspect.video_asset(long, "url_video", work)


def test_an_output_ends_at_the_limit_whatever_a_header_said(
    media: Media, work: VideoWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "MP4", ["-t", "0.4", *output.MP4[2:]])
    with pytest.raises(AssetInvalid, match="10 of about 25"):
        run("caption", work, {"subtitles": SRT}, url_video=media.video())
    assert len(frames(work.video)) == 10


# --- files that are cut off ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["mkv", "webm"])
@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_a_matroska_file_that_is_cut_off_is_noticed(extension: str, name: str, media: Media, work: VideoWork) -> None:
    source = "-f lavfi -i testsrc2=size=160x96:rate=25:duration=4 -f lavfi -i sine=duration=4 -c:a libopus -g 25"
    codec = "libx264 -preset ultrafast" if extension == "mkv" else f"{WEBM} -deadline realtime -cpu-used 8"
    whole = media.made(f"whole-half.{extension}", f"{source} -c:v {codec}")
    cut = cut_off(media, f"half.{extension}", f"{source} -c:v {codec}", 0.5)
    more = {"url_audio": media.tone(1.0)} if name == "adicionaAudio" else {}
    with pytest.raises(AssetInvalid, match=r"url_video: the file is cut off: [12]\.\d of 4\.0 seconds can be read"):
        run(name, work, {} if more else {"subtitles": SRT}, url_video=cut, **more)
    assert inspect.video_asset(whole, "url_video", work)[1].duration_s == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("name", ["caption", "adicionaAudio"])
def test_mp3_at_a_rate_that_mp4_cannot_describe_becomes_aac(name: str, media: Media, work: VideoWork) -> None:
    low = media.made("low.mp3", "-f lavfi -i sine=frequency=440:duration=1 -ar 8000 -c:a libmp3lame")
    if name == "caption":
        video = media.made("low.mkv", f"-i {media.video(audio=False).name} -i {low.name} -c copy")
        run(name, work, {"subtitles": SRT}, url_video=video)
    else:
        run(name, work, url_video=media.video(), url_audio=low)
    assert stream(work.video, "audio")["codec_name"] == "aac"
    assert float(stream(work.video, "audio")["duration"]) == pytest.approx(1, abs=0.15)
