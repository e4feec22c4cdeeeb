"""What is burned in is looked for in the decoded picture: a still gray one, where everything else was drawn."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.caption.run import SCRIPT, _write_script
from ffmpeg_ops.engine import encoders
from ffmpeg_ops.engine.subtitles.parse import parse_file
from ffmpeg_ops.engine.subtitles.style import look
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import (
    Frames,
    Media,
    audio_length_s,
    ffmpeg,
    frame_count,
    frames,
    packets_md5,
    run,
    stream,
    streams,
)
from wire.errors import AssetInvalid

FPS = 25


def srt(*cues: tuple[float, float, str]) -> str:
    def time(seconds: float) -> str:
        whole, millis = divmod(round(seconds * 1000), 1000)
        return f"00:{whole // 60:02d}:{whole % 60:02d},{millis:03d}"

    return "\n".join(f"{i}\n{time(a)} --> {time(b)}\n{text}\n" for i, (a, b, text) in enumerate(cues, 1))


def caption(work: Work, video: Path, text: str | bytes) -> Frames:
    """The decoded frames of `video` with subtitles `text`."""
    path = work.directory / "asset-url_srt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    run("caption", work, url_video=video, url_srt=path)
    return frames(work.output("video"))


def drawn(pictures: Frames, without: int | Frames = 126) -> Frames:
    """Per pixel and frame, whether it is clearly not as it was."""
    changed: Frames = np.abs(pictures.astype(int) - np.asarray(without).astype(int)) > 40
    return changed


def shown(pictures: Frames) -> list[bool]:
    """Per frame, whether anything was drawn."""
    return [bool(frame.any()) for frame in drawn(pictures)]


@cache
def ink(text: str) -> Frames:
    """Where a gray picture is changed while a cue of `text` is shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asset-url_srt"
        path.write_text(srt((0, 1, text)))
        _write_script(Work(Path(folder)), parse_file(path, "url_srt"), look(None, 320, 180))
        source = ["-f", "lavfi", "-i", "color=gray:size=320x180", "-frames:v", "1", "-vf", f"ass={SCRIPT},format=gray"]
        raw = ffmpeg(*source, "-f", "rawvideo", "-", cwd=Path(folder))
    return drawn(np.frombuffer(raw, np.uint8).reshape(180, 320))


def test_a_caption_is_on_the_picture_while_it_lasts_and_at_no_other_time(media: Media, work: Work) -> None:
    got = shown(caption(work, media.gray("160x90", 2.0), srt((0.4, 0.8, "Bom dia"), (1.2, 1.6, "Boa noite"))))
    assert got == [0.4 <= i / FPS < 0.8 or 1.2 <= i / FPS < 1.6 for i in range(50)]


def test_times_count_from_the_first_picture_whatever_the_file_s_clock_says(media: Media, work: Work) -> None:
    late = media.made(
        "late.ts", f"-i {media.gray('160x90', 2.0, audio=True).name} -c copy -output_ts_offset 100 -f mpegts"
    )
    got = shown(caption(work, late, srt((0.4, 0.8, "Bom dia"))))
    assert got == [0.4 <= i / FPS < 0.8 for i in range(50)]


@pytest.mark.parametrize("name", [pytest.param("captions.en.srt", marks=pytest.mark.slow), "legendas.pt.srt"])
def test_the_samples_are_captioned_in_the_lower_part_and_only_in_time(
    name: str, samples: Path, media: Media, work: Work
) -> None:
    small = media.made(
        "small.mp4", f"-i {samples / 'video.mp4'} -vf scale=320:180 -c:v libx264 -preset veryfast -crf 16 -c:a copy"
    )
    encoder = " ".join(encoders.best().arguments)
    plain = media.made("plain.mp4", f"-i {small.name} {encoder} -an")
    changed = drawn(caption(work, small, (samples / name).read_bytes()), frames(plain))
    assert len(changed) == 132
    for i, frame in enumerate(changed):
        due = any(a <= i / FPS < b for a, b in [(0.5, 1.8), (1.95, 3.1), (3.7, 5.15)])
        assert bool(frame[110:].sum() > 100) is due, f"frame {i}"
        assert frame[:100].sum() < 20, f"frame {i}"


def test_frames_are_neither_lost_nor_made(media: Media, work: Work) -> None:
    video = media.video("96x64", 1.0, "30000/1001")
    caption(work, video, srt((0, 1, "x")))
    assert frame_count(work.output("video")) == frame_count(video) == 30
    assert stream(work.output("video"), "video")["avg_frame_rate"] == "30000/1001"


