"""ffmpeg_ops.engine.mixing.mixer: where sounds lie in the mix, how loud they are, and what a mix takes."""

from __future__ import annotations

import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffmpeg_ops.engine.mixing import filters, mixer
from ffmpeg_ops.engine.mixing.voice import Sound, Voice
from ffmpeg_ops.operation import Work
from tests.ffmpeg_ops.adiciona_audio.listen import level_db, loudness
from tests.ffmpeg_ops.engine.mixing.sounds import (
    RATE,
    click,
    clicks,
    decoded,
    heard,
    mixed,
    rms,
    sine,
    sound,
    wav,
)
from tests.ffmpeg_ops.media import Media, damaged, ffmpeg
from wire.errors import AssetInvalid, Cancelled

slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many voices were open whenever one more was opened."""
    counts: list[int] = []
    opened: list[Voice] = []

    class Counted(Voice):
        def __init__(self, one: Sound, work: Work) -> None:
            super().__init__(one, work)
            opened.append(self)
            counts.append(len(opened))

        def close(self) -> None:
            super().close()
            if self in opened:
                opened.remove(self)

    monkeypatch.setattr(mixer, "Voice", Counted)
    return counts


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_sound_begins_at_its_sample(work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "click.wav", click(0, 4800))
    ats = [0, 4801, 47_999, 96_000, 100_123, 143_999, 200_001]
    made = heard([sound(path, work, at=at) for at in reversed(ats)], 204_321, work)
    assert len(made) == 204_321 and clicks(made) == ats


@pytest.mark.parametrize("samples", [slow(1), slow(1600), 47_999, slow(48_000), slow(48_001), slow(123_457)])
def test_the_mix_has_exactly_its_length(samples: int, work: Work, tmp_path: Path) -> None:
    """With a sound that is longer, one that begins behind it, and none."""
    path = wav(tmp_path / "long.wav", sine(440, 4))
    assert len(heard([sound(path, work), sound(path, work, at=samples)], samples, work)) == samples
    silent = heard([], samples, work)
    assert len(silent) == samples and not silent.any()


@pytest.mark.slow
def test_left_and_right_stay_apart_and_sounds_add_up(work: Work, tmp_path: Path) -> None:
    left, right = np.stack([sine(440, 1), 0 * sine(440, 1)], 1), np.stack([0 * sine(440, 1), sine(880, 1)], 1)
    one, other = wav(tmp_path / "left.wav", left), wav(tmp_path / "right.wav", right)
    made = heard([sound(one, work), sound(other, work, volume=0.5), sound(one, work, at=RATE // 2)], RATE, work)
    assert np.abs(made[480:23_000] - (left + right / 2)[480:23_000]).max() < 1e-3
    assert np.abs(made[25_000:-480, 1] - right[25_000:-480, 1] / 2).max() < 1e-3
    assert rms(made[25_000:-480, 0]) == pytest.approx(2 * rms(left[:, 0]), rel=0.01), "in phase with itself"


@pytest.mark.slow
def test_a_sound_is_cut_where_it_may_last_no_longer(work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "tone.wav", sine(440, 3))
    made = heard([sound(path, work, at=1000, samples=60_000)], 3 * RATE, work)
    assert not made[:900].any() and rms(made[1000:61_000]) > 0.06 and rms(made[61_100:]) < 1e-5


def test_the_mix_fades_out(work: Work, tmp_path: Path) -> None:
    path = wav(tmp_path / "constant.wav", np.full((3 * RATE, 2), 0.5))
    made = heard([sound(path, work)], 2 * RATE, work, fade_out=RATE)
    assert made[[RATE // 2, 3 * RATE // 2], 0] == pytest.approx([0.5, 0.25], abs=2e-3)
    assert abs(made[-1, 0]) < 0.005


# --- levels ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_music_is_lowered_under_speech_and_comes_back(work: Work, tmp_path: Path) -> None:
    speech, music = wav(tmp_path / "speech.wav", sine(500, 2, 0.3)), wav(tmp_path / "music.wav", sine(1300, 1))
    sounds = [
        sound(music, work, loop=True, ducked=True),
        sound(speech, work, at=2 * RATE, keys=True),
        sound(wav(tmp_path / "effect.wav", sine(3000, 7)), work),
    ]
    made = heard(sounds, 7 * RATE, work)[:, 0]
    before, during, after = (level_db(made, 1300, at, at + 0.8) for at in (0.6, 2.8, 5.5))
    assert before == pytest.approx(-20, abs=0.2) and after == pytest.approx(-20, abs=0.5)
    assert before - 24 < during < before - 8
    assert level_db(made, 500, 2.5, 3.5) == pytest.approx(-10.5, abs=0.2), "the speech stays"
    assert level_db(made, 3000, 2.5, 3.5) == pytest.approx(-20, abs=0.2), "and so does what is not ducked"


@pytest.mark.parametrize("fields", [slow({"keys": True}), {"ducked": True}, slow({})])
def test_nothing_is_lowered_for_a_sound_without_keys_or_that_is_not_ducked(
    fields: dict[str, bool], work: Work, tmp_path: Path
) -> None:
    paths = [wav(tmp_path / f"{hz}.wav", sine(hz, 1, 0.3)) for hz in (500, 1300)]
    made = heard([sound(path, work, **fields) for path in paths], RATE, work)[:, 0]
    assert [level_db(made, hz, 0.2, 0.8) for hz in (500, 1300)] == pytest.approx([-10.5, -10.5], abs=0.2)


@pytest.mark.slow
def test_a_quiet_speech_lowers_nothing(work: Work, tmp_path: Path) -> None:
    """What counts is how loud it is heard."""
    paths = [wav(tmp_path / f"{hz}.wav", sine(hz, 1, 0.3)) for hz in (500, 1300)]
    made = heard([sound(paths[0], work, keys=True, volume=0.01), sound(paths[1], work, ducked=True)], RATE, work)
    assert level_db(made[:, 0], 1300, 0.2, 0.8) == pytest.approx(-10.5, abs=0.2)


@pytest.mark.slow
def test_many_loud_sounds_do_not_clip_even_after_aac(work: Work, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    loud = [np.sign(sine(hz, 3, 1)) * 0.99 for hz in (220, 997)] + [random.uniform(-1, 1, 3 * RATE) for _ in range(3)]
    paths = [wav(tmp_path / f"loud-{i}.wav", samples) for i, samples in enumerate(loud)]
    made = heard([sound(path, work) for path in paths], 3 * RATE, work)
    assert np.abs(made).max() < 0.9
    encoded = tmp_path / "loud.m4a"
    ffmpeg("-i", work.directory / "sound.w64", *filters.AAC, encoded)
    assert loudness(encoded)[1] < -1
    assert rms(made) > 0.1, "and they are not silenced"


@pytest.mark.slow
@pytest.mark.parametrize("target", [slow(-23.0), -14.0])
def test_the_mix_has_the_requested_loudness(target: float, work: Work, samples: Path, tmp_path: Path) -> None:
    music = wav(tmp_path / "music.wav", sine(330, 2, 0.4))
    sounds = [sound(samples / "narration.mp3", work, keys=True), sound(music, work, loop=True, ducked=True, volume=0.2)]
    made = heard(sounds, 6 * RATE, work, loudness=target, fade_out=RATE // 2)
    encoded = tmp_path / "film.m4a"
    ffmpeg("-i", work.directory / "sound.w64", *filters.AAC, encoded)
    integrated, peak = loudness(encoded)
    assert integrated == pytest.approx(target, abs=1) and peak < -1
    assert len(made) == 6 * RATE and [path.name for path in work.directory.iterdir()] == ["sound.w64"]


# --- what it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_sounds_in_a_row_take_a_few_processes_and_no_more_memory(
    work: Work, tmp_path: Path, voices: list[int]
) -> None:
    peaks = []
    for number in (10, 100):
        paths = [wav(tmp_path / f"{i}.wav", click(i * 100, RATE)) for i in range(number)]
        sounds = [sound(path, work, at=i * RATE + 37, samples=RATE) for i, path in enumerate(paths)]
        tracemalloc.start()
        found = mixer.mix(sounds, (number + 1) * RATE, work.directory / "sound.w64", work)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.warnings == () and found.errors == 0
        made = decoded(work.directory / "sound.w64")
        assert clicks(made) == [i * RATE + 37 + i * 100 for i in range(number)]
    assert peaks[1] < 1.3 * peaks[0]
    assert max(voices) <= mixer._AHEAD + 1


@pytest.mark.parametrize(("number", "ducks"), [slow(100, False), slow(19, True)])
def test_sounds_at_once_are_mixed_a_few_at_a_time(
    number: int, ducks: bool, work: Work, tmp_path: Path, voices: list[int]
) -> None:
    path = wav(tmp_path / "constant.wav", np.full((3 * RATE, 2), 0.6 / number))
    quiet = [sound(wav(tmp_path / "quiet.wav", sine(1300, 3, 0.01)), work, ducked=True)] if ducks else []
    made = heard([*quiet, *(sound(path, work, at=i * 100, keys=ducks) for i in range(number))], 3 * RATE, work)
    assert made[2 * RATE] == pytest.approx([0.6, 0.6], abs=0.02)
    assert made[150, 0] == pytest.approx(2 * 0.6 / number, abs=0.02)
    assert max(voices) <= mixer._AT_ONCE + 1
    assert [one.name for one in work.directory.iterdir()] == ["sound.w64"], "what was mixed first is removed"


@pytest.mark.slow
def test_many_short_sounds_in_one_second_are_not_open_at_once(work: Work, tmp_path: Path, voices: list[int]) -> None:
    path = wav(tmp_path / "click.wav", click(0, 2000))
    ats = [i * 4000 for i in range(12)]
    assert clicks(heard([sound(path, work, at=at, samples=2000) for at in ats], RATE, work)) == ats
    assert max(voices) <= mixer._AHEAD + 1


# --- what goes wrong -------------------------------------------------------------------------------------------------


def broken(media: Media, name: str) -> tuple[Path, bytes]:
    """A file that can be probed, and what to overwrite it with then, so that nothing of it can be decoded."""
    whole = media.made(f"whole-{name}", "-f lavfi -i anoisesrc=d=1:seed=1:a=0.1 -movflags faststart").read_bytes()
    path = media.folder / name
    path.write_bytes(whole)
    at = whole.index(b"mdat") + 4
    return path, whole[:at] + b"\xff" * (len(whole) - at)


@pytest.mark.parametrize("at", [0, slow(3 * RATE)])
def test_a_broken_sound_fails_the_mix_by_its_name(at: int, work: Work, media: Media, tmp_path: Path) -> None:
    """Though FFmpeg then got no sample, or only some."""
    path, content = broken(media, "narration.m4a")
    bad = sound(path, work, at=at)
    path.write_bytes(content)
    good = sound(wav(tmp_path / "good.wav", sine(440, 1)), work, loop=True)
    with pytest.raises(AssetInvalid, match=r"^narration: the file's sound cannot be decoded"):
        heard([*([good] if at else []), bad], 5 * RATE, work)
    assert not work.processes


def test_a_sound_of_which_nothing_is_found_is_broken(work: Work, media: Media) -> None:
    """FFmpeg passes over what is no FLAC without an error."""
    whole = media.made("noise.flac", "-f lavfi -i anoisesrc=d=1:seed=1:a=0.1").read_bytes()
    path = media.folder / "music.flac"
    path.write_bytes(whole)
    bad = sound(path, work)
    path.write_bytes(whole[:200] + bytes(len(whole) - 200))
    with pytest.raises(AssetInvalid, match=r"^music: the file's sound cannot be decoded"):
        heard([bad], RATE, work)


@pytest.mark.slow
def test_damage_and_silence_are_reported(work: Work, media: Media, tmp_path: Path) -> None:
    hurt = damaged(media, "hurt.aac", "-f lavfi -i anoisesrc=d=5:seed=1:a=0.1 -c:a aac", 20)
    short = wav(tmp_path / "short.wav", sine(440, 0.5))
    found, made = mixed([sound(hurt, work), sound(short, work, skip_s=1)], 5 * RATE, work)
    assert found.errors > 0 and len(found.warnings) == 2
    assert any(warning.startswith(f"{hurt.stem}: parts of the sound") for warning in found.warnings)
    assert "short: nothing is heard of its sound, which has ended before" in found.warnings
    assert rms(made) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("loudness_lufs", [None, slow(-14.0)])
def test_a_stop_ends_every_process(loudness_lufs: float | None, work: Work, tmp_path: Path) -> None:
    music = wav(tmp_path / "music.wav", sine(440, 1))
    sounds = [sound(music, work, loop=True, at=i * 1000) for i in range(20)]  # more than are mixed at once
    stopper = threading.Thread(target=_stop_when_busy, args=(work,), daemon=True)
    stopper.start()
    with pytest.raises(Cancelled):
        heard(sounds, 3600 * RATE, work, loudness=loudness_lufs)
    stopper.join()
    assert not work.processes


def _stop_when_busy(work: Work) -> None:
    while len(work.processes) < 4:
        time.sleep(0.01)
    work.stop.set(Cancelled())


@pytest.mark.slow
def test_progress_never_falls_and_ends_at_one(work: Any, tmp_path: Path) -> None:
    music = sound(wav(tmp_path / "music.wav", sine(440, 1)), work, loop=True)
    for target in (None, -20.0):
        work.shares.clear()
        heard([music], 20 * RATE, work, loudness=target)
        assert work.shares == sorted(work.shares) and work.shares[-1] == 1
