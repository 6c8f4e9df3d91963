"""What a machine lacks is found and named with its fix; the other programs are small scripts on PATH."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections import namedtuple
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from neurotransfer.cli import main
from neurotransfer.jobs.job import start_of
from neurotransfer.operations import doctor
from neurotransfer.operations.doctor import NOTE, OK, WRONG, examine
from neurotransfer.study.configuration import load_config
from runs import REPOSITORY

CONFIG = load_config(REPOSITORY, [])
BUILTIN = load_config(REPOSITORY, [REPOSITORY / "config/demo.yaml"])
PROFILE = REPOSITORY / "profiles/slurm"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Write a program that says something and ends with a status; PATH holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)

    def write(name: str, says: str = "", status: int = 0) -> None:
        path = folder / name
        path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\nprintf '%s\\n' '{says}'\nexit {status}\n")
        path.chmod(0o755)

    return write


def of(part: str, config=BUILTIN, profile=None) -> doctor.Finding:
    found = [finding for finding in examine(config, REPOSITORY, profile) if finding.part == part]
    assert len(found) == 1, found
    return found[0]


def test_this_environment_is_as_pinned(programs):
    assert of("Python").state == OK
    assert of("packages").state in (OK, NOTE)  # other versions than the pinned ones are allowed


def test_a_missing_package_is_named_with_the_command_that_installs_it(programs, monkeypatch):
    real = doctor.metadata.version

    def version(name):
        if name == "nibabel":
            raise doctor.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = of("packages")
    assert found.state == WRONG and "nibabel" in found.what and "make" in found.fix


def test_without_slurm_jobs_run_here_only(programs):
    assert of("Slurm").state == NOTE


def test_a_controller_that_does_not_answer(programs):
    programs("sbatch")
    programs("sinfo", "slurm_load_partitions: Unable to contact slurm controller", 1)
    found = of("Slurm")
    assert found.state == WRONG and "Unable to contact" in found.what


def test_a_program_that_hangs_is_given_up(programs, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    programs("sbatch")
    path = Path(os.environ["PATH"]) / "sinfo"
    path.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    path.chmod(0o755)
    found = of("Slurm")
    assert found.state == WRONG and "no answer" in found.what


@pytest.fixture
def hanging(tmp_path):
    """Write a program that hangs with two children that have its pipe, one in a session of its own.

    The program writes both ids into files, which this fixture ends in the end.
    """
    sh, sleep, setsid = (shutil.which(name, path="/bin:/usr/bin") for name in ("sh", "sleep", "setsid"))

    def write(name: str) -> None:
        path = Path(os.environ["PATH"]) / name
        lines = [
            f"#!{sh}",
            f"{sleep} 60 &",
            f"echo $! >{tmp_path}/{name}.child",
            f"{setsid} {sleep} 60 &",
            f"echo $! >{tmp_path}/{name}.away",
            f"{sleep} 60",
            "true",
        ]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)

    yield write
    for path in [*tmp_path.glob("*.child"), *tmp_path.glob("*.away")]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def test_programs_that_hang_with_children_take_no_longer_than_one(programs, hanging, tmp_path, monkeypatch):
    """Children of the killed program have its pipe.  They are killed, except those that have left its group."""
    monkeypatch.setattr(doctor, "SECONDS", 2.0)
    programs("sbatch")
    names = ("sinfo", "nvidia-smi", "apptainer", "quota")
    for name in names:
        hanging(name)
    started = time.monotonic()
    found = {one.part: one for one in examine(CONFIG, REPOSITORY, None)}
    assert time.monotonic() - started < 20
    for part in ("Slurm", "GPU", "containers", "quota"):
        assert "gave no answer" in found[part].what and found[part].state != OK, found[part]

    def running(kind: str) -> list[str]:
        ids = {name: int((tmp_path / f"{name}.{kind}").read_text()) for name in names}
        return [name for name in names if start_of(ids[name]) not in (None, "dead")]

    assert running("away") == list(names)
    until = time.monotonic() + 5
    while running("child") and time.monotonic() < until:
        time.sleep(0.1)
    assert not running("child")


@pytest.mark.parametrize("status", [0, 1])
def test_programs_that_print_garbage_or_cannot_run_are_named_and_reach_no_terminal(programs, status):
    printf = shutil.which("printf", path="/bin:/usr/bin")
    for name in ("sbatch", "sinfo", "sacct", "nvidia-smi", "apptainer"):
        path = Path(os.environ["PATH"]) / name
        says = r"\\033[31m\\253\\377\\n" * 2
        path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{printf} '{says}'\nexit {status}\n")
        path.chmod(0o755)
    quota = Path(os.environ["PATH"]) / "quota"
    quota.write_bytes(b"\x7fELF garbage")
    quota.chmod(0o755)
    found = examine(CONFIG, REPOSITORY, PROFILE)
    states = {one.part: one.state for one in found}
    assert states["Slurm"] == states["containers"] == WRONG and states["quota"] == NOTE
    assert "\x1b" not in doctor.text(found) and "cannot be looked at" not in doctor.text(found)


def test_a_driver_that_fails_is_not_a_machine_without_a_gpu(programs):
    programs("nvidia-smi", "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", 9)
    found = of("GPU", CONFIG)
    assert found.state == WRONG and "driver does not work" in found.what and "restart" in found.fix


def test_without_a_usable_temporary_folder_the_rest_is_looked_at(programs, monkeypatch):
    monkeypatch.setattr(doctor.tempfile, "gettempdir", mock.Mock(side_effect=FileNotFoundError(2, "No usable folder")))
    assert of("temporary files").state == WRONG and of("quota").state == NOTE


def test_a_torch_that_cannot_be_imported_is_a_finding(programs, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert of("torch").state == WRONG and of("folder").state == OK


def test_a_message_that_begins_with_an_empty_line_is_shown(programs, monkeypatch):
    """So does numpy's, if one of its libraries is missing."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise ImportError("\n\nIMPORTANT: PLEASE READ THIS\nfor advice")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert of("torch").what == "it cannot be imported: IMPORTANT: PLEASE READ THIS"


