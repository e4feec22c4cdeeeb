"""Every operation on the GPU of every chip, through FFmpeg's own NVENC encoders and a stand-in for NVIDIA's driver."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from ffmpeg_ops.engine import ffmpeg
from ffmpeg_ops.operation import Work
from tests.emulators.nvenc import Driver
from tests.ffmpeg_ops.media import Media, frame_times, run, stream

Row = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]

FACTORS = {
    "operation": ("caption", "img2vid", "adicionaAudio"),
    "codec": ("h264", "hevc", "av1"),
    "quality": ("low", "standard", "high", "best"),
    "chip": ("pascal", "turing", "ampere", "ada", "blackwell", "hopper"),
    "rate": ("25", "30000/1001", "60", "24000/1001"),
}
CHIPS = {"h264": FACTORS["chip"][:5], "hevc": FACTORS["chip"][:5], "av1": ("ada", "blackwell")}
ON_CPU = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
SIZE = "320x180"
SRT = "1\n00:00:00,000 --> 00:00:01,000\nA\n"
QUICK = 3  # rows that are no slow tests


def pairwise(factors: Mapping[str, Sequence[str]]) -> list[Row]:
    """Few rows in which every pair of values of two factors occurs.

    Each row begins with a pair that no row has yet; its other values are those that add the most new pairs.
    """
    sides = combinations(factors, 2)
    missing = {_pair((a, x), (b, y)): None for a, b in sides for x, y in product(factors[a], factors[b])}
    rows: list[Row] = []
    while missing:
        row = dict(next(iter(missing)))
        for name in factors:
            if name not in row:
                row[name] = max(factors[name], key=lambda value: _worth(name, value, row, rows, missing))
        for pair in combinations(row.items(), 2):
            missing.pop(_pair(*pair), None)
        rows.append({name: row[name] for name in factors})
    return rows


def _worth(name: str, value: str, row: Row, rows: list[Row], missing: Mapping[Pair, None]) -> tuple[int, int]:
    """How many new pairs a value adds to a row; among equals, a value that few rows have is worth most."""
    return sum(_pair((name, value), other) in missing for other in row.items()), -sum(r[name] == value for r in rows)


def _pair(one: tuple[str, str], other: tuple[str, str]) -> Pair:
    return (one, other) if one < other else (other, one)


def test_every_pair_of_values_occurs_in_few_rows() -> None:
    rows = pairwise(FACTORS)
    for a, b in combinations(FACTORS, 2):
        assert {(row[a], row[b]) for row in rows} == set(product(FACTORS[a], FACTORS[b]))
    assert len(rows) < 36 and rows == pairwise(FACTORS)


ROWS = [
    pytest.param(
        row, kind, id="-".join([*row.values(), kind]), marks=[pytest.mark.slow] * (n >= QUICK or kind == "debian-13")
    )
    for kind in ("installed", "debian-13")
    for n, row in enumerate(pairwise(FACTORS))
]


@pytest.mark.parametrize(("row", "nvenc"), ROWS, indirect=["nvenc"])
def test_the_right_encoder_makes_every_frame_at_its_time(row: Row, nvenc: Driver, media: Media, work: Work) -> None:
    nvenc.set(chip=row["chip"])
    stats, times = made(row, media, work)
    encoder, device = expected(row)
    assert (stats["encoder"], stats["device"]) == (encoder, device)
    assert "warnings" not in stats
    video = work.output("video")
    assert stats["frames"] == len(times)
    assert frame_times(video) == pytest.approx(times, abs=2e-5)
    assert_plays(video)
    if device == "gpu":
        assert stream(video, "video")["codec_name"] == row["codec"]
        assert (nvenc.encodes[-1]["codec"], nvenc.encodes[-1]["size"]) == (row["codec"], SIZE)


def made(row: Row, media: Media, work: Work) -> tuple[dict[str, Any], list[float]]:
    """Run the row's operation on a second of video; return its stats, and when each frame should be shown."""
    encoding = {"encoding": {"codec": row["codec"], "quality": row["quality"]}}
    rate = Fraction(row["rate"])
    video = media.video(SIZE, 1.0, row["rate"])
    if row["operation"] == "img2vid":
        still = media.made("still.png", f"-f lavfi -i testsrc2=size={SIZE} -frames:v 1")
        params = {"duration": 1, "size": SIZE, "frame_rate": round(float(rate), 3), **encoding}
        return run("img2vid", work, params, url_image=still), [float(n / rate) for n in range(round(rate))]
    if row["operation"] == "caption":
        stats = run("caption", work, {"subtitles": SRT, **encoding}, url_video=video)
    else:
        stats = run("adicionaAudio", work, encoding, url_video=video, url_audio=media.tone())
    return stats, frame_times(video)


def expected(row: Row) -> tuple[str, str]:
    """The encoder and its device."""
    codec = row["codec"]
    if row["chip"] in CHIPS[codec] and (codec != "av1" or ffmpeg.is_from(6)):
        return f"{codec}_nvenc", "gpu"
    return ON_CPU[codec], "cpu"


def assert_plays(path: Path) -> None:
    """A decoder has nothing to say, and the packets stand in an order in which they can be decoded."""
    decode = ["ffmpeg", "-nostdin", "-v", "warning", "-xerror", "-i", str(path), "-map", "0:v", "-f", "null", "-"]
    done = subprocess.run(decode, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=pts,dts", "-of", "csv=p=0"]
    rows = subprocess.check_output([*shown, str(path)], text=True).split()
    packets = [tuple(int(number) for number in row.split(",")[:2]) for row in rows]
    decoded = [dts for _, dts in packets]
    assert decoded == sorted(set(decoded)) and all(pts >= dts for pts, dts in packets)