def test_pictures_at_uneven_times_keep_their_times(media: Media, work: Work) -> None:
    uneven = media.made(
        "uneven.mp4",
        "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -vf select='not(mod(n\\,3))+lt(n\\,5)' -fps_mode vfr -c:v libx264 -preset ultrafast -bf 0",
    )

    def times(path: Path) -> list[float]:
        raw = ffmpeg(
            "-i", path, "-map", "0:v", "-f", "framecrc", "-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-"
        )
        return [int(line.split(b",")[2]) for line in raw.splitlines() if not line.startswith(b"#")]

    caption(work, uneven, srt((0, 1, "x")))
    assert times(work.output("video")) == pytest.approx(times(uneven), abs=1)


def test_the_sound_is_kept_as_it_is(media: Media, work: Work) -> None:
    video = media.gray("160x90", 1.0, audio=True)
    caption(work, video, srt((0, 1, "x")))
    assert packets_md5(work.output("video"), "a") == packets_md5(video, "a")


def test_sound_that_mp4_cannot_hold_becomes_aac(media: Media, work: Work) -> None:
    caption(work, media.webm(), srt((0, 1, "x")))
    assert stream(work.output("video"), "audio")["codec_name"] == "aac"
    assert audio_length_s(work.output("video")) == pytest.approx(1.0, abs=0.05)


def test_a_video_without_sound_stays_without(media: Media, work: Work) -> None:
    caption(work, media.gray("160x90", 0.2), srt((0, 1, "x")))
    assert [s["codec_type"] for s in streams(work.output("video"))] == ["video"]


def test_every_form_of_subtitles_draws_the_same_picture(media: Media, work: Work) -> None:
    text = srt((0, 1, "Já é manhã: ação!"))
    ass = "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,D,,0,0,0,,{\\an8}Já é manhã: ação!\n"
    forms = {
        "bom": "\ufeff".encode() + text.encode(),
        "utf16": text.encode("utf-16"),
        "cp1252": text.encode("cp1252"),
        "crlf": text.replace("\n", "\r\n").encode(),
        "vtt": b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + "Já é manhã: ação!\n".encode(),
        "ass": ass.encode(),
    }
    video = media.gray("160x90", 0.2)
    plain = caption(work, video, text)
    for kind, form in forms.items():
        assert np.array_equal(caption(work, video, form), plain), kind


def test_accents_are_drawn() -> None:
    assert ink("ação").sum() > ink("acao").sum()
    assert not np.array_equal(ink("é"), ink("ê"))


@pytest.mark.parametrize(("language", "text"), [("hi", "नमस्ते"), ("ar", "مرحبا"), ("zh", "你好")])
def test_other_scripts_are_drawn_with_glyphs_of_their_own(language: str, text: str) -> None:
    if not subprocess.run(["fc-list", f":lang={language}"], capture_output=True, check=True).stdout:
        pytest.skip(f"no font for {language} here")
    assert ink(text).any() and not np.array_equal(ink(text), ink("\U0010fffd" * len(text)))


@pytest.mark.parametrize(
    "evil",
    [
        "{\\an8}X",
        "{\\pos(10,10)}X",
        "{\\fs90}X",
        "{\\p1}m 0 0 l 320 0 320 180 0 180{\\p0}X",
        "{\\c&H0000FF&}X",
        "{\\fad(2000,0)}X",
    ],
)
def test_commands_in_the_text_move_paint_and_size_nothing(evil: str) -> None:
    assert np.array_equal(ink(evil), ink("X" if "m 0 0" not in evil else "m 0 0 l 320 0 320 180 0 180X"))


@pytest.mark.parametrize("text", ["{", "{}", "{a}", "\\", "\\{a}", "C:\\N", "a\\hb"])
def test_braces_and_backslashes_are_drawn(text: str) -> None:
    def width(text: str) -> int:
        columns = np.flatnonzero(ink(text).any(axis=0))
        return int(columns.max() - columns.min())

    assert width(f"I{text}I") >= width("II") + 2 * len(text)


def test_a_line_break_is_two_lines() -> None:
    def lines(pixels: Frames) -> int:
        rows = np.concatenate([[False], pixels.any(axis=1)])
        return int((rows[1:] & ~rows[:-1]).sum())

    assert (lines(ink("xxx")), lines(ink("xxx\nxxx"))) == (1, 2)


