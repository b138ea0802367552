"""Plans what stages take: models, memory, disk, hours, requests and dollars. Nothing is run, loaded or asked."""

from __future__ import annotations

import math
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax import tasks
from lc_jax.llm import capabilities
from lc_jax.memory import GB
from lc_jax.planning import disk, hours, remedies, work
from lc_jax.planning.devices import Devices
from lc_jax.planning.models import Models
from lc_jax.planning.requests import Bill
from lc_jax.planning.stages import check_file, load
from lc_jax.text_table import table

RECORD = ""
HEADER = (
    "stage", "models", "GB a device", "fits", "hours", "disk GB, running", "then", "API calls", "API $", "with batch"
)  # fmt: skip


def check(config: ConfigDict) -> None:
    """Refuses a file of stages that is not there, or devices without a meaning."""
    check_file(config.stages, "--plan")
    Devices.choose(config.devices, config.profile)


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: a plan is made on any machine."""
    return False


def run(config: ConfigDict, mesh: jax.sharding.Mesh | None) -> None:
    """Prints a table of the stages in `config.stages`, their sums, and advice for those that do not fit.

    Raises:
      Problems: a line is not a stage, or the profile has a fault.
    """
    stages, devices = load(config.stages, config.profile), Devices.choose(config.devices, config.profile)
    shapes = Models(stages)
    memories = remedies.measure_all(stages, shapes, devices, lambda task: tasks.find(task, "planned"))
    disks = [disk.measure(s, stages, shapes, keep_checkpoints=config.keep_checkpoints) for s in stages]
    figures = hours.measured_figures(Path(config.figures), devices.kind)
    clock = hours.Clock(devices, stages, shapes, figures)
    times = [clock.time(stage) for stage in stages]
    bills = [Bill.of(s.config, work.num_rows(s, stages) * work.num_candidates(s, stages)) for s in stages]
    rows = [
        [
            stage.name, ", ".join(shapes.names_of(stage.config)), number(use.peak / GB), "yes" if use.fits else "NO",
            str(time), number(space.peak / GB), number(space.rest / GB), *_cells(bill),
        ]
        for stage, use, time, space, bill in zip(stages, memories, times, disks, bills, strict=True)
    ]  # fmt: skip
    downloads = disk.downloads(stages, shapes)
    sources = {time.source for time in times if time.source}
    total = hours.Hours(sum(time.value for time in times), "floor" if "floor" in sources else "measured")
    highest = max((use.peak for use in memories), default=0.0)
    rest = downloads + sum(space.rest for space in disks)
    rows.append(
        [
            "all", "", number(highest / GB), "yes" if all(use.fits for use in memories) else "NO", str(total),
            number((downloads + disk.most(disks)) / GB), number(rest / GB), *_cells(sum(bills, Bill())),
        ]
    )  # fmt: skip
    print(table([list(HEADER), *rows], markdown=True))
    print("\n" + "\n".join(_notes(devices, downloads, sources, bool(figures))))
    for line in remedies.refusals(stages, memories):
        print(line)


def _cells(bill: Bill) -> list[str]:
    return [f"{bill.calls:,.0f}", number(bill.dollars), number(bill.batch)]


def _notes(devices: Devices, downloads: float, sources: set[str], has_figures: bool) -> list[str]:
    """Returns the notes under the table: what its figures are of."""
    notes = [
        f"Devices: {devices}.",
        f"Disk of all: the most at one time, with {downloads / GB:,.0f} GB of downloads. 'then': what a stage leaves.",
        f"API prices as read on {capabilities.PRICED}, at most: replies at full length. '-' is unknown.",
    ]
    if "floor" in sources:
        notes.append("Hours with '>' are a floor: the devices at their peaks, without compiling, loading and requests.")
    if not has_figures:
        notes.append(
            "Hours from measurements: on such a machine run `python -m benchmarks.sft_step --full`, and "
            "benchmarks.generate and benchmarks.ppo_step in the same way, then plan again."
        )
    return notes


def number(value: float) -> str:
    """A figure of a table."""
    text = f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
    return "-" if math.isnan(value) else text