@pytest.mark.parametrize(
    ("partitions", "state", "words"),
    [
        ("cpu*|(null)|1-00:00:00\ngpu|gpu:a100:4|2-00:00:00", OK, "its partitions exist"),
        ("batch*|(null)|1-00:00:00\ngpu|gpu:a100:4|2-00:00:00", WRONG, "names cpu, and Slurm has batch, gpu"),
    ],
)
def test_partitions_of_the_profile_are_looked_up(programs, partitions, state, words):
    programs("sbatch")
    programs("sinfo", partitions)
    programs("sacct", "Slurm accounting storage is disabled", 1)
    found = of("profile", profile=PROFILE)
    assert found.state == state and words in found.what
    accounting = of("accounting")
    assert accounting.state == NOTE and "disabled" in accounting.what


def test_a_profile_that_is_not_there_is_wrong_with_and_without_slurm(programs, tmp_path):
    for profile in (tmp_path / "nosuch", tmp_path):
        found = of("profile", profile=profile)
        assert found.state == WRONG and str(profile) in found.what and "config.yaml" in found.fix
    programs("sbatch")
    programs("sinfo", "cpu|(null)|infinite")
    assert of("profile", profile=tmp_path / "nosuch").state == WRONG


def test_slurms_state_is_not_wrong_for_a_profile_that_does_not_use_it(programs):
    programs("sbatch")
    programs("sinfo", "slurm_load_partitions: Unable to contact slurm controller", 1)
    local = REPOSITORY / "profiles/local"
    assert of("Slurm", profile=local).state == NOTE and of("Slurm", profile=PROFILE).state == WRONG
    assert of("profile", profile=local).state == OK
    programs("sinfo", "cpu|(null)|infinite")
    found = examine(CONFIG, REPOSITORY, local)
    assert all(finding.state != WRONG for finding in found if finding.part == "GPUs of Slurm")


@pytest.mark.parametrize("text", ["set-resources: {pretrain: {slurm_partition: big}}", "- a:slurm_partition=big"])
def test_both_spellings_of_a_partition_are_read(programs, tmp_path, text):
    programs("sbatch")
    programs("sinfo", "cpu|(null)|infinite")
    (tmp_path / "config.yaml").write_text(text)
    assert "names big" in of("profile", profile=tmp_path).what


def test_a_profile_for_versions_of_snakemake_is_read_from_its_own_file(programs, tmp_path):
    programs("sbatch")
    programs("sinfo", "cpu|(null)|infinite")
    (tmp_path / "config.v8+.yaml").write_text("executor: slurm\ndefault-resources: [slurm_partition=big]")
    found = of("profile", profile=tmp_path)
    assert "config.v8+.yaml names big" in found.what


@pytest.mark.parametrize("name", ["a+b", "größe", "gpu@h100", "a:b", "50%", "x=y"])
def test_a_partition_may_have_any_name_that_slurm_allows(programs, tmp_path, name):
    programs("sbatch")
    programs("sinfo", f"{name}*|gpu:a100:4|infinite\nother|(null)|infinite")
    resources = {"pretrain": {"slurm_partition": name}, "fit": {"slurm_partition": f"'{name}'"}}
    profile = {"default-resources": [f"slurm_partition={name}"], "set-resources": resources}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")
    found = {finding.part: finding for finding in examine(BUILTIN, REPOSITORY, tmp_path)}
    assert found["Slurm"].what == f"partitions {name} (infinite), other (infinite)"
    assert found["profile"].state == OK, found["profile"]
    programs("sinfo", "other|(null)|infinite")
    assert f"names {name}, and Slurm has other" in of("profile", profile=tmp_path).what


