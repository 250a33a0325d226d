"""scripts/launch/gke.sh with a stub of gcloud."""

import os

from helpers.launchers import GKE, ROOT, dry_run, launch, write_command


def test_run_submits_a_workload_that_restarts_on_status_75():
    copy = "/home/me/.cache/dist_jax/launch/demo"
    files = [f"{ROOT}/{name}" for name in ("dist_jax", "configs", "scripts", "requirements.txt")]
    training = "exec python3 -m dist_jax.main --distributed --config=configs/demo.py --workdir=gs://b/run"
    install = "python3 -m pip install --quiet --requirement=requirements.txt jax\\[tpu\\] && "
    workload = ["xpk", "workload", "create", "--workload=demo", "--cluster=pool", "--zone=us-east5-b"]
    options = [f"--script-dir={copy}", "--max-restarts=100", "--restart-on-exit-codes=75"]
    options += ["--termination-grace-period-seconds=300"]
    expected = [["rm", "-rf", copy], ["mkdir", "-p", copy], ["cp", "-R", *files, copy]]
    assert dry_run("gke.sh", *GKE) == [
        *expected,
        [
            *[*workload, "--tpu-type=v6e-16", "--base-docker-image=python:3.12-slim", *options],
            f"--command={install}{training}",
        ],
    ]
    assert dry_run("gke.sh", *GKE, "--image=us/dist:1")[-1] == [
        *[*workload, "--tpu-type=v6e-16", "--base-docker-image=us/dist:1", *options],
        f"--command={training}",
    ]


def test_log_distinguishes_an_error_of_gcloud_from_an_unknown_cluster(tmp_path):
    where = ["--name=demo", "--cluster=pool", "--zone=us-east5-b"]
    for script, status, message in (
        ("echo 'ERROR: unreachable' >&2; exit 1", 1, "ERROR: unreachable\n"),
        ("exit 0", 2, "error: --cluster=pool: gcloud lists no such cluster\n"),
    ):
        write_command(tmp_path, "gcloud", script)
        result = launch("gke.sh", "log", *where, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert (result.returncode, result.stderr) == (status, message)


def test_log_and_stop():
    where = ["--name=demo", "--cluster=pool", "--zone=us-east5-b", "--project=mine"]
    clusters = ["gcloud", "container", "clusters"]
    selector = "xpk.google.com/workload=demo,batch.kubernetes.io/job-completion-index=0"
    assert dry_run("gke.sh", "log", *where) == [
        [*clusters, "list", "--filter=name=pool", "--format=value(location)", "--project=mine"],
        [*clusters, "get-credentials", "pool", "--location=us-east5", "--project=mine"],
        ["kubectl", "logs", "--follow", "--tail=100", "--container=jax-tpu", f"--selector={selector}"],
    ]
    delete = ["xpk", "workload", "delete", "--workload=demo", "--cluster=pool", *where[2:], "--force"]
    assert dry_run("gke.sh", "stop", *where) == [delete]
