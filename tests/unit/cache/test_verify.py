"""Verification of the whole cache: every kind of mistake is planted, and found with its shard and row."""

import os
import re
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from neurotransfer import cli
from neurotransfer.cache import shard_file, verify, write
from neurotransfer.files import read_table, write_table
from neurotransfer.preprocess.run import LEDGER
from neurotransfer.preprocess.volumes import stats_text, write_volumes
from neurotransfer.quality.judge import accepted, cached_images, judge
from neurotransfer.study.plan import Shard, Study
from synthetic_quality import SETTINGS

LEDGERS = Path("results/preprocessed")
CROP = (8, 10, 8)
STATES = ["ok", "ok", "failed", "ok", "withdrawn"]
LIA = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
SHARDS = ("x-0001", "x-0002", "y-0001")


def write_subject(folder, seed):
    (folder / "mri").mkdir(parents=True)
    (folder / "stats").mkdir()
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[2:9, 3:10, 2:8] = 1
    orig = np.random.default_rng(seed).integers(1, 256, mask.shape).astype(np.uint8)
    nibabel.save(nibabel.MGHImage(orig, LIA), folder / "mri/orig.mgz")
    nibabel.save(nibabel.MGHImage(mask, LIA), folder / "mri/mask.mgz")
    labels = np.where(mask, np.where(orig > 99, 2, 1002), 0)
    text = stats_text(labels, orig, mask, {2: "Left-Cerebral-White-Matter", 1002: "ctx"}, 1.0)
    (folder / "stats/aseg+DKT.stats").write_text(text)


def write_cohort(name, names, compression=None):
    """Manifest, ledgers (three images per job), cache and index of a cohort, in the order of the jobs."""
    manifests, tables = [], []
    for at, shard in enumerate(names):
        ids = [f"{name}_{at}{row}" for row in range(len(STATES))]
        images = pd.DataFrame({"image_id": ids, "cohort": name, "shard": shard, "age": 30.0})
        images["withdrawn"] = [int(state == "withdrawn") for state in STATES]
        write_table(images, verify.SHARDS / f"{shard}.tsv")
        ledger = pd.DataFrame({"image_id": ids, "status": STATES, "reason": None, "detail": None})
        ledger.loc[2, "reason"] = "truncated"
        ledger["engine"], ledger["engine_version"] = "fastsurfer", "2.4.2"
        for job in range(2):
            write_table(ledger[LEDGER][3 * job : 3 * job + 3], LEDGERS / shard / f"{job:04d}.tsv")
        folders = [LEDGERS / "subjects" / shard / image for image in ids]
        for row, (folder, state) in enumerate(zip(folders, STATES, strict=True)):
            if state == "ok":
                write_subject(folder, 10 * at + row)
        path = verify.CACHE / f"{shard}.npy"
        beside = [path.with_suffix(f".{name}") for name in ("volumes.tsv", "slices.npy", "small.npy")]
        table, statistics = write.write_shard(path, folders, ledger, CROP, 1.0, compression)
        write_volumes(statistics, beside[0])
        digested = beside + [path] * bool(compression)
        write.write_cache_table(table, path.with_suffix(".tsv"), CROP, digested)
        manifests.append(images)
        tables.append(read_table(path.with_suffix(".tsv")))
    images = pd.concat(manifests)
    settings = SETTINGS | {"exclude": {}}
    write_table(
        accepted(images, judge(cached_images(images, pd.concat(tables)), settings)), verify.INDEX / f"{name}.tsv"
    )


@pytest.fixture
def study(tmp_path, monkeypatch, request):
    """Two cohorts in three shards, cached and indexed, in the current folder; a test may ask for compression."""
    monkeypatch.chdir(tmp_path)
    write_cohort("x", SHARDS[:2], getattr(request, "param", None))
    write_cohort("y", SHARDS[2:])
    manifest = {name: Shard(name, name[0], len(STATES), 3) for name in SHARDS}
    return Study(manifest, dict.fromkeys("xy", frozenset()), {}, {}, (), (), "given")


def wrong(study) -> list[str]:
    return [str(mistake) for mistake in verify.verify_cache(study, threads=2).mistakes]


def size_of_cache():
    return sum(path.stat().st_size for path in verify.CACHE.iterdir())


