"""A study of the paper's configuration with a compiled manifest and no scan, for tests of its jobs."""

import csv
import json
from pathlib import Path

from neurotransfer.study.plan import digest_of_cohorts


def fan_out(folder: Path, shards: int) -> Path:
    """A study of the paper's configuration with a compiled manifest and so many shards, without scans."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/cohorts.tsv").write_text("cohort\tpath\troles\n")
    roles = {f"C{number:02d}": ["pretraining"] for number in range(1, 26)}
    roles |= {f"C{number:02d}": ["holdout"] for number in range(26, 44)}
    roles |= {"ADNI": ["pretraining", "holdout", "ad_hc"], "TOP": ["holdout", "scz_bd"]}
    facts = {"cohorts_sha256": digest_of_cohorts(folder / "config/cohorts.tsv"), "roles": roles}
    facts["pretraining_shares"] = dict.fromkeys(roles, 1.0) | {"ADNI": 0.3}
    names = [f"{cohort}-{number:04d}" for number in range(1, -(-shards // len(roles)) + 1) for cohort in roles][:shards]
    manifest = folder / "results/manifest"
    (manifest / "shards").mkdir(parents=True)
    with (manifest / "shards.tsv").open("w", newline="") as file:
        file.write(f"# {json.dumps(facts)}\n")
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["shard", "cohort", "images", "images_per_job"])
        table.writerows([name, name.partition("-")[0], 64, 64] for name in names)
    for name in names:
        (manifest / f"shards/{name}.tsv").touch()
    (manifest / "images.tsv").write_text("image_id\tcohort\tshard\n")
    (manifest / "excluded.tsv").touch()
    return folder
