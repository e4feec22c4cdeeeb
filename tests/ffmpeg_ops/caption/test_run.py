"""Captions are found in the decoded frames of a plain gray video, in which any other pixel was drawn."""

from __future__ import annotations

import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.engine import probe
from ffmpeg_ops.engine.subtitles.captions import SCRIPT, write_script
from ffmpeg_ops.engine.subtitles.parse import parse_file
from ffmpeg_ops.engine.subtitles.style import look
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Frames, Media, VideoWork, ffmpeg, frame_times, frames, run, stream
from wire.errors import AssetInvalid

FPS = 25
slow = partial(pytest.param, marks=pytest.mark.slow)


def srt(*cues: tuple[float, float, str]) -> str:
    def time(seconds: float) -> str:
        whole, millis = divmod(round(seconds * 1000), 1000)
        return f"00:{whole // 60:02d}:{whole % 60:02d},{millis:03d}"

    return "\n".join(f"{i}\n{time(a)} --> {time(b)}\n{text}\n" for i, (a, b, text) in enumerate(cues, 1))


def run_on(work: VideoWork, video: Path, text: str | bytes = srt((0, 1, "x"))) -> dict[str, object]:
    path = work.directory / "asset-url_srt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return run("caption", work, url_video=video, url_srt=path)


def caption(work: VideoWork, video: Path, text: str | bytes) -> Frames:
    """The decoded frames of `video` with subtitles `text`."""
    run_on(work, video, text)
    return frames(work.video)


def drawn(pictures: Frames, without: int | Frames = 126) -> Frames:
    """Per pixel and frame, whether it clearly differs from before."""
    changed: Frames = np.abs(pictures.astype(int) - np.asarray(without).astype(int)) > 40
    return changed


@cache
def ink(text: str) -> Frames:
    """The pixels of a gray frame that change while a cue of `text` is shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asset-url_srt"
        path.write_text(srt((0, 1, text)))
        write_script(Work(Path(folder)), parse_file(path, "url_srt"), look(None, 320, 180))
        source = ["-f", "lavfi", "-i", "color=gray:size=320x180", "-frames:v", "1", "-vf", f"ass={SCRIPT},format=gray"]
        raw = ffmpeg(*source, "-f", "rawvideo", "-", cwd=Path(folder))
    return drawn(np.frombuffer(raw, np.uint8).reshape(180, 320))


@pytest.mark.parametrize(
    ("clock", "cues", "times"),
    [
        ("", [(0.4, 0.8, "Bom dia"), (1.2, 1.6, "Boa noite")], [(0.4, 0.8), (1.2, 1.6)]),
        ("-output_ts_offset 100", [(0.4, 0.8, "Bom dia")], [(0.4, 0.8)]),
        ("", [(0.8, 900, "x"), (1000, 1001, "y")], [(0.8, 2)]),
        ("", [(0.8, 0.2, "x"), (1, 2, "y")], [(1, 2)]),
    ],
    ids=["inside", "a late clock", "past the end", "ends before it begins"],
)
def test_captions_are_shown_at_their_times_only(
    clock: str, cues: list[tuple[float, float, str]], times: list[tuple[float, float]], media: Media, work: VideoWork
) -> None:
    """Times count from the first frame, whatever the file's timestamps."""
    video = media.gray("160x90", 2.0, audio=True)
    late = media.made("late.ts", f"-i {video.name} -c copy {clock} -f mpegts") if clock else video
    got = [bool(frame.any()) for frame in drawn(caption(work, late, srt(*cues)))]
    assert got == [any(a <= i / FPS < b for a, b in times) for i in range(50)]


@pytest.mark.parametrize("name", [pytest.param("captions.en.srt", marks=pytest.mark.slow), "legendas.pt.srt"])
def test_the_samples_are_captioned_in_the_lower_part(name: str, samples: Path, media: Media, work: VideoWork) -> None:
    scaled = "-vf scale=320:180 -c:v libx264 -preset veryfast -crf 16 -c:a copy"
    small = media.made("small.mp4", f"-i {samples / 'video.mp4'} {scaled}")
    plain = media.made("plain.mp4", f"-i {small.name} {' '.join(probe.best().arguments)} -an")
    changed = drawn(caption(work, small, (samples / name).read_bytes()), frames(plain))
    assert len(changed) == 132
    for i, frame in enumerate(changed):
        due = any(a <= i / FPS < b for a, b in [(0.5, 1.8), (1.95, 3.1), (3.7, 5.15)])
        assert bool(frame[110:].sum() > 100) is due, f"frame {i}"
        assert frame[:100].sum() < 20, f"frame {i}"


