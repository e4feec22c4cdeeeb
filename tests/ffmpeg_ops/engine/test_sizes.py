"""Changes of size in copied videos, read from the MP4 that FFmpeg made."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest

from ffmpeg_ops.engine import mp4, sizes
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import X264, Media

slow = partial(pytest.param, marks=pytest.mark.slow)
CODECS = {
    "h264": ("h264", "libx264 -preset ultrafast -bf 0"),
    "hevc": ("hevc", "libx265 -preset ultrafast -x265-params log-level=none -bf 0"),
    "av1": ("obu", "libsvtav1 -preset 12"),
}


def joined(media: Media, codec: str, *picture_sizes: str) -> Path:
    """An MP4 of the raw streams of pictures of these sizes, one after the other."""
    form, encoder = CODECS[codec]
    name, parts = "-".join([codec, *picture_sizes]), b""
    for i, size in enumerate(picture_sizes):
        source = f"-f lavfi -i testsrc2=size={size}:rate=25:d=0.4 -pix_fmt yuv420p -c:v {encoder}"
        parts += media.made(f"{name}.{i}.{form}", f"{source} -f {form}").read_bytes()
    (media.folder / f"{name}.{form}").write_bytes(parts)
    return media.made(f"{name}.mp4", f"-f {form} -i {name}.{form} -c copy")


@pytest.mark.parametrize("codec", ["h264", slow("hevc"), slow("av1")])
def test_changes_are_found_in_every_codec_that_is_copied(codec: str, media: Media, work: Work) -> None:
    assert sizes.changes(joined(media, codec, "96x64", "64x96"), codec, work)
    assert not sizes.changes(joined(media, codec, "96x64", "96x64"), codec, work)


@pytest.mark.parametrize("options", ["", "-movflags +faststart", "-g 1"])
def test_key_packets_are_where_ffprobe_finds_them(options: str, media: Media) -> None:
    sound = "-f lavfi -i sine=d=2 -c:a aac"
    path = media.made(
        f"keys{options}.mp4", f"-f lavfi -i testsrc2=size=64x48:rate=25:d=2 {sound} {X264} -g 10 {options}"
    )
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v", "-show_packets", str(path)]
    packets = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packets"]
    keys = [(int(p["pos"]), int(p["size"])) for p in packets if "K" in p["flags"]]
    assert len(keys) >= 5
    assert sorted(mp4.key_packets(path).places) == sorted(keys)


def test_what_is_no_mp4_has_no_key_packets(tmp_path: Path) -> None:
    (tmp_path / "made.mp4").write_bytes(b"\0\0\0\x08moov")
    with pytest.raises(ValueError, match="no readable header"):
        mp4.key_packets(tmp_path / "made.mp4")


def test_a_packet_of_empty_units_is_given_up_early(media: Media, work: Work) -> None:
    """Every unit is a read: a packet of megabytes could hold millions of them."""
    path = joined(media, "h264", "96x64")
    keys = mp4.key_packets(path)
    at = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(4 * 100_000))
        assert list(sizes._size_units(file, at, 400_000, "h264", keys.description)) == []
        assert file.tell() < at + 4 * 100
