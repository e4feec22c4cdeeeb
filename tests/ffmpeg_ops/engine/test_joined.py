from __future__ import annotations

from pathlib import Path

import pytest

from ffmpeg_ops.engine import inspect, joined, packets
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.media import Media, broadcasts


@pytest.mark.parametrize(
    "begin_s",
    [
        pytest.param((0, 0), marks=pytest.mark.slow),
        pytest.param((0, 3000), marks=pytest.mark.slow),
        (3000, 0),
        (0, 0, 50, 0),
    ],
)
def test_joined_parts_become_continuous(begin_s: tuple[int, ...], media: Media, work: Work) -> None:
    said: list[str] = []
    path = joined.continuous(broadcasts(media, *begin_s), "url_video", work, said.append)
    _, video = inspect.video_asset(path, "url_video", work)
    assert video.duration_s == pytest.approx(len(begin_s), abs=0.05)
    assert packets.count_frames(path, video.index, work) == 25 * len(begin_s)
    assert said == ["url_video: its timestamps jump; its parts were joined"]


OTHER_RECORDINGS = [("webm", (0, 0)), ("flv", (0, 36000)), ("flv", (36000, 0))]


def recording(media: Media, kind: str, *begin_s: int) -> Path:
    """Recordings of one second, joined byte by byte, whose timestamps begin at these times."""
    source = f"-i {media.video().name} {'-c:v libvpx -deadline realtime -c:a libopus' if kind == 'webm' else '-c copy'}"
    parts = [media.made(f"{kind}-{s}.{kind}", f"{source} -output_ts_offset {s}").read_bytes() for s in begin_s]
    path = media.folder / f"recording-{'-'.join(map(str, begin_s))}.{kind}"
    path.write_bytes(parts[0] + b"".join(part[13 if kind == "flv" else 0 :] for part in parts[1:]))
    return path


@pytest.mark.parametrize(
    ("kind", "begin_s"),
    [("flv", (0, 0, 0)), *(pytest.param(*row, marks=pytest.mark.slow) for row in OTHER_RECORDINGS)],
)
def test_joined_recordings_become_continuous(kind: str, begin_s: tuple[int, ...], media: Media, work: Work) -> None:
    said: list[str] = []
    path = joined.continuous(recording(media, kind, *begin_s), "url_video", work, said.append)
    info, video = inspect.video_asset(path, "url_video", work)
    slack_s = 0.05 * len(begin_s)  # the sound of each part is a little longer
    assert video.duration_s == pytest.approx(len(begin_s), abs=slack_s)
    times = packets.frame_times(path, video.index, work)
    assert len(times) == 25 * len(begin_s) and times[-1] - times[0] == pytest.approx(len(begin_s), abs=slack_s)
    assert info.audio is not None
    heard = packets.frame_times(path, info.audio.index, work)
    assert heard[-1] - heard[0] == pytest.approx(len(begin_s), abs=slack_s)
    assert said == ["url_video: its timestamps jump; its parts were joined"]


@pytest.mark.slow
def test_a_still_that_lasts_for_hours_is_no_jump(media: Media, work: Work) -> None:
    """Only the picture of it jumps, and not the sound."""
    sources = "-f lavfi -i color=size=16x16:rate=1/10100:d=20200 -f lavfi -i anullsrc=r=8000:cl=mono:d=10200"
    path = media.made("podcast.mkv", f"{sources} -c:v ffv1 -c:a adpcm_ima_wav")
    said: list[str] = []
    assert joined.continuous(path, "url_video", work, said.append) == path and not said


def test_other_files_are_left_alone(media: Media, tmp_path: Path, work: Work) -> None:
    noise = tmp_path / "noise.ts"
    noise.write_bytes((b"G" + bytes(187)) * 50)
    late = media.made("late.mpg", f"-i {media.video().name} -c:v mpeg2video -c:a mp2 -output_ts_offset 60")
    b_frames = "-c:v libx264 -bf 3 -x264-params b-pyramid=normal -pix_fmt yuv420p -c:a copy"
    sparse = media.made("sparse.mkv", f"-i {media.video().name} -vf select=not(mod(n\\,8)) -fps_mode vfr {b_frames}")
    recordings = (recording(media, "webm", 0), recording(media, "flv", 36000), sparse)
    for path in (media.video(), broadcasts(media, 0), broadcasts(media, 3000), late, noise, *recordings):
        said: list[str] = []
        assert joined.continuous(path, "url_video", work, said.append) == path and not said
