"""Processes of a run, from the environment variables alone."""

import logging
import os
import subprocess
import sys

import jax
import pytest

from lc_jax import parallel

VARIABLES = (
    *("LC_COORDINATOR", "LC_NUM_PROCESSES", "LC_PROCESS_ID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"),
)
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.fixture
def start(monkeypatch):
    """Calls parallel.start under some variables; returns what jax.distributed.initialize got, None if not called."""

    def go(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        calls = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
        parallel.start()
        return calls[0] if calls else None

    return go


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": ""},
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4"},  # a shell of salloc
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # a script of sbatch
        {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", **SRUN},  # a shell that is a step of its own
        {"LC_COORDINATOR": "", "LC_NUM_PROCESSES": " ", "LC_PROCESS_ID": ""},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_one_process_runs_alone(start, variables):
    assert start(**variables) is None


def test_a_shell_inside_an_allocation_is_told_that_it_runs_alone(start, caplog):
    with caplog.at_level(logging.WARNING):
        start(SLURM_NTASKS="4")
    assert "SLURM_NTASKS=4, but srun did not start this process" in caplog.text
    caplog.clear()
    start(SLURM_NTASKS="4", SLURM_STEP_NUM_TASKS="1", **SRUN)  # srun -n1 did start it
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_processes_of_srun_mpirun_a_pod_and_our_own_variables_join(start):
    assert start(SLURM_NTASKS="4", **SRUN) == ()
    assert start(SLURM_NTASKS="4", SLURM_STEP_NUM_TASKS="4", **SRUN) == ()
    assert start(TPU_WORKER_HOSTNAMES="a,b") == ()
    mpi = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    assert start(OMPI_COMM_WORLD_SIZE="2", **mpi) == ()
    ours = {"LC_COORDINATOR": "node1:1234", "LC_NUM_PROCESSES": "2", "LC_PROCESS_ID": " 1 "}
    assert start(**ours) == ("node1:1234", 2, 1)
    assert start(**ours | {"LC_COORDINATOR": "[::1]:80"}) == ("[::1]:80", 2, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LC_COORDINATOR": "a:1"}, "LC_NUM_PROCESSES, LC_PROCESS_ID is not set"),
        ({"LC_COORDINATOR": "a", "LC_NUM_PROCESSES": "2", "LC_PROCESS_ID": "0"}, "LC_COORDINATOR=a: give host:port"),
        ({"LC_COORDINATOR": "a:1", "LC_NUM_PROCESSES": "2", "LC_PROCESS_ID": "2"}, "LC_PROCESS_ID=2: .* is 0 to 1"),
        ({"LC_COORDINATOR": "a:1", "LC_NUM_PROCESSES": "two", "LC_PROCESS_ID": "0"}, "LC_NUM_PROCESSES=two"),
        ({"LC_COORDINATOR": "a:1", "LC_NUM_PROCESSES": "0", "LC_PROCESS_ID": "0"}, "LC_NUM_PROCESSES=0"),
        ({"LC_COORDINATOR": "a:1", "LC_NUM_PROCESSES": "2", "LC_PROCESS_ID": "-1"}, "LC_PROCESS_ID=-1"),
        ({"SLURM_NTASKS": "many"}, "SLURM_NTASKS=many"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "start with its mpirun"),
    ],
)
def test_a_variable_without_meaning_is_named(start, variables, message):
    with pytest.raises(ValueError, match=message):
        start(**variables)


def test_a_platform_that_is_not_there_is_named(tmp_path):
    program = (
        f"from lc_jax import parallel\nparallel.use_compilation_cache({str(tmp_path)!r})\n"
        "try: parallel.make_mesh()\nexcept ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("JAX_PLATFORMS=cuda: JAX has no such device"), done.stderr