def test_names_of_partitions_control_no_terminal(programs, tmp_path):
    programs("sbatch")
    programs("sinfo", r"gpu\033[31m|(null)|infinite")
    (tmp_path / "config.yaml").write_text('slurm_partition: "a\\e[31m"')
    sinfo = Path(os.environ["PATH"]) / "sinfo"
    sinfo.write_text(sinfo.read_text().replace("'%s\\n'", "'%b\\n'"))
    found = doctor.text(examine(BUILTIN, REPOSITORY, tmp_path))
    assert r"partitions gpu\x1b[31m (infinite)" in found and "\x1b" not in found


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("set-resources:\n  # f\xfcr uns\n".encode("latin-1"), "it is not UTF-8 (byte 0xfc in line 2)"),
        (b"made: 2024-13-01", "month must be in 1..12"),
        (b"[" * 5000, "recursion"),
    ],
)
def test_a_profile_that_cannot_be_read_is_one_finding_and_accounting_is_looked_at(programs, tmp_path, content, cause):
    programs("sbatch")
    programs("sinfo", "cpu|(null)|infinite")
    programs("sacct")
    (tmp_path / "config.yaml").write_bytes(content)
    found = of("profile", profile=tmp_path)
    assert found.state == WRONG and found.what.startswith(f"{tmp_path / 'config.yaml'}: ") and cause in found.what
    assert of("accounting", profile=tmp_path).state == OK


def test_a_cluster_without_gpus_cannot_run_jobs_that_ask_for_one(programs):
    programs("sbatch")
    programs("sinfo", "cpu*|(null)|infinite")
    assert of("GPUs of Slurm", CONFIG).state == WRONG
    assert not [found for found in examine(BUILTIN, REPOSITORY, None) if found.part == "GPUs of Slurm"]


def test_a_machine_that_should_have_a_gpu_and_has_none(programs, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert of("GPU", CONFIG).state == WRONG
    assert of("torch", CONFIG).state == WRONG and "without CUDA" in of("torch", CONFIG).what
    assert of("GPU", BUILTIN).state == NOTE and of("torch", BUILTIN).state == OK


def test_a_gpu_that_torch_does_not_find(programs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    programs("nvidia-smi", "NVIDIA H100, 550.54, 81559 MiB")
    assert of("GPU").what == "NVIDIA H100, 550.54, 81559 MiB"
    assert of("torch").state == WRONG and "finds no GPU" in of("torch").what


def test_containers_are_started_as_far_as_their_version(programs):
    missing = of("FastSurfer", CONFIG)
    assert missing.state == WRONG and "apptainer" in missing.what
    programs("apptainer", "apptainer version 1.3.4")
    assert of("containers", CONFIG).what == "apptainer version 1.3.4"
    programs("apptainer", "FATAL: user namespaces are disabled", 255)
    found = of("containers", CONFIG)
    assert found.state == WRONG and "user namespaces" in found.what


def test_a_folder_without_locks_or_space(programs, tmp_path, monkeypatch):
    assert of("folder").state == OK
    assert not list(tmp_path.glob(".doctor-*"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10, 10, 1_000_000))
    assert of("disk").state == WRONG

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(doctor.fcntl, "flock", refuse)
    found = of("folder")
    assert found.state == WRONG and "No locks available" in found.what
    assert not list(tmp_path.glob(".doctor-*"))


def test_the_command_counts_what_is_wrong_in_its_last_line_and_status(programs, tmp_path, capsys):
    overlay = tmp_path / "my.yaml"
    overlay.write_text(yaml.safe_dump({"preprocessing": {"engine": "builtin", "gpus": 0}, "pretrain": {"gpus": 0}}))
    assert main(["doctor", "--configfile", str(overlay)]) == 1  # the fits still ask for a GPU
    assert "will not work" in capsys.readouterr().out.splitlines()[-1]
    overlay.write_text(
        yaml.safe_dump(
            {"preprocessing": {"engine": "builtin"}, "pretrain": {"gpus": 0}, "models": {"cnn": {"gpus": 0}}}
        )
    )
    assert main(["doctor", "--configfile", str(overlay)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was found that will not work"


@pytest.mark.parametrize(
    ("image", "noted"),
    [
        (None, True),
        ("deepmi/fastsurfer:cpu-v2.5.0", True),
        ("deepmi/fastsurfer@sha256:" + "0a" * 32, False),
        ("deepmi/fastsurfer@sha256:0a", True),
        ("/shared/fastsurfer.sif", False),
    ],
)
def test_an_image_without_a_digest_is_noted(programs, image, noted):
    own = CONFIG["preprocessing"]["fastsurfer"] | {"runs_in": "apptainer", "image": image}
    config = CONFIG | {"preprocessing": CONFIG["preprocessing"] | {"engine": "fastsurfer", "fastsurfer": own}}
    found = [finding for finding in examine(config, REPOSITORY, None) if finding.part == "image"]
    assert [finding.state for finding in found] == [NOTE] * noted
    assert all("@sha256" in finding.fix for finding in found)