def test_a_long_line_stays_inside_the_picture() -> None:
    pixels = ink("palavra " * 30)
    assert pixels.any() and not pixels[:, :8].any() and not pixels[:, -8:].any()


def test_overlapping_cues_are_both_shown(media: Media, work: Work) -> None:
    video = media.gray("160x90", 2.0)
    both = drawn(caption(work, video, srt((0, 1.2, "Um dois"), (0.8, 2, "Um dois")))).sum(axis=(1, 2))
    assert both[25] > 1.6 * both[5] and both[45] > 0


def test_cues_past_the_end_make_the_video_no_longer(media: Media, work: Work) -> None:
    got = shown(caption(work, media.gray("160x90", 1.0), srt((0.8, 900, "x"), (1000, 1001, "y"))))
    assert got == [i >= 20 for i in range(25)]


def test_a_cue_that_ends_before_it_begins_is_not_shown(media: Media, work: Work) -> None:
    assert not any(shown(caption(work, media.gray("160x90", 1.0), srt((0.8, 0.2, "x")))))


@pytest.mark.parametrize("size", ["95x63", "96x63", "95x64"])
def test_a_picture_with_odd_sides_gets_even_ones(size: str, media: Media, work: Work) -> None:
    odd = media.made(
        f"odd-{size}.mp4", f"-f lavfi -i testsrc=size={size}:rate=25:duration=0.4 -c:v libx264 -pix_fmt yuv444p"
    )
    stats = run_on(work, odd)
    assert (stats["width"], stats["height"], stats["frames"]) == (96, 64, 10)
    assert stream(work.output("video"), "video")["pix_fmt"] == "yuv420p"


def run_on(work: Work, video: Path) -> dict[str, object]:
    path = work.directory / "asset-url_srt"
    path.write_text(srt((0, 1, "x")))
    return run("caption", work, url_video=video, url_srt=path)


def test_a_rotated_video_is_captioned_upright_and_turned_once(media: Media, work: Work) -> None:
    pictures = caption(work, media.rotated("160x90"), srt((0, 2, "oi")))
    assert pictures.shape[1:] == (160, 90)
    assert "side_data_list" not in stream(work.output("video"), "video")
    rows = np.flatnonzero(drawn(pictures)[5].any(axis=1))
    assert rows.min() > 130


def test_ten_bits_become_eight(media: Media, work: Work) -> None:
    deep = media.made(
        "deep.mp4", "-f lavfi -i color=gray:size=96x64:rate=25:duration=0.2 -c:v libx264 -pix_fmt yuv422p10le"
    )
    caption(work, deep, srt((0, 1, "x")))
    assert stream(work.output("video"), "video")["pix_fmt"] == "yuv420p"


def test_a_video_of_unknown_length_is_captioned(media: Media, work: Work) -> None:
    live = media.folder / "live.webm"
    live.write_bytes(ffmpeg("-i", media.webm(), "-c", "copy", "-f", "webm", "-live", "1", "-"))
    assert len(caption(work, live, srt((0, 1, "x")))) == 25


def test_the_figures_are_those_of_the_file(media: Media, work: Work) -> None:
    stats = run_on(work, media.gray("160x90", 1.0))
    assert (stats["width"], stats["height"], stats["frames"], stats["duration_s"]) == (160, 90, 25, 1.0)
    assert stats["size_bytes"] == work.output("video").stat().st_size
    assert (stats["encoder"], stats["device"]) == (encoders.best().name, encoders.best().device)


def test_the_words_of_the_source_are_not_in_the_output(media: Media, work: Work) -> None:
    private = media.made(
        "private.mp4", f"-i {media.gray('160x90', 0.2).name} -c copy -metadata title=secret -metadata comment=secret"
    )
    caption(work, private, srt((0, 1, "x")))
    assert b"secret" not in work.output("video").read_bytes()


@pytest.mark.parametrize("content", [b"<html>login</html>", b"", bytes(range(256))])
def test_subtitles_that_are_none_are_named(content: bytes, media: Media, work: Work) -> None:
    with pytest.raises(AssetInvalid, match="url_srt"):
        caption(work, media.gray("160x90", 0.2), content)


def test_a_sound_is_no_video(media: Media, work: Work) -> None:
    with pytest.raises(AssetInvalid, match="url_video"):
        caption(work, media.tone(), srt((0, 1, "x")))
