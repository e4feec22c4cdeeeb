"""A fast start of the worker: what it imports, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.cold_start import first_take_s
from handler import warm_up
from tests.conftest import ROOT
from tests.servers import PATIENCE_S


def test_a_lazy_module_is_the_real_one_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import colorsys as real

    monkeypatch.setitem(sys.modules, "colorsys", warm_up._LazyModule("colorsys"))
    import colorsys

    assert colorsys is not real
    assert colorsys.rgb_to_hsv(1, 1, 1) == real.rgb_to_hsv(1, 1, 1)
    assert not isinstance(sys.modules["colorsys"], warm_up._LazyModule)


@pytest.mark.slow
def test_what_only_jobs_need_is_not_imported_at_the_start() -> None:
    code = (
        "from handler.warm_up import skip_imports; skip_imports()\n"
        "import handler.__main__, runpod, sys\n"
        "heavy = {'cv2', 'numpy', 'PIL', 'pysubs2', 'boto3', 'paramiko.transport', 'cpuinfo.cpuinfo', 'gunicorn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.slow
def test_the_time_until_the_first_job_take_is_measured() -> None:
    assert first_take_s() > 0
