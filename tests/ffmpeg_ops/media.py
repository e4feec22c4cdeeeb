"""Media for tests, made by FFmpeg when first needed, and functions that look into files with FFmpeg and NumPy."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffmpeg_ops.operation import OPERATIONS, Work

Frames = NDArray[np.uint8]

X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"


def ffmpeg(*arguments: str | Path, cwd: Path | None = None) -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=cwd).stdout


def streams(path: Path, *more: str) -> list[dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", *more, str(path)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["streams"]  # type: ignore[no-any-return]


def frame_count(path: Path) -> int:
    """The number of decoded frames."""
    return int(streams(path, "-count_frames", "-select_streams", "v:0")[0]["nb_read_frames"])


def stream(path: Path, kind: str) -> dict[str, Any]:
    return next(s for s in streams(path) if s["codec_type"] == kind)


def frames(path: Path, *, gray: bool = True) -> Frames:
    """Every decoded frame, upright: (n, height, width) in gray, or with RGB as the last axis."""
    shown = stream(path, "video")
    turned = any(abs(int(side.get("rotation", 0))) % 180 for side in shown.get("side_data_list", []))
    size = (shown["width"], shown["height"]) if turned else (shown["height"], shown["width"])
    to_raw = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray" if gray else "rgb24"]
    raw = ffmpeg("-i", path, *to_raw, "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, *size, *([] if gray else [3]))


def frame_times(path: Path) -> list[float]:
    """When each decoded frame is shown, in seconds."""
    options = ["-map", "0:v:0", "-f", "framecrc", "-fps_mode", "passthrough", "-enc_time_base", "1/90000"]
    rows = ffmpeg("-i", path, *options, "-").splitlines()
    return [int(row.split(b",")[2]) / 90000 for row in rows if not row.startswith(b"#")]


def packets_md5(path: Path, kind: str = "v") -> str:
    """One hash over the unchanged packets of a stream."""
    annexb = ["-bsf:v", "h264_mp4toannexb"] if kind == "v" and stream(path, "video")["codec_name"] == "h264" else []
    return ffmpeg("-i", path, "-map", f"0:{kind}:0", "-c", "copy", *annexb, "-f", "md5", "-").decode()


def audio_length_s(path: Path) -> float:
    """The length by decoded samples, whatever headers say."""
    return len(samples_of(path)) / int(stream(path, "audio")["sample_rate"])


def samples_of(path: Path) -> NDArray[np.int16]:
    return np.frombuffer(ffmpeg("-i", path, "-map", "0:a:0", "-ac", "1", "-f", "s16le", "-"), np.int16)


def boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of the outermost boxes of an MP4."""
    found, at = [], 0
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        assert size >= 8, "a size of 0 or 1 has a meaning of its own, which no tested file uses"
        found.append((kind, content[at + 8 : at + size]))
        at += size
    return found


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def run(name: str, work: Work, params: dict[str, Any] | None = None, **assets: Path) -> dict[str, Any]:
    """Run an operation on files, with its schema's defaults for what is not in `params`."""
    operation = OPERATIONS[name]
    urls = {key: f"https://example.com/{path.name}" for key, path in assets.items()}
    return operation.run(work, operation.params().load({**urls, **(params or {})}), assets)


@cache
def _has_display_rotation() -> bool:
    said = subprocess.run(["ffmpeg", "-hide_banner", "-h", "full"], check=True, capture_output=True, text=True).stdout
    return "\n-display_rotation" in said