def test_every_form_of_subtitles_draws_the_same(media: Media, work: VideoWork) -> None:
    text = srt((0, 1, "Já é manhã: ação!"))
    ass = "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,D,,0,0,0,,{\\b1}Já é manhã: ação!\n"
    vtt = "WEBVTT\n\n00:00.000 --> 00:01.000\nJá é manhã: ação!\n"
    video = media.gray("160x90", 0.2)
    plain = caption(work, video, text)
    for form in (text.encode("utf-16"), text.encode("cp1252"), vtt.encode(), ass.encode()):
        assert np.array_equal(caption(work, video, form), plain), form


@pytest.mark.parametrize("text", ["{", "{}", "{a}", "\\", "\\{a}", "C:\\N", "a\\hb"])
def test_braces_and_backslashes_are_drawn(text: str) -> None:
    def width(text: str) -> int:
        return int(np.ptp(np.flatnonzero(ink(text).any(axis=0))))

    assert width(f"I{text}I") >= width("II") + 2 * len(text)


def test_line_breaks_are_drawn() -> None:
    def lines(pixels: Frames) -> int:
        rows = np.concatenate([[False], pixels.any(axis=1)])
        return int((rows[1:] & ~rows[:-1]).sum())

    assert (lines(ink("xxx")), lines(ink("xxx\nxxx"))) == (1, 2)


def test_overlapping_cues_are_both_shown(media: Media, work: VideoWork) -> None:
    video = media.gray("160x90", 2.0)
    both = drawn(caption(work, video, srt((0, 1.2, "Um dois"), (0.8, 2, "Um dois")))).sum(axis=(1, 2))
    assert both[25] > 1.6 * both[5] and both[45] > 0


def test_a_rotated_video_is_captioned_upright(media: Media, work: VideoWork) -> None:
    pictures = caption(work, media.rotated("160x90"), srt((0, 2, "oi")))
    assert pictures.shape[1:] == (160, 90)
    assert "side_data_list" not in stream(work.video, "video")
    assert np.flatnonzero(drawn(pictures)[5].any(axis=1)).min() > 130


def test_the_stats_are_those_of_the_file_and_metadata_is_left_out(media: Media, work: VideoWork) -> None:
    plain = media.gray("160x90", 1.0)
    stats = run_on(work, media.made("private.mp4", f"-i {plain.name} -c copy -metadata title=secret"))
    assert (stats["width"], stats["height"], stats["frames"], stats["duration_s"]) == (160, 90, 25, 1.0)
    assert stats["size_bytes"] == work.video.stat().st_size
    assert (stats["encoder"], stats["device"]) == (probe.best().name, probe.best().device)
    assert b"secret" not in work.video.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("style", "upper"), [({}, True), ({"position": "bottom-center"}, False)])
def test_a_cue_stays_where_the_file_places_it_unless_a_position_is_set(
    style: dict[str, str], upper: bool, media: Media, work: VideoWork
) -> None:
    for text in (srt((0, 1, "{\\an8}x")), "WEBVTT\n\n00:00.000 --> 00:01.000 line:0\nx\n"):
        run("caption", work, {"subtitles": text, "style": style}, url_video=media.gray("160x90", 0.2))
        rows = np.flatnonzero(drawn(frames(work.video))[2].any(axis=1))
        assert rows.max() < 45 if upper else rows.min() > 45


