from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory in use from /proc")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_memory_does_not_grow_and_requests_overlap():
    """The rate itself belongs to the machine: `python -m tests.llm.throughput` states it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm.throughput", "500"], stdout=subprocess.PIPE, text=True, check=True
    )
    for vendor, (short, long, sdk) in json.loads(done.stdout).items():
        assert long["replies"] == 4 * short["replies"]
        assert long["resident_mb"] - short["resident_mb"] < 4, vendor  # of 2,000 more replies
        assert long["cpu_ms"] < sdk["cpu_ms"], vendor
        if os.getloadavg()[0] < 2:
            assert long["per_second"] > 200, vendor  # one at a time would be 20
