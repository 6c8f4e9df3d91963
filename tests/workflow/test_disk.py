"""Full and read-only disks: one line names the cause, no partial file stays, and the same command continues later.

The disks are real mounts in a separate namespace.
"""

import shlex
import subprocess

import pytest
from runs import REPOSITORY, command

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc"]


@pytest.fixture(scope="module", autouse=True)
def _mounts(tmp_path_factory):
    folder = shlex.quote(str(tmp_path_factory.mktemp("mount")))
    probe = subprocess.run([*NAMESPACE, f"mount -t tmpfs tmpfs {folder}"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"mounting in a namespace is not possible here: {probe.stderr.strip()}")


def within(folder, script: str) -> subprocess.CompletedProcess:
    """Run shell lines in a study's folder; mounts end with them."""
    text = f"cd {shlex.quote(str(folder))}\n{script}"
    return subprocess.run([*NAMESPACE, text], capture_output=True, text=True, timeout=300)


def run_line(folder, target: str) -> str:
    """The shell command for a run of Snakemake up to one file."""
    return shlex.join(command(folder, target, "--cores", 1)) + f" >>{shlex.quote(str(folder / 'snakemake.out'))} 2>&1"


def test_a_full_disk_in_the_middle_of_a_shard(study):
    """The shard's job reports it in one line; after space is freed, the same command gives the same bytes."""
    cache, target = study / "results/cache", "results/cache/mood-0001.npy"
    whole = (study / target).read_bytes()
    size = sum(path.stat().st_size for path in cache.iterdir()) // 1024 + 256
    filler = len(whole) // 1024
    done = within(
        study,
        f"""
        cp -a results/cache aside
        mount -t tmpfs -o size={size}k tmpfs results/cache
        cp -a aside/. results/cache/
        rm {target}
        head -c {filler}k /dev/zero >results/cache/filler
        cd {shlex.quote(str(REPOSITORY))}
        {run_line(study, target)} && exit 90
        cd {shlex.quote(str(study))}
        ls -A results/cache >full.list
        cp logs/cache/mood-0001.log full.log
        rm results/cache/filler
        cd {shlex.quote(str(REPOSITORY))}
        {run_line(study, target)}
        cp {shlex.quote(str(study / target))} {shlex.quote(str(study / "after.npy"))}
        """,
    )
    assert done.returncode == 0, done.stderr + (study / "snakemake.out").read_text()
    assert "no space left on the disk; free some" in (study / "full.log").read_text().splitlines()[-1]
    assert ".part" not in (study / "full.list").read_text()
    assert "mood-0001.npy" not in (study / "full.list").read_text()
    assert (study / "after.npy").read_bytes() == whole


def test_results_that_cannot_be_written(study):
    """No job starts if a folder of results is read-only; a dry run is possible."""
    target = "results/fits/control/n18/001/linear.json"
    for name in ("linear", "covariates"):  # both outputs of the job: Snakemake itself reports one that exists
        (study / target).with_stem(name).unlink()
    folder = shlex.quote(str(study / "results/fits"))
    done = within(
        study,
        f"""
        mount --bind {folder} {folder}
        mount -o remount,bind,ro {folder}
        cd {shlex.quote(str(REPOSITORY))}
        {shlex.join(command(study, target, "--dry-run"))} >/dev/null 2>&1
        {run_line(study, target)} && exit 90 || exit 0
        """,
    )
    assert done.returncode == 0, done.stderr
    output = (study / "snakemake.out").read_text()
    assert "results/fits: it cannot be written; fix its permissions" in output
    assert "Traceback" not in output


def test_a_manifest_that_cannot_be_written(study):
    (study / "results/manifest/images.tsv").unlink()
    folder = shlex.quote(str(study / "results/manifest"))
    line = [*command(study)[:1], "-m", "neurotransfer.cli", "manifest", "--directory", str(study), "--configfile"]
    line += [str(REPOSITORY / "config/demo.yaml"), str(REPOSITORY / "tests/workflow/small.yaml")]
    done = within(
        study,
        f"""
        mount --bind {folder} {folder}
        mount -o remount,bind,ro {folder}
        cd {shlex.quote(str(REPOSITORY))}
        {shlex.join(line)}
        """,
    )
    assert done.returncode == 2
    assert "it cannot be written; fix its permissions" in done.stderr
    assert "Traceback" not in done.stderr