GRAY = "-f lavfi -i color=gray:size=160x90:rate={rate}:duration={seconds} -f lavfi -i sine=duration=8 -pix_fmt yuv420p"
SLIDES = [(0.2, 0.9, "a"), (1.2, 1.9, "b"), (2.5, 4.4, "c"), (7.2, 7.8, "d")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rate", "seconds"),
    [
        ("slow.mp4", "1", 8),
        ("slower.mkv", "1/4", 8),
        ("still.mp4", "25", 0.04),
        slow("still.mkv", "25", 0.04),
        ("pause.mp4", "25", 8),
        ("pause.avi", "25", 8),
        slow("pause.mkv", "25", 8),
        ("short.mp4", "25", 6),
    ],
)
def test_captions_are_seen_where_the_video_has_no_frames(
    name: str, rate: str, seconds: float, media: Media, work: VideoWork
) -> None:
    """Slide shows, a podcast with one still, screen recordings that pause, sound that goes on."""
    pauses = (
        "-vf select=not(between(t\\,1\\,2.8)+between(t\\,4\\,5)+between(t\\,7.1\\,7.9)) -fps_mode vfr -bf 0"
        if "pause" in name
        else ""
    )
    video = media.made(name, f"{GRAY.format(rate=rate, seconds=seconds)} {pauses}")
    run_on(work, video, srt(*SLIDES))
    times, shown = frame_times(work.video), drawn(frames(work.video)).any(axis=(1, 2))
    assert len(times) == len(shown) and set(np.round(frame_times(video), 2)) <= set(np.round(times, 2))
    for time, text in zip(times, shown, strict=True):
        assert bool(text) is any(a <= time + 0.001 < b for a, b, _ in SLIDES), time
    for a, b, _ in SLIDES:
        assert any(a <= time < a + 0.05 for time in times) and any(b <= time < b + 0.05 for time in times)
    assert float(stream(work.video, "video")["duration"]) == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize(("rate", "last"), [slow("1/4", 7.9), ("3", 2.9), slow("25", 2.9)])
def test_a_last_frame_to_which_none_is_added_stays_as_long(
    rate: str, last: float, media: Media, work: VideoWork
) -> None:
    seconds = 8 if rate == "1/4" else 3
    source = f"-f lavfi -i color=gray:size=160x90:rate={rate}:duration={seconds} -pix_fmt yuv420p"
    pause = "-vf select=not(between(t\\,0.5\\,1.5)) -fps_mode vfr" if rate == "25" else ""
    stats = run_on(work, media.made(f"stays-{rate.replace('/', '_')}.mp4", f"{source} {pause}"), srt((0.1, 1000, "a")))
    run_on(work, media.folder / f"stays-{rate.replace('/', '_')}.mp4", srt((0.6, last, "a")))
    for found in (stats["duration_s"], float(stream(work.video, "video")["duration"])):
        assert found == pytest.approx(seconds, abs=0.05)


def test_a_sparse_video_that_is_cut_off_is_still_refused(media: Media, work: VideoWork) -> None:
    """The frames that are added do not count as its own."""
    source = (
        "-f lavfi -i testsrc2=size=96x64:rate=1:duration=60 -c:v libx264 -g 1 -pix_fmt yuv420p -movflags +faststart"
    )
    whole = media.made("cut-slow.mp4", source)
    (cut := work.directory / "asset-url_video").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AssetInvalid, match="damaged or cut off"):
        run_on(work, cut)


def test_what_was_guessed_is_in_the_warnings(media: Media, work: VideoWork) -> None:
    late = srt((0, 1, "Привет, как дела?")).replace("00:00:", "01:00:") + srt((9, 10, "Пока")).replace(
        "00:00:", "01:00:"
    )
    video = media.gray("160x90", 2.0)
    with pytest.raises(AssetInvalid, match="url_srt: no cue lies within the video"):
        run_on(work, video, late.encode("cp1251"))
    warnings = run_on(work, video, late.partition("1\n01:00:09")[0].encode("cp1251"))["warnings"]
    assert isinstance(warnings, list) and len(warnings) == 2
    assert "guessed as windows-1251" in warnings[0] and "begin after 01:00:00" in warnings[1]
    words = [{"word": "um", "start": 0, "end": 240}, {"word": "dois", "start": 240, "end": 60_000}]
    for params, said in (
        ({"words": words[:1]}, "milliseconds"),
        ({"words": [words[0], {**words[1], "end": 900}]}, "milli"),
    ):
        assert said in run("caption", work, params, url_video=video)["warnings"][0]


def test_wrong_assets_are_named(media: Media, work: VideoWork) -> None:
    for content in (b"<html>login</html>", b"", bytes(range(256))):
        with pytest.raises(AssetInvalid, match="url_srt"):
            run_on(work, media.gray("160x90", 0.2), content)
    with pytest.raises(AssetInvalid, match="url_video"):
        run_on(work, media.tone())