def damaged(media: Media, name: str, arguments: str, flips: int, *, after: bytes = b"", keep: int = 4000) -> Path:
    """A file made by `arguments`, with `flips` evenly spread bytes inverted, except the `keep` bytes behind `after`."""
    content = bytearray(media.made(f"whole-{name}", arguments).read_bytes())
    start = content.index(after) + keep
    for i in range(flips):
        content[start + i * (len(content) - start) // flips] ^= 0xFF
    path = media.folder / f"damaged-{flips}-{name}"
    path.write_bytes(content)
    return path


def cut_off(media: Media, name: str, arguments: str, share: float) -> Path:
    """The first `share` of a file made by `arguments`."""
    content = media.made(f"whole-{name}", arguments).read_bytes()
    path = media.folder / f"cut-{share}-{name}"
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flipped(media: Media, name: str, arguments: str, flips: int, seed: int) -> Path:
    """A file made by `arguments`, with `flips` random bytes behind the first 4000 inverted."""
    content = bytearray(media.made(f"whole-{name}", arguments).read_bytes())
    chance = random.Random(seed)
    for _ in range(flips):
        content[chance.randrange(4000, len(content))] ^= 0xFF
    path = media.folder / f"flipped-{flips}-{seed}-{name}"
    path.write_bytes(content)
    return path


def with_tracks(media: Media, default: int, *unknown: int) -> Path:
    """A video with sound tracks of one to three channels, the first of which are numbered from 0.

    One is marked as default; the `unknown` ones are in a format that FFmpeg has no decoder for, as phones write them.
    """
    tones = "-f lavfi -i sine=d=1 " * 3
    maps = "-map 0:v -map 1:a -map 2:a -map 3:a -c:v copy -c:a aac -ac:a:0 1 -ac:a:1 2 -ac:a:2 3 -disposition:a 0"
    whole = f"-i {media.video(audio=False).name} {tones} {maps} -disposition:a:{default} default"
    content = media.made(f"tracks-{default}.mp4", whole).read_bytes()
    for box, other in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        parts = content.split(box)
        after = [other if i in unknown else box for i in range(len(parts) - 1)]
        content = b"".join(part + name for part, name in zip(parts, [*after, b""], strict=True))
    path = media.folder / f"tracks-{default}-{unknown}.mp4"
    path.write_bytes(content)
    return path


def described_twice(media: Media) -> Path:
    """An MP4 whose second half, of 25 frames like the first, is encoded and described differently."""
    plain = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -c:v libx264 -bf 0 -pix_fmt yuv420p"
    first, second = (
        media.made(f"half-{i}.mp4", f"{plain} -x264-params {params}").read_bytes()
        for i, params in enumerate(("cabac=0:ref=1:8x8dct=0", "cabac=1:ref=4"))
    )
    tables = [dict(boxes(_inside(content))) for content in (first, second)]
    samples = [dict(boxes(content))[b"mdat"] for content in (first, second)]
    at = first.index(b"mdat") + 4
    stbl = {
        b"stsd": struct.pack(">II", 0, 2) + tables[0][b"stsd"][8:] + tables[1][b"stsd"][8:],
        b"stts": struct.pack(">4I", 0, 1, 50, 512),
        b"stss": struct.pack(">4I", 0, 2, 1, 26),
        b"stsc": struct.pack(">8I", 0, 2, 1, 25, 1, 2, 25, 2),
        b"stsz": struct.pack(">3I", 0, 0, 50) + tables[0][b"stsz"][12:] + tables[1][b"stsz"][12:],
        b"stco": struct.pack(">4I", 0, 2, at, at + len(samples[0])),
    }
    path = media.folder / "described-twice.mp4"
    path.write_bytes(
        first[: at - 8]
        + _box(b"mdat", b"".join(samples))
        + _box(b"moov", _with_tables(dict(boxes(first))[b"moov"], stbl))
    )
    return path


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def _inside(content: bytes) -> bytes:
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        content = dict(boxes(content))[kind]
    return content


def _with_tables(content: bytes, stbl: dict[bytes, bytes]) -> bytes:
    """The content of a box with other tables, without its edit list, and as its media's length two seconds."""
    made = b""
    for kind, body in boxes(content):
        if kind in {b"trak", b"mdia", b"minf"}:
            body = _with_tables(body, stbl)
        elif kind == b"stbl":
            body = b"".join(_box(name, table) for name, table in stbl.items())
        elif kind == b"mdhd":
            body = body[:16] + struct.pack(">I", 2 * 12800) + body[20:]
        elif kind == b"mvhd":
            body = body[:16] + struct.pack(">I", 2000) + body[20:]
        made += b"" if kind == b"edts" else _box(kind, body)
    return made


def recorded(media: Media, channels: int, seconds: float = 1.0) -> Path:
    """A WAV whose header does not say where its channels belong: 500 Hz in the first, 1300 Hz in the others."""
    times = np.arange(round(48000 * seconds)) / 48000
    waves = [0.2 * np.sin(2 * np.pi * (500 if i == 0 else 1300) * times) for i in range(channels)]
    path = media.folder / f"recorded-{channels}.wav"
    samples = (np.stack(waves, axis=1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, channels, 48000, 96000 * channels, 2 * channels, 16)
    body = b"WAVEfmt " + form + b"data" + struct.pack("<I", len(samples)) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def broadcasts(media: Media, *begin_s: int) -> Path:
    """A transport stream of parts of one second joined byte by byte, whose timestamps begin at these times."""
    source = f"-i {media.video().name} -c copy"
    parts = [media.made(f"part-{s}.ts", f"{source} -output_ts_offset {s}").read_bytes() for s in begin_s]
    path = media.folder / f"broadcasts-{'-'.join(map(str, begin_s))}.ts"
    path.write_bytes(b"".join(parts))
    return path


@dataclass(frozen=True)
class VideoWork(Work):
    """The context of a run whose output is one video; `shares` is all progress that it has reported."""

    shares: list[float] = field(default_factory=list)

    @property
    def video(self) -> Path:
        return self.output("video")


class Media:
    """Media files, each made at the first use and kept for the session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = cache(self._make)

    def _make(self, name: str, arguments: str) -> Path:
        path = self.folder / name
        ffmpeg(*arguments.split(), name, cwd=self.folder)
        return path

    def video(self, size: str = "96x64", seconds: float = 1.0, rate: str = "25", *, audio: bool = True) -> Path:
        sound = f"-f lavfi -i sine=frequency=440:duration={seconds} -c:a aac" if audio else ""
        picture = f"-f lavfi -i testsrc2=size={size}:rate={rate}:duration={seconds}"
        name = f"video-{size}-{seconds}-{rate.replace('/', '_')}-{audio}.mp4"
        return self.made(name, f"{picture} {sound} {X264}")

    def gray(self, size: str = "160x90", seconds: float = 2.0, *, audio: bool = False) -> Path:
        """A plain gray video: whatever else is on it was drawn there."""
        sound = f"-f lavfi -i sine=duration={seconds} -c:a aac" if audio else ""
        picture = f"-f lavfi -i color=gray:size={size}:rate=25:duration={seconds}"
        return self.made(f"gray-{size}-{seconds}-{audio}.mp4", f"{picture} {sound} {X264}")

    def rotated(self, size: str = "160x90") -> Path:
        """Stored in landscape, shown in portrait by its display matrix."""
        plain = self.gray(size)
        # FFmpeg 7 no longer takes the metadata for it, 5 knows no other way
        before, after = ("-display_rotation 90", "") if _has_display_rotation() else ("", "-metadata:s:v:0 rotate=90")
        return self.made(f"rotated-{size}.mp4", f"{before} -i {plain.name} -c copy {after}")

    def live(self) -> Path:
        """A WebM recording without a length in its header."""
        path = self.folder / "live.webm"
        path.write_bytes(ffmpeg("-i", self.webm(), "-c", "copy", "-f", "webm", "-live", "1", "-"))
        return path

    def webm(self, codec: str = "libvpx-vp9") -> Path:
        picture = "-f lavfi -i testsrc2=size=96x64:rate=25:duration=1 -f lavfi -i sine=duration=1"
        return self.made(f"{codec}.webm", f"{picture} -c:v {codec} -deadline realtime -cpu-used 8 -c:a libopus")

    def tone(self, seconds: float = 1.0, extension: str = "wav", frequency: int = 880) -> Path:
        return self.made(
            f"tone-{seconds}-{frequency}.{extension}", f"-f lavfi -i sine=frequency={frequency}:duration={seconds}"
        )

    def song_with_cover(self) -> Path:
        tone = self.tone(1.0, "mp3")
        cover = self.made("cover.png", "-f lavfi -i color=red:size=64x64 -frames:v 1")
        return self.made(
            "song.mp3", f"-i {tone.name} -i {cover.name} -map 0 -map 1 -c copy -disposition:v attached_pic"
        )


HDR = {"smpte2084": (0.5807, 0.7518), "arib-std-b67": (0.75, 1.0)}  # codes of 203 and of 1000 cd/m²


def hdr(media: Media, transfer: str) -> Path:
    """A video with a black half and one as bright as white paper, in 10 bits of BT.2020."""
    white = round(64 + HDR[transfer][0] * 876)
    source = f"-f lavfi -i color=black:size=320x180:rate=25:duration=0.4,format=yuv420p10le,geq=lum='if(gt(X\\,160)\\,{white}\\,64)':cb=512:cr=512"
    tags = f"-colorspace bt2020nc -color_primaries bt2020 -color_trc {transfer} -color_range tv"
    mark = f"-vf setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    return media.made(
        f"hdr-{transfer}.mp4", f"{source} {mark} -c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le {tags}"
    )