@pytest.mark.parametrize("study", [None, "zstd"], indirect=True)
def test_an_unchanged_cache_has_no_mistakes(study):
    progress = []
    found = verify.verify_cache(study, threads=2, progress=lambda *numbers: progress.append(numbers))
    assert found.mistakes == [] and found.waiting == []
    assert (found.shards, found.rows, found.bytes) == (3, 15, size_of_cache())
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert found.text().endswith("all as written")


def plant(path, change):
    """Change a file's bytes and keep its times."""
    times = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("study", "ending"),
    [(None, "npy"), ("zstd", "npy"), ("zstd", "tsv"), (None, "slices.npy"), (None, "volumes.tsv")],
    indirect=["study"],
)
def test_every_flipped_byte_is_found_with_its_shard(study, ending):
    """Flips a bit at the file's ends, which hold headers, and between them."""
    path = verify.CACHE / f"x-0002.{ending}"
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    indices = {*range(0, 160, 5), *range(len(whole) - 5, len(whole)), *generator.integers(0, len(whole), 25).tolist()}
    only = Study({"x-0002": study.shards["x-0002"]}, {"x": frozenset()}, {}, {}, (), (), "given")
    for index in sorted(index for index in indices if index < len(whole)):
        bit = 1 << int(generator.integers(8))
        plant(path, lambda raw, index=index, bit=bit: raw[:index] + bytes([raw[index] ^ bit]) + raw[index + 1 :])
        mistakes = verify.verify_shard("x-0002", only).mistakes
        assert mistakes and "x-0002" in str(mistakes[0]), (ending, index)
        plant(path, lambda raw: whole)
    assert verify.verify_shard("x-0002", only).mistakes == []


def test_a_flipped_voxel_is_reported_with_its_row_and_the_fix(study):
    path = verify.CACHE / "x-0002.npy"
    plant(path, lambda raw: raw[:-2000] + bytes([raw[-2000] ^ 4]) + raw[-1999:])
    (line,) = wrong(study)
    assert line.startswith("results/cache/x-0002.npy: row 1: ") or line.startswith("results/cache/x-0002.npy: row 3: ")
    assert line.endswith("delete results/cache/x-0002.*, then run snakemake again")


@pytest.mark.parametrize(("study", "row"), [(None, 2), (None, 4), ("zstd", 4)], indirect=["study"])
def test_a_byte_in_the_row_of_a_failed_or_withdrawn_image_is_found(study, row):
    path = verify.CACHE / "x-0001.npy"
    shard, other = shard_file.ShardFile(path), path.with_name("other")
    with shard_file.shard_written(other, len(STATES), tuple(CROP), "zstd" if shard.compressed else None) as write:
        for at in range(len(STATES)):
            image = shard.image(at)
            image[0, 0, 7] |= at == row
            write(image)
    plant(path, lambda raw: other.read_bytes())
    other.unlink()
    (line,) = wrong(study)
    assert f"x-0001.npy: row {row}: the image is {STATES[row]}, but its row is not empty" in line


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: raw[:50], lambda raw: b""]
)
def test_a_shard_cut_short_or_grown_is_found(study, change):
    plant(verify.CACHE / "y-0001.npy", change)
    lines = wrong(study)
    assert lines and all("y-0001.npy" in line for line in lines)


def test_a_missing_row_is_found(study):
    """The row is missing consistently: the shard, its table and all digests agree; only the manifest differs."""
    path = verify.CACHE / "x-0001.npy"
    table = read_table(path.with_suffix(".tsv"))
    np.save(path, np.load(path)[:-2])
    beside = [path.with_suffix(ending) for ending in (".slices.npy", ".volumes.tsv")]
    write.write_cache_table(table[:-2], path.with_suffix(".tsv"), CROP, beside)
    (line,) = [line for line in wrong(study) if "index" not in line]
    assert "x-0001.tsv: row 3: it has 3 rows and results/manifest/shards/x-0001.tsv 5" in line


