"""The cases of `python -m bench memory`, and the small programs that make their inputs."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SMALL_BYTES, LARGE_BYTES = 1_500_000_000, 3_000_000_000  # up to 1920x1080, and up to 4096x2304
LARGE, HD = "4096x2304", "1920x1080"
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """One attempt whose memory is measured."""

    #: Name of the figure.
    name: str
    #: What the attempt does.
    operation: str
    #: What is in the inputs.
    meaning: str
    #: Param of an asset → the function that makes its file in a folder.
    assets: Mapping[str, Make]
    #: The other params.
    params: Mapping[str, Any]
    #: Maximum of the peak.
    limit_bytes: int = SMALL_BYTES
    #: Whether it is among those that are measured with `--quick`.
    quick: bool = False


def made(name: str, *arguments: str) -> Make:
    """A file that FFmpeg makes."""

    def make(folder: Path) -> Path:
        path = folder / name
        words = [word for argument in arguments for word in argument.split()]
        subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *words, path], check=True, cwd=folder)
        return path

    return make


def video(size: str, seconds: float = 3, rate: int = 25, codec: str = "libx264 -preset ultrafast -bf 0") -> Make:
    return made("video.mkv", f"-f lavfi -i testsrc2=size={size}:rate={rate}:duration={seconds} -c:v {codec}")


def sound(seconds: float, codec: str = "libmp3lame -b:a 64k", name: str = "sound.mp3", source: str = "sine") -> Make:
    return made(name, f"-f lavfi -i {source}=duration={seconds} -c:a {codec}")


def text(name: str, content: Callable[[], str]) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content(), encoding="utf-8")
        return folder / name

    return make


def image(name: str, make_image: Callable[[], Image.Image], **options: Any) -> Make:
    def make(folder: Path) -> Path:
        make_image().save(folder / name, **options)
        return folder / name

    return make


def srt(cues: list[tuple[float, float, str]]) -> str:
    return "\n".join(f"{i}\n{_time(a)} --> {_time(b)}\n{words}\n" for i, (a, b, words) in enumerate(cues, 1))


def _time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def at_once() -> str:
    """Fifty cues at the same time, each of which fills the frame with other ideographs."""
    return srt([(0, 3, "".join(chr(0x4E00 + 18 * i + j) for j in range(18))) for i in range(50)])


def glyphs() -> str:
    """Every cue draws other ideographs."""
    return srt([(i / 25, (i + 1) / 25, "".join(chr(0x4E00 + 60 * i + j) for j in range(60))) for i in range(75)])


def gray(width: int, height: int, mode: str = "L") -> Callable[[], Image.Image]:
    return lambda: Image.new(mode, (width, height))


def noise(width: int, height: int) -> Image.Image:
    """Rows of noise that compress well, because few of them differ."""
    row = np.random.default_rng(1).integers(0, 256, (16, width, 3), np.uint8)
    return Image.fromarray(np.tile(row, (height // 16, 1, 1)))


def rgba(width: int, height: int) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGBA", (width, height), (200, 30, 30, 128))


def png(width: int, height: int, depth: int, color: int, bits: int) -> Make:
    """A PNG of zeros, with `bits` a pixel."""

    def make(folder: Path) -> Path:
        line, packer = bytes(1 + width * bits // 8), zlib.compressobj(9)
        data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
        header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
        path = folder / "image.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, (b"IHDR", b"IDAT", b"IEND"), (header, data, b""))))
        return path

    return make


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_samples(folder: Path) -> Path:
    """A small MP4 whose header claims 200 million samples of one byte in one chunk."""
    path = made("video.mp4", "-f lavfi -i testsrc=size=64x64:rate=10:duration=1 -c:v libx264 -bf 0")(folder)
    content = bytearray(path.read_bytes())
    at = content.index(b"stsz") + 8
    content[at : at + 8] = struct.pack(">II", 1, 200_000_000)
    at = content.index(b"stsc") + 12
    content[at : at + 8] = struct.pack(">II", 1, 200_000_000)
    path.write_bytes(content)
    return path


def with_attachment(folder: Path) -> Path:
    """A Matroska file with 300 MB of attached file."""
    attached = folder / "attached.ttf"
    attached.write_bytes(bytes(300_000_000))
    attach = f"-attach {attached} -metadata:s:t mimetype=application/x-truetype-font"
    return made("video.mkv", f"-f lavfi -i testsrc=size=128x72:rate=10:duration=3 {attach} -c:v libx264")(folder)


def sound_last(folder: Path) -> Path:
    """A Matroska file of two minutes that stores all of the video before all of the sound."""
    inputs = "-f lavfi -i testsrc2=size=1280x720:rate=25:duration=120 -f lavfi -i sine=duration=120"
    return made("video.avi", f"{inputs} -c:v libx264 -bf 0 -preset ultrafast -qp 5 -c:a pcm_s16le "
                "-max_interleave_delta 0")(folder)


CAPTION, AUDIO, SHOT = "caption", "adicionaAudio", "img2vid"
_CUE = text("cues.srt", lambda: srt([(0, 3, "One short line")]))
_BIG = {"style": {"size": 0.3, "line_length": 100, "max_lines": 10, "outline": 0.3, "shadow": 0.3, "margin_y": 0, "margin_x": 0}}
_HDR = "libx265 -preset ultrafast -pix_fmt yuv420p10le -x265-params log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc -color_trc smpte2084 -color_primaries bt2020 -colorspace bt2020nc"


def _codec(codec: str, **more: Any) -> dict[str, Any]:
    return {"encoding": {"codec": codec, "quality": "best"}, **more}


def _caption(name: str, meaning: str, make: Make, cues: Make = _CUE, **more: Any) -> Case:
    quick, params = more.pop("quick", False), more.pop("params", {})
    return Case(f"caption.{name}", CAPTION, meaning, {"url_video": make, "url_srt": cues}, params, quick=quick, **more)


def _audio(name: str, meaning: str, make: Make, new: Make, **more: Any) -> Case:
    params = more.pop("params", {})
    return Case(f"audio.{name}", AUDIO, meaning, {"url_video": make, "url_audio": new}, params, **more)


def _shot(name: str, meaning: str, make: Make, **more: Any) -> Case:
    params = {"duration": 3, **more.pop("params", {})}
    return Case(f"image.{name}", SHOT, meaning, {"url_image": make}, params, **more)


_4K = {"size": "4k"}
CASES = (
    _caption("cues_4k", "50 cues that fill the frame, 4096x2304", video(LARGE, 1), text("c.srt", at_once),
             params=_BIG, limit_bytes=LARGE_BYTES, quick=True),
    _caption("cues_hd", "50 cues that fill the frame, 1080p", video(HD, 1), text("c.srt", at_once), params=_BIG),
    _caption("glyphs_4k", "thousands of large ideographs, 4096x2304", video(LARGE), text("c.srt", glyphs),
             params=_BIG, limit_bytes=LARGE_BYTES),
    _caption("x264_4k", "x264, 4096x2304", video(LARGE), limit_bytes=LARGE_BYTES),
    _caption("x265_4k", "x265, 4096x2304", video(LARGE), params=_codec("hevc"), limit_bytes=LARGE_BYTES),
    _caption("av1_4k", "SVT-AV1, 4096x2304", video(LARGE), params=_codec("av1"), limit_bytes=LARGE_BYTES),
    _caption("x264_hd", "x264, 1080p", video(HD)),
    _caption("x265_hd", "x265, 1080p", video(HD), params=_codec("hevc")),
    _caption("av1_hd", "SVT-AV1, 1080p", video(HD), params=_codec("av1")),
    _caption("hdr_4k", "HDR of 10 bits to SDR with x265, 4096x2304", video(LARGE, 2, codec=_HDR),
             params=_codec("hevc"), limit_bytes=LARGE_BYTES),
    _caption("refs_4k", "16 reference frames, to AV1", video(LARGE, 2, codec="libx264 -preset ultrafast -refs 16 -bf 16"),
             params=_codec("av1"), limit_bytes=LARGE_BYTES),
    _caption("narrow", "16384x576 with SVT-AV1", video("16384x576", 2), params=_codec("av1"), limit_bytes=LARGE_BYTES),
    _caption("still_4k", "one frame of two minutes, 4096x2304", made("v.mp4", f"-f lavfi -i color=size={LARGE}:rate=1:duration=20 -c:v libx264 -preset ultrafast"),
             params=_codec("av1"), limit_bytes=LARGE_BYTES),
    _caption("samples", "a header that claims 200 million samples", many_samples, quick=True),
    _caption("attachment", "an attachment of 300 MB", with_attachment),
    _audio("loop", "forty minutes of sound, repeated for an hour",
           video("64x64", 3600, 1), sound(2400, "libmp3lame -b:a 32k"), params={"loop": True}),
    _audio("loop_short", "a second of sound, repeated for an hour",
           video("64x64", 3600, 1), sound(1), params={"loop": True}, quick=True),
    _audio("sound_last", "a video that stores its sound after its frames, mixed", sound_last, sound(100),
           params={"mode": "mix", "ducking": "new"}),
    _audio("hold_4k", "the last frame held for a minute, 4096x2304 to AV1",
           video(LARGE, 1), sound(20), params=_codec("av1", length="audio"), limit_bytes=LARGE_BYTES),
    _audio("rate", "sound of 768 kHz and 8 channels, with loudness", video("64x64", 60),
           made("s.wav", "-f lavfi -i anoisesrc=r=768000:d=30 -ac 8"), params={"loudness": -14, "mode": "mix"}),
    _audio("channels", "255 channels", video("64x64", 60),
           made("s.wav", "-f lavfi -i anoisesrc=d=5 -af pan=64c|c0=c0"), params={"loudness": -14}),
    _audio("late", "the new sound begins after an hour", video("64x64", 7200, 1), sound(60), params={"start": 3600}),
    _shot("float", "TIFF of 100 megapixels, 32-bit floats", image("i.tiff", gray(10_000, 10_000, "F"), compression="tiff_deflate"), quick=True),
    _shot("integer", "TIFF of 100 megapixels, 32-bit integers", image("i.tiff", gray(10_000, 10_000, "I"), compression="tiff_deflate")),
    _shot("high_4k", "2x100000 pixels with `contain`, 4K", image("i.png", gray(2, 100_000)),
          params={**_4K, "fit": "contain"}, limit_bytes=LARGE_BYTES, quick=True),
    _shot("wide_4k", "100000x2 pixels with `cover`, 4K to AV1", image("i.png", gray(100_000, 2)),
          params={**_4K, **_codec("av1")}, limit_bytes=LARGE_BYTES),
    _shot("webp", "WebP of 100 megapixels", image("i.webp", rgba(10_000, 10_000), lossless=True, method=0)),
    _shot("avif", "AVIF of 100 megapixels", image("i.avif", rgba(10_000, 10_000), speed=10)),
    _shot("png16", "PNG of 100 megapixels, 16 bits, with alpha", png(10_000, 10_000, 16, 6, 64)),
    _shot("palette", "PNG of 100 megapixels with a palette", image("i.png", gray(10_000, 10_000, "P"), transparency=0)),
    _shot("gif", "GIF of 100 megapixels, animated", image("i.gif", gray(10_000, 10_000, "P"), save_all=True, append_images=[Image.new("P", (10_000, 10_000), 1)])),
    _shot("jpeg", "progressive CMYK JPEG of 100 megapixels", image("i.jpg", gray(10_000, 10_000, "CMYK"), progressive=True)),
    _shot("photo_4k", "JPEG of 100 megapixels, 4K, x265", image("i.jpg", lambda: noise(10_000, 10_000)),
          params={**_4K, **_codec("hevc")}, limit_bytes=LARGE_BYTES),
)
