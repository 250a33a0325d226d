"""scripts/launch/tpu.sh with a stub of gcloud."""

import os
import re
import tarfile

import pytest
from helpers.launchers import ROOT, TPU, WORKER, dry_run, launch, write_command

LIST = [
    *["gcloud", "compute", "tpus", "queued-resources", "list", "--filter=name~/demo$"],
    "--format=value(state.state,tpu.nodeSpec[0].node.acceleratorType.basename())",
    "--zone=us-east5-b",
]


def on_workers(which, command):
    ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "demo"]
    return [*ssh, f"--worker={which}", f"--command={command}", "--zone=us-east5-b"]


def test_run_creates_the_slice_installs_starts_and_follows():
    archive = "/home/me/.cache/dist_jax/launch/demo.tar.gz"
    files = ["dist_jax", "configs", "scripts", "requirements.txt"]
    assert dry_run("tpu.sh", *TPU, "--spot") == [
        LIST,
        [
            *["gcloud", "compute", "tpus", "queued-resources", "create", "demo", "--node-id=demo"],
            *["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e", "--spot", "--zone=us-east5-b"],
        ],
        LIST,
        ["mkdir", "-p", "/home/me/.cache/dist_jax/launch"],
        ["tar", "--create", "--gzip", f"--file={archive}", "--exclude=__pycache__", f"--directory={ROOT}", *files],
        [
            *["gcloud", "compute", "tpus", "tpu-vm", "scp", archive, "demo:dist_jax.tar.gz"],
            *["--worker=all", "--zone=us-east5-b"],
        ],
        on_workers("all", "tar --extract --gzip --file=dist_jax.tar.gz --one-top-level=dist_jax"),
        on_workers("all", f"{WORKER} install"),
        on_workers("all", f"{WORKER} start --config=configs/demo.py --workdir=gs://b/run"),
        on_workers(0, f"{WORKER} follow"),
    ]


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v5litepod-64", "v2-alpha-tpuv5-lite"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_default_runtime_depends_on_the_type(accelerator, runtime):
    run = [*TPU, f"--type={accelerator}"]
    assert f"--runtime-version={runtime}" in dry_run("tpu.sh", *run)[1]
    assert "--runtime-version=own" in dry_run("tpu.sh", *run, "--runtime=own")[1]


def test_log_stop_and_delete():
    where = ["--name=demo", "--zone=us-east5-b", "--project=mine"]
    delete = [*["gcloud", "compute", "tpus", "queued-resources", "delete", "demo", "--force", "--quiet"], *where[1:]]
    assert dry_run("tpu.sh", "log", *where) == [[*on_workers(0, f"{WORKER} follow"), where[2]]]
    assert dry_run("tpu.sh", "stop", *where) == [[*on_workers("all", f"{WORKER} stop"), where[2]]]
    assert dry_run("tpu.sh", "delete", *where) == [delete]


