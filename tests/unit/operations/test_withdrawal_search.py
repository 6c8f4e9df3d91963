"""A withdrawal is carried out whatever a running job writes, and a search of every file shows that it was."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from neurotransfer import cli
from neurotransfer.cache.shard_file import checksum, shard_written
from neurotransfer.cache.small_volumes import volumes_of as small_volumes_of
from neurotransfer.errors import InputError
from neurotransfer.files import read_table, write_table
from neurotransfer.jobs.lock_note import note_run
from neurotransfer.manifest.carrying_out import pending_shards, renew, running, strays
from neurotransfer.manifest.compile import compile_manifest
from neurotransfer.manifest.withdrawal import erase_strays, read_withdrawn
from neurotransfer.network.sfcn import SFCN
from neurotransfer.operations.features_again import FeaturesAgain
from neurotransfer.operations.withdrawal_search import (
    BLOCK,
    Names,
    Search,
    _compare_features,
    _compare_heads,
    clean_logs,
    names_of,
    search,
    statement,
)
from neurotransfer.preprocess.volumes import Statistics, read_volumes, volumes_of, write_volumes
from neurotransfer.pretrain.step import features_of
from neurotransfer.pretrain.weights import network_from, read_weights, write_weights
from neurotransfer.split.certificate import check_sources
from neurotransfer.split.duplicates import NUMBERS, heads_of
from neurotransfer.split.pools import check_pools
from neurotransfer.study.plan import read_study
from scipy import ndimage

LIST = Path("config/withdrawn.tsv")
VOXEL = 4.5
TARGET = {
    "name": "age", "kind": "continuous", "weight": 1.0, "mean": 50.0, "sd": 20.0, "loss": "squared",
    "positive_weight": 1.0,
}  # fmt: skip
SMALL = (2, 2, 2)  # voxels of a small volume, too few for a head


def withdraw(config, *people) -> None:
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text("participant_id\n" + "".join(f"{name}\n" for name in people))
    compile_manifest(config, check_pools)


def write_results(config) -> None:
    """What preprocessing, the cache, the index and the split write of the present manifest, as far as names go."""
    study = read_study(config)
    for cohort in study.cohorts:
        kept = []
        for name in study.shards_of(cohort):
            rows = read_table(f"results/manifest/shards/{name}.tsv")
            gone = rows["withdrawn"].notna() if "withdrawn" in rows else pd.Series(False, index=rows.index)
            status = gone.map({True: "withdrawn", False: "ok"})
            ledger = pd.DataFrame({"image_id": rows["image_id"], "status": status})
            for job in study.shards[name].jobs:
                part = ledger.iloc[int(job) * 4 : int(job) * 4 + 4]
                write_table(part, f"results/preprocessed/{name}/{job}.tsv")
            erase_strays(Path("results/preprocessed/subjects", name), set(rows["image_id"]), Path("outcomes.log"))
            for image in rows.loc[~gone, "image_id"]:
                folder = Path("results/preprocessed/subjects", name, image)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "status.json").write_text("{}")
            write_table(ledger.assign(row=range(len(ledger))), f"results/cache/{name}.tsv")
            with shard_written(f"results/cache/{name}.npy", len(rows), (2, 2, 2)) as write:
                for absent in gone:
                    write(np.full((2, 2, 2), 0 if absent else 7, np.uint8))
            with shard_written(f"results/cache/{name}.small.npy", len(rows), SMALL) as write:
                for absent in gone:
                    write(np.full(SMALL, 0 if absent else 7, np.uint8))
            images = rows.loc[~gone, ["image_id", "participant_id", "cohort"]]
            statistics = {
                image: Statistics({17: 10.0 + place}, {17: "a"}, 9.0) for place, image in images["image_id"].items()
            }
            write_volumes(statistics, f"results/cache/{name}.volumes.tsv")
            kept.append(images.assign(mask_volume_mm3=9.0, shard=name, row=images.index))
        table = pd.concat(kept)
        tables = [f"results/cache/{name}.volumes.tsv" for name in study.shards_of(cohort)]
        Path("results/index").mkdir(exist_ok=True)
        np.save(f"results/index/{cohort}.volumes.npy", volumes_of(table, read_volumes(tables)[0]))
        write_table(table, f"results/index/{cohort}.tsv")
        for place in ("results/features", "results/duplicates/heads"):
            Path(place).mkdir(parents=True, exist_ok=True)
            np.save(f"{place}/{cohort}.npy", np.full((len(table), NUMBERS), np.nan, np.float32))
        write_table(table.assign(role="test"), f"results/split/cohorts/{cohort}.tsv")


@pytest.fixture
def finished(study):
    config, _ = study
    config["withdrawn"] = str(LIST)
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text("participant_id\n")
    compile_manifest(config, check_pools)
    write_results(config)
    return config


def files_of(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def person(finished) -> str:
    return read_table("results/manifest/images.tsv")["participant_id"].iloc[2]


WRITTEN_LATE = [
    "results/preprocessed/A-0001/0000.tsv",
    "results/cache/A-0001.tsv",
    "results/preprocessed/subjects/A-0001",
    "results/index/A.tsv",
    "results/split/cohorts/A.tsv",
]


@pytest.mark.parametrize("late", WRITTEN_LATE)
def test_what_a_running_job_writes_after_the_withdrawal_is_made_again(finished, person, late):
    """It holds the person and is newer than the manifest, so Snakemake alone would keep it."""
    path = Path(late)
    before = {path: path.read_bytes()} if path.is_file() else files_of(path)
    withdraw(finished, person)
    study = read_study(finished)
    assert pending_shards(study) == ["A-0001"], "nothing has been carried out"
    write_results(finished)
    assert pending_shards(study) == []
    for file, content in before.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    assert pending_shards(study) == ["A-0001"]
    renew(pending_shards(study), study)
    left = {path.parent.name for path in Path("results/preprocessed").glob("*/*.tsv")}
    assert left == set(study.shards) - {"A-0001"}, "Snakemake makes the shard's ledgers and what depends on them again"
    write_results(finished)
    assert pending_shards(study) == []


def test_the_search_finds_nothing_but_the_list_after_a_withdrawal(finished, person, capsys):
    study = read_study(finished)
    log = Path("logs/preprocess/A-0001/0000.log")
    log.parent.mkdir(parents=True)
    log.write_text(f"1 of 4: {person} ok, 3 s; and {person}9 ok\n")
    old = Path(".snakemake/log/2026.snakemake.log")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x" * (BLOCK - 5) + b" " + person.encode() + b"_ses-1.")  # across the border of two blocks
    times = [path.stat().st_mtime_ns for path in (log, old)]
    withdraw(finished, person)
    study, withdrawn = read_study(finished), read_withdrawn(LIST)
    names = names_of(withdrawn)
    found = search(study, withdrawn, names, VOXEL)
    assert {"results/index/A.tsv", str(log), str(old)} <= set(found.names) and found.voxels and found.pending
    write_results(finished)
    assert set(search(study, withdrawn, names, VOXEL).names) == {str(log), str(old)}
    assert clean_logs(names) == 2 and clean_logs(names) == 0
    assert log.read_text() == f"1 of 4: withdrawn-person ok, 3 s; and {person}9 ok\n"
    assert [path.stat().st_mtime_ns for path in (log, old)] == times
    found = search(study, withdrawn, names, VOXEL)
    assert found.is_clean and found.rows == 2, found.text()  # of the shard and of its small volumes
    text = statement(found, withdrawn, "study")
    assert "found: nothing" in text and person not in text
    assert person not in "".join(
        str(path) + path.read_bytes().decode("latin-1") * (path.suffix != ".npy")
        for folder in ("results", "logs", ".snakemake")
        for path in Path(folder).rglob("*")
        if path.is_file() and path != log
    )


def test_a_brain_in_an_emptied_row_is_found(finished, person):
    withdraw(finished, person)
    write_results(finished)
    with Path("results/cache/A-0001.npy").open("r+b") as file:
        file.seek(-8 * 8 + 2 * 8 + 3, os.SEEK_END)
        file.write(b"\x07")
    withdrawn = read_withdrawn(LIST)
    found = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL)
    assert found.voxels == ["results/cache/A-0001.npy, row 2"] and not found.is_clean


@pytest.mark.parametrize("late", ["index/A.volumes.npy", "features/A.npy", "duplicates/heads/A.npy"])
def test_a_row_in_an_array_that_names_nobody_is_found(finished, person, late):
    """A job that had read the index from before wrote it, or nothing makes it again any more."""
    path = Path("results", late)
    before = path.read_bytes()
    withdraw(finished, person)
    write_results(finished)
    withdrawn = read_withdrawn(LIST)
    found = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL)
    assert found.is_clean and found.compared == 3, found.text()
    path.write_bytes(before)
    found = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL)
    assert len(found.left) == 1 and found.left[0].startswith(f"{path} has ") and not found.is_clean
    assert f"{found.left[0]}; delete it" in found.text() and "found: 1 places" in found.text()


def test_rows_of_other_images_are_found_if_there_are_as_many(finished, person):
    withdraw(finished, person)
    write_results(finished)
    volumes, features = Path("results/index/A.volumes.npy"), Path("results/features/A.npy")
    changed = np.load(volumes)
    changed[1, 1] += 1
    np.save(volumes, changed)
    os.utime(features, (0, 0))
    Path("results/duplicates/heads/A.npy").write_bytes(b"no array")
    withdrawn = read_withdrawn(LIST)
    found = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL)
    assert found.left == [
        f"{volumes} has rows of other images than results/index/A.tsv",
        "results/duplicates/heads/A.npy can't be read",
        f"{features} is older than results/index/A.tsv",
    ]


def test_heads_and_features_of_other_images_are_found_by_their_content(finished, person):
    withdraw(finished, person)
    write_results(finished)
    heads, split = Path("results/duplicates/heads/A.npy"), Path("results/split/cohorts/A.tsv")
    np.save(heads, np.ones_like(np.load(heads)))
    np.save("results/features/A.npy", np.ones((len(np.load(heads)), 2), np.float32))
    table = read_table(split)
    table.loc[3, "role"] = "train"
    write_table(table, split)
    withdrawn = read_withdrawn(LIST)
    found = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL)
    assert found.left == [
        f"{heads} has heads of other images than the cohort's index",
        "results/features/A.npy has values for images that no task may draw",
    ]
    Path("results/cache/A-0002.small.npy").unlink()
    left = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL).left
    assert left[0].startswith(f"{heads} can't be compared, because small volumes")


@pytest.fixture
def network(finished, tmp_path) -> FeaturesAgain:
    """The network of a study whose brains are noise, with the features that it gives."""
    torch.manual_seed(0)
    shape, target = {"channels": [2, 3], "bottleneck": 4, "pooling": "average"}, TARGET
    state = SFCN(shape["channels"], 4, 1, "average", 0.0).state_dict()
    write_weights(tmp_path / "w.safetensors", state, {"network": shape, "targets": [target]})
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 8)).astype(np.uint8)
    index = read_table("results/index/A.tsv")
    for shard, part in index.groupby("shard"):
        with shard_written(f"results/cache/{shard}.npy", len(part), images.shape[1:]) as write:
            for at in part.index:
                write(images[at])
    write_table(index.assign(checksum=[checksum(images[at]) for at in index.index]), "results/index/A.tsv")
    return FeaturesAgain(tmp_path / "w.safetensors", (8, 8, 8), "trunk", 4, "float32", 1)


def test_features_are_computed_again_and_another_images_row_is_found(network):
    index = read_table("results/index/A.tsv")
    state, facts = read_weights(network.weights)
    model = network_from(facts)
    model.load_state_dict(state)
    images = np.arange(1, len(index))
    features = features_of(model, index, "results/cache", images, 3, torch.device("cpu"), layers="trunk")
    path, cache = Path("results/features/A.npy"), Path("results/cache")
    for changed, lines in ((features, 0), (features[[0, 1, 3, 2, *range(4, len(index))]], 1), (features[:, 1:], 1)):
        found = Search(1)
        _compare_features(path, changed, index, cache, network, found)
        assert (found.again, found.features, len(found.left)) == (len(images), len(images), lines)
    few = dataclasses.replace(network, crop=(1000, 1000, 500))
    assert few.rows_to_check(features).tolist() == [1, len(index) - 1], "of large images a part, as the statement says"
    network.weights.write_bytes(b"no weights")
    _compare_features(path, features, index, cache, network, found)
    assert found.left[-1].startswith(f"{path} can't be compared")


def test_heads_of_two_people_differ_by_more_than_the_same_head_twice(tmp_path):
    generator = np.random.default_rng(3)
    volumes = [ndimage.gaussian_filter(generator.random((14, 14, 14)), 2) for _ in range(3)]
    with shard_written(tmp_path / "s.small.npy", 3, (14, 14, 14)) as write:
        for volume in volumes:
            write((255 * (volume - volume.min()) / np.ptp(volume)).astype(np.uint8))
    index = pd.DataFrame({"image_id": ["a", "b", "c"], "shard": "s", "row": [0, 1, 2]})
    heads = heads_of(small_volumes_of(index, [tmp_path / "s.small.npy"]), VOXEL)
    assert np.isfinite(heads).all()
    for rows, lines in (([0, 1, 2], 0), ([0, 2, 1], 1)):
        found = Search(1)
        _compare_heads(tmp_path / "h.npy", heads[rows], index, [tmp_path / "s.small.npy"], VOXEL, 1, found)
        assert len(found.left) == lines


def test_an_unfinished_array_of_a_killed_job_is_found(finished, person):
    withdraw(finished, person)
    write_results(finished)
    for name in (".A-0001.npy.0123456789ab.part", ".A-0001.tsv.0123456789ab.part"):
        Path("results/cache", name).write_bytes(b"\x07" * 100)
    withdrawn = read_withdrawn(LIST)
    (line,) = search(read_study(finished), withdrawn, names_of(withdrawn), VOXEL).left
    assert line.startswith("results/cache/.A-0001.npy.0123456789ab.part was left by a job that was killed")


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("A_01", True),
        ("(A_01_ses-2)", True),
        ("x/sub-01/an", False),
        ("sub-02_T1w", True),
        ("A_011", False),
        ("AA_01", False),
    ],
)
def test_names_are_found_as_whole_words_and_inside_file_names(tmp_path, text, is_named):
    """The label 01 is that of somebody else, too."""
    (tmp_path / "list.tsv").write_text("participant_id\nA_01\nA_02\n")
    names = Names(read_withdrawn(tmp_path / "list.tsv"), {"B_01"})
    assert names.in_bytes(text.encode()) == is_named


def test_a_run_under_way_is_named(finished, monkeypatch):
    study = read_study(finished)
    assert running(["A-0001"], study) == ""
    lease = Path("results/cache/A-0001.npy.lease")
    lease.write_text(f'{{"host": "{os.uname().nodename}", "pid": {os.getpid()}, "token": "t"}}')
    assert running(["A-0001"], study) == "1 job holds a lease, such as results/cache/A-0001.npy.lease"
    features = Path("results/features/A.npy.lease")  # of a job of the whole cohort
    features.parent.mkdir(exist_ok=True)
    lease.rename(features)
    assert running(["A-0001"], study) == "1 job holds a lease, such as results/features/A.npy.lease"
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").touch()
    assert "was killed" in running(["A-0001"], study)
    note_run()
    assert f"(process {os.getpid()} on" in running(["A-0001"], study)


def test_the_certificate_says_that_people_have_withdrawn_and_what_repairs_it(finished, person):
    splits, indices = ([read_table(f"results/{place}/A.tsv")] for place in ("split/cohorts", "index"))
    withdraw(finished, person)
    manifest = read_table("results/manifest/images.tsv")
    settings = finished["split"]
    with pytest.raises(InputError, match=r"1 of its images are not in .* withdrawn.*; run snakemake again") as refused:
        check_sources(splits, indices, manifest, {"A": ["holdout"]}, {"A": 0.0}, settings, 1)
    assert "have another participant" not in str(refused.value)


def test_strays_are_all_that_belongs_to_no_image_of_a_shard(tmp_path):
    for name in ("A_01", ".A_01.part", ".A_02.part", "A_03"):
        (tmp_path / name).mkdir()
    (tmp_path / ".A_01.started").touch()
    assert {path.name for path in strays(tmp_path, {"A_01"})} == {".A_02.part", "A_03"}


def test_twenty_thousand_unknown_names_are_one_line(finished):
    """They take no longer than a few times the list without them, because none is compared with every name."""
    start = time.perf_counter()
    withdraw(finished)
    usual = time.perf_counter() - start
    LIST.write_text("participant_id\n" + "".join(f"A_X{number}\n" for number in range(20_000)))
    start = time.perf_counter()
    with pytest.raises(InputError, match="20,000 of its names are not in the study, the first is A_X0") as refused:
        compile_manifest(finished, check_pools)
    assert "\n" not in str(refused.value) and time.perf_counter() - start < 20 * usual


def test_the_command_cleans_searches_and_writes_a_statement(finished, person, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_enter_study", lambda chosen: finished)
    withdraw(finished, person)
    assert cli.main(["withdraw", "--verify"]) == 1 and not Path("withdrawal-statement.txt").exists()
    write_results(finished)
    assert cli.main(["withdraw"]) == 0 and cli.main(["withdraw", "--verify"]) == 0
    assert "found: nothing" in Path("withdrawal-statement.txt").read_text()
    capsys.readouterr()
    assert cli.main(["withdraw"]) == 0  # the logs are clean
    assert capsys.readouterr().out == "now: neurotransfer withdraw --verify\n"
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/locks/0.input.lock").touch()
    assert cli.main(["withdraw"]) == 2 and "wait for its end" in capsys.readouterr().err