def test_rows_in_another_order_are_found(study):
    path = verify.SHARDS / "x-0001.tsv"
    times = path.stat()
    table = read_table(path)
    write_table(table.iloc[[1, 0, 2, 3, 4]], path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert any("x-0001.tsv: row 0: " in line for line in wrong(study))


@pytest.mark.parametrize("ending", ["npy", "tsv", "slices.npy", "volumes.tsv"])
def test_a_missing_file_is_found(study, ending):
    (verify.CACHE / f"x-0001.{ending}").unlink()
    lines = wrong(study)
    assert any(f"x-0001.{ending}: it is missing" in line for line in lines)


def test_a_shard_that_vanished_is_distinguished_from_one_that_waits(study):
    for path in verify.CACHE.glob("x-0001.*"):
        path.unlink()
    assert any("x-0001.npy: the shard is missing" in line for line in wrong(study))
    (verify.INDEX / "x.tsv").unlink()
    found = verify.verify_cache(study)
    assert found.mistakes == [] and found.waiting == ["x-0001"]
    assert "; 1 shard is not cached yet" in found.text()


def test_a_study_without_a_cache_has_nothing_that_is_as_written(study):
    shutil.rmtree(verify.CACHE)
    shutil.rmtree(verify.INDEX, ignore_errors=True)
    assert verify.verify_cache(study).text() == "there is no cache of the study's 3 shards yet"


def test_a_shard_older_than_its_ledger_is_stale(study):
    later = time.time_ns() + 10**9
    os.utime(LEDGERS / "x-0001/0001.tsv", ns=(later, later))
    lines = wrong(study)
    assert any("x-0001.npy: it is older than results/preprocessed/x-0001/0001.tsv" in line for line in lines)
    assert all("x-0001" in line for line in lines)


@pytest.mark.parametrize(
    ("column", "value"), [("status", "failed"), ("engine_version", "2.5.0"), ("reason", "mask_failed")]
)
def test_a_ledger_that_has_changed_is_found_whatever_its_time(study, column, value):
    path = LEDGERS / "y-0001/0000.tsv"
    times = path.stat()
    ledger = read_table(path)
    ledger.loc[1, column] = value
    write_table(ledger, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (line,) = wrong(study)
    assert "y-0001.tsv: row 1: the ledger has for y_01" in line and value in line


def test_a_withdrawn_image_that_is_still_cached_is_found(study):
    path = verify.SHARDS / "y-0001.tsv"
    times = path.stat()
    images = read_table(path)
    images.loc[1, "withdrawn"] = 1
    write_table(images, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (line,) = wrong(study)
    assert "y-0001.tsv: row 1: y_01 has been withdrawn and is still cached" in line


def test_leftovers_and_files_of_no_shard_are_found(study):
    old = time.time() - 3600
    for name in (".x-0001.npy.abc.part", "z-0001.npy", "z-0001.tsv", "notes.txt"):
        (verify.CACHE / name).write_bytes(b"1")
        os.utime(verify.CACHE / name, (old, old))
    (verify.CACHE / ".x-0002.npy.new.part").write_bytes(b"1")  # a job is writing it
    lines = wrong(study)
    assert [line.partition(": ")[0].removeprefix("results/cache/") for line in lines] == [
        *(".x-0001.npy.abc.part", "notes.txt", "z-0001.npy", "z-0001.tsv"),
    ]
    assert all(line.endswith("; delete it") for line in lines)


def test_a_stale_index_is_found(study):
    path = verify.INDEX / "x.tsv"
    index = read_table(path)
    index.loc[2, "checksum"] = "0" * 32
    write_table(index, path)
    (line,) = wrong(study)
    assert line.startswith("results/index/x.tsv: line 4: x_03 is not what its shard now holds")


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_prints_each_mistake_and_fails_if_there_is_one(study, monkeypatch, capsys, broken):
    if broken:
        plant(verify.CACHE / "x-0002.npy", lambda raw: raw[:-1])
    monkeypatch.setattr(cli, "_enter_study", lambda chosen: {})
    monkeypatch.setattr("neurotransfer.study.plan.read_study", lambda config: study)
    assert cli.main(["verify", "--threads", "2"]) == int(broken)
    printed = capsys.readouterr()
    assert printed.err.endswith("3 of 3 shards\n")
    lines = printed.out.splitlines()
    assert len(lines) == 1 + int(broken) * 1
    assert re.match(r"3 shards, 15 images, [1-9]\d* kB verified: ", lines[-1])
    assert lines[-1].endswith("1 wrong" if broken else "all as written")


def test_the_command_names_a_certificate_page_of_an_earlier_version(study, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_enter_study", lambda chosen: {})
    monkeypatch.setattr("neurotransfer.study.plan.read_study", lambda config: study)
    page = Path("results/split/certificate.html")
    page.parent.mkdir(parents=True)
    page.write_text("<td>44.7 (18.1 to 93.2)</td>")
    assert cli.main(["verify", "--threads", "2"]) == 0, "the cache is as written"
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{page}: ") and "snakemake --forcerun certificate" in line
