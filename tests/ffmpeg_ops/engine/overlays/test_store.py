"""`LayerStore`: what is kept comes back, in bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ffmpeg_ops.engine.i420 import Layer, layer_of_rgba
from ffmpeg_ops.engine.overlays.store import Kept, LayerStore
from wire.errors import JobTooLarge


def layer(seed: int) -> Layer:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(1, 60, 2)
    made = layer_of_rgba(rng.integers(1, 256, (height, width, 4), np.uint8), *map(int, rng.integers(0, 9, 2)), (64, 64))
    assert made is not None
    return made


def same(a: Layer, b: Layer) -> bool:
    arrays = zip((*a.colors, *(a.alphas or ())), (*b.colors, *(b.alphas or ())), strict=True)
    return (a.x, a.y, a.opacity) == (b.x, b.y, b.opacity) and all((one == other).all() for one, other in arrays)


@pytest.mark.parametrize("cache_bytes", [0, 5_000, 10**9])
def test_layers_come_back_as_they_were(cache_bytes: int, tmp_path: Path) -> None:
    order = [*range(30), *range(29, -1, -1), 3, 3, 17]
    with closing(LayerStore(tmp_path / "layers", cache_bytes=cache_bytes)) as store:
        kept = [store.keep(layer(seed)) for seed in range(30)]
        assert all(same(store.get(kept[i]), layer(i)) for i in order)


def test_threads_get_the_same(tmp_path: Path) -> None:
    order = np.random.default_rng(0).integers(0, 20, 400).tolist()
    with closing(LayerStore(tmp_path / "layers", cache_bytes=20_000)) as store, ThreadPoolExecutor(8) as pool:
        kept = [store.keep(layer(seed)) for seed in range(20)]
        assert all(pool.map(lambda i: same(store.get(kept[i]), layer(i)), order))


def test_memory_is_that_of_the_cache(tmp_path: Path) -> None:
    with closing(LayerStore(tmp_path / "layers", cache_bytes=20_000)) as store:
        for one in [store.keep(layer(seed)) for seed in range(50)]:
            store.get(one)
            assert sum(cached.size_bytes for cached in store._cached) <= max(20_000, one.size_bytes)


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    refused = pytest.raises(JobTooLarge, match="The overlays have more than")
    with closing(LayerStore(tmp_path / "layers", max_bytes=20_000)) as store, refused:
        for seed in range(50):
            store.keep(layer(seed))
    assert (tmp_path / "layers").stat().st_size <= 20_000


def test_the_size_is_that_of_the_planes(tmp_path: Path) -> None:
    assert Kept(0, (0, 0, 4, 2)).size_bytes == 8 + 8 + 3 * 2