class Cloud:
    """Stubs of `gcloud` and `sleep` that record their calls.

    gcloud answers from `states` (of the slice; SILENT: it fails) and `statuses` (of `tpu_worker.sh follow`).
    """

    def __init__(self, folder, states, statuses):
        self.folder = folder
        (folder / "states").write_text("".join(f"{state}\n" for state in states))
        (folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        write_command(
            folder,
            "gcloud",
            'printf "%s\\n" "$*" >>calls\n'
            'next() { head -n 1 "$1"; sed 1d "$1" >rest; mv rest "$1"; }\n'
            'case "$*" in\n'
            '*queued-resources\\ list*) state="$(next states)"; echo "$state"\n'
            'if [[ "$state" == SILENT ]]; then echo "ERROR: unreachable" >&2; exit 1; fi ;;\n'
            '*queued-resources\\ create*) [[ ! -e refused ]] || { rm refused; echo "ERROR: quota" >&2; exit 1; } ;;\n'
            '*follow*) exit "$(next statuses)" ;;\n'
            "esac",
        )
        write_command(folder, "sleep", 'echo "sleep $1" >>calls')

    def run(self, *arguments):
        path = f"{self.folder}:{os.environ['PATH']}"
        arguments = [*TPU, "--poll=7", *arguments]
        return launch("tpu.sh", *arguments, cwd=self.folder, PATH=path, HOME=str(self.folder))

    def calls(self):
        return (self.folder / "calls").read_text().splitlines()

    def count(self, pattern):
        """Number of calls that match the pattern."""
        return sum(bool(re.search(pattern, call)) for call in self.calls())

    def unused_answers(self):
        return (self.folder / "states").read_text() + (self.folder / "statuses").read_text()


ACTIVE = "ACTIVE\tv6e-16"


def test_run_restarts_after_preemption_and_after_a_save(tmp_path):
    states = ["", "WAITING_FOR_RESOURCES", ACTIVE]  # created, then waiting
    states += ["SUSPENDING\tv6e-16", "SUSPENDING\tv6e-16", "SUSPENDED\tv6e-16", "", ACTIVE]  # preempted, created again
    states += [ACTIVE, ACTIVE]  # saved and stopped, restarted on the same slice
    cloud = Cloud(tmp_path, states, statuses=[255, 75, 0])
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert cloud.count("queued-resources create") == 2
    assert cloud.count("queued-resources delete") == 1
    assert cloud.count("tpu_worker.sh start") == 3
    assert cloud.count("tpu_worker.sh stop") == 1
    assert cloud.count("^sleep 7$") == 4  # two status checks, two restarts
    assert cloud.unused_answers() == ""
    with tarfile.open(tmp_path / ".cache/dist_jax/launch/demo.tar.gz") as archive:
        names = archive.getnames()
    assert {"dist_jax/config.py", "configs/demo.py", "scripts/launch/tpu_worker.sh", "requirements.txt"} <= set(names)
    assert not any("__pycache__" in name for name in names)


def test_run_waits_while_gcloud_does_not_answer(tmp_path):
    states = [ACTIVE, "SILENT", "SILENT", ACTIVE, ACTIVE]  # the connection breaks, then the network is down
    states += ["SILENT", "SUSPENDED\tv6e-16", "SUSPENDED\tv6e-16", "", "CREATING", "SILENT", ACTIVE]
    cloud = Cloud(tmp_path, states, statuses=[255, 255, 0])
    result = cloud.run()
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("gcloud does not answer; retrying in 7 seconds\n") == 4
    assert cloud.count("queued-resources create") == 1  # an error differs from "no slice"
    assert cloud.count("queued-resources delete") == 1
    assert cloud.unused_answers() == ""
    listed = [index for index, call in enumerate(cloud.calls()) if "queued-resources list" in call]
    assert [cloud.calls()[index + 1] for index in listed[1:3]] == ["sleep 7", "sleep 7"]


def test_run_fails_if_the_first_answer_of_gcloud_is_an_error(tmp_path):
    cloud = Cloud(tmp_path, ["SILENT"], statuses=[])
    result = cloud.run()
    message = "error: cannot get the state of slice demo: see gcloud's message above"
    assert (result.returncode, result.stderr) == (2, f"ERROR: unreachable\n{message}\n")
    assert len(cloud.calls()) == 1


def test_run_retries_a_failed_creation_only_after_training_has_started(tmp_path):
    (tmp_path / "refused").touch()
    cloud = Cloud(tmp_path, ["", ""], statuses=[])
    result = cloud.run()
    message = "error: cannot create slice demo: see gcloud's message above"
    assert (result.returncode, result.stderr) == (2, f"ERROR: quota\n{message}\n")
    assert cloud.count("queued-resources create") == 1
    cloud = Cloud(tmp_path, [ACTIVE, "SUSPENDED\tv6e-16", "SUSPENDED\tv6e-16", "", "", "", ACTIVE], statuses=[255, 0])
    (tmp_path / "refused").touch()
    assert cloud.run().returncode == 0
    assert cloud.count("queued-resources create") == 3
    assert cloud.unused_answers() == ""


def test_a_slice_that_failed_is_an_error_and_not_created_again(tmp_path):
    cloud = Cloud(tmp_path, ["", "FAILED\tv6e-16"], statuses=[])
    result = cloud.run()
    assert result.returncode == 2
    assert "error: slice demo has failed: 'gcloud compute tpus queued-resources describe demo " in result.stderr
    assert (cloud.count("queued-resources create"), cloud.count("queued-resources delete")) == (1, 0)


def test_run_stops_all_workers_and_waits_before_a_restart(tmp_path):
    cloud = Cloud(tmp_path, [ACTIVE] * 4, statuses=[75, 0])
    assert cloud.run().returncode == 0
    start, stop, sleep = (
        [i for i, call in enumerate(cloud.calls()) if re.search(pattern, call)]
        for pattern in ("tpu_worker.sh start", "tpu_worker.sh stop", "^sleep 7$")
    )
    assert start[0] < stop[0] < sleep[0] < start[1]
    assert len(sleep) == 1


def test_run_fails_if_training_fails(tmp_path):
    cloud = Cloud(tmp_path, [ACTIVE, ACTIVE], statuses=[1])
    result = cloud.run()
    assert result.returncode == 2
    assert result.stderr == "error: training ended with status 1: see the log; the slice still exists\n"
    assert cloud.count("tpu_worker.sh start") == 1


def test_run_ends_after_stop_and_after_the_maximum_number_of_restarts(tmp_path):
    assert Cloud(tmp_path, [ACTIVE], statuses=[130]).run().returncode == 130
    result = Cloud(tmp_path, [ACTIVE] * 4, statuses=[75, 75]).run("--restarts=1")
    assert result.returncode == 2
    assert "error: training stopped with status 75 after --restarts=1 restarts" in result.stderr


def test_run_refuses_a_slice_of_another_type(tmp_path):
    result = Cloud(tmp_path, ["ACTIVE\tv5litepod-8"], statuses=[]).run()
    expected = (
        "error: slice demo has type v5litepod-8, not --type=v6e-16: use another --name or delete the slice first\n"
    )
    assert (result.returncode, result.stderr) == (2, expected)
