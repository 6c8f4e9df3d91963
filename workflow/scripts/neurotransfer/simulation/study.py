"""A simulated study: cohorts as BIDS data sets, their table, and the truth behind each image.

Ventricles, cortex and hippocampi depend on age and sex, with individual scatter; diseases add atrophy.  Scanners,
orientations, column names and missing labels differ between cohorts, as in real studies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..files import fingerprint, read_json, write_json, write_table, write_text, written_whole
from ..seeds import seed_from

# files and folders of a study, which a simulation would overwrite or use as its own
OF_STUDIES = ("cohorts.tsv", "data", "my-study.yaml", "analysis-plan.md", "results", "truth.tsv", "withdrawn.tsv")
BEGUN = ".simulation-begun.json"  # there until the simulation is whole
VERSION = 1  # of the simulation; increased if the images change
SCATTER = 0.5  # sd of individual atrophy, in the units of the effects below
COMPONENTS = ("ventricle", "cortex", "hippocampus", "frontal")
AGEING = np.array([0.45, 0.50, 0.35, 0.0])  # per 15 years
MALE = np.array([0.20, 0.10, 0.05, 0.0])
SIZE: dict[str, Any] = {"male": 1.1, "mean": -0.55, "sd": 0.7}  # of a head, in standard units
BMI: dict[str, Any] = {"mean": 26.0, "cerebellum": 2.6, "sd": 2.2, "range": (16, 48)}  # kg/m²
FLUID_INTELLIGENCE: dict[str, Any] = {"mean": 6.0, "size": 0.8, "sd": 1.8}  # points
NEUROTICISM: dict[str, Any] = {"mean": 4.0, "size": -0.4, "sd": 2.5, "range": (0, 12)}  # points
LEFT_HANDED = 0.12  # probability, independent of the brain
DISEASES = {
    "AD": np.array([0.60, 0.55, 0.70, 0.0]),  # in the direction of ageing, strongest in the hippocampus
    "SCZ": np.array([0.15, 0.10, 0.10, 0.50]),  # weak, mostly in another direction
}
TASKS = {"ad_hc": ("AD", "HC"), "scz_bd": ("SCZ", "BD"), "control": ("B", "A")}


@dataclass(frozen=True)
class CohortDesign:
    """The people, labels and scanner of a simulated cohort.

    `labels` are its optional targets; `columns` are the values of its mapping columns in cohorts.tsv; `repeated` is the
    share of people with a second session; `axes` is the order and direction of the voxel axes.
    """

    name: str
    roles: str
    people: int
    ages: tuple[float, float]
    diagnoses: tuple[str, ...] = ("HC",)
    labels: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    repeated: float = 0.0
    pretraining_share: str = ""
    images_per_job: str = ""
    axes: str = "RAS"
    tilt: float = 0.0  # degrees by which the scanner's box is oblique
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)  # voxel size along the axes, in voxel sizes
    gain: float = 3.0
    bias: float = 0.12
    noise: float = 3.0


COHORTS = (
    CohortDesign("alpha", "pretraining", 34, (20, 85), labels=("handedness", "bmi"), axes="LAS", gain=2.0),
    CohortDesign("beta", "pretraining", 34, (20, 85), labels=("handedness", "fluid_intelligence"),
                 columns={"age": "age_years", "sex": "gender", "sex_codes": "1=1,2=0"},
                 axes="PSR", gain=11.0, noise=4.0),
    CohortDesign("gamma", "pretraining", 30, (30, 85), labels=("neuroticism", "height", "weight"),
                 columns={"height": "height_cm", "height_unit": "cm", "weight": "weight_kg"}, repeated=0.25, tilt=12.0),
    CohortDesign("delta", "pretraining", 34, (18, 80), labels=("handedness", "neuroticism", "fluid_intelligence"),
                 columns={"sex_codes": "female=0,male=1"}, axes="LPS", stretch=(1, 1, 1.25), gain=0.8),
    CohortDesign("epsilon", "holdout", 18, (20, 85), labels=("handedness",), axes="ASL", gain=5.0, bias=0.2,
                 images_per_job="9"),
    CohortDesign("memory", "pretraining,holdout,ad_hc", 66, (64, 80), ("AD", "HC"), repeated=0.15,
                 pretraining_share="0.2", columns={"diagnosis": "group", "diagnosis_codes": "1=HC,2=AD"}, axes="LIA"),
    CohortDesign("mood", "holdout,scz_bd", 62, (22, 48), ("SCZ", "BD"), labels=("handedness",), axes="RPI", gain=7.0),
    CohortDesign("coin", "control", 62, (25, 70), ("A", "B"), axes="SAR", noise=4.0),
)  # fmt: skip


def simulate_study(
    folder: str | Path,
    *,
    seed: int = 7,
    voxel_size: float = 4.5,
    cohorts: Sequence[str] | None = None,
    participants: float | Mapping[str, float] = 1.0,
    processes: int = 1,
    write_masks: bool = False,
) -> None:
    """Write a study's data sets, ``cohorts.tsv`` and ``truth.tsv``; do nothing if the same study exists already.

    Parameters
    ----------
    folder : the study's folder; paths in ``cohorts.tsv`` are relative to it
    voxel_size : mm
    cohorts : names of the cohorts to simulate, from COHORTS; None for all
    participants : factor on every cohort's number of people, or factors by the cohort's name
    processes : number of processes, without effect on the images
    write_masks : also write the true brain masks to ``truth/masks/<cohort>/``

    Raises
    ------
    InputError
        for an unknown cohort, or a folder that contains another study, simulated or not
    """
    folder = Path(folder)
    designs = _designs(cohorts, participants)
    facts = {"version": VERSION, "seed": seed, "voxel_size": voxel_size, "masks": write_masks}
    mark = fingerprint({**facts, "cohorts": [asdict(design) for design in designs]})
    done, begun = folder / "simulated.json", folder / BEGUN
    other = "choose another folder, or delete it"
    for file in (done, begun):
        if file.exists() and read_json(file)["fingerprint"] != mark:
            raise InputError(folder.absolute(), "", "the folder contains another simulated study", other)
    if done.exists():
        return
    if not begun.exists() and (found := next((name for name in OF_STUDIES if (folder / name).exists()), None)):
        what = f"the folder contains a study that is not simulated: {found}"
        raise InputError(folder.absolute(), "", what, "choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(begun, {"fingerprint": mark})
    images = [image for design in designs for image in _people(design, seed)]
    write = partial(_write_image, designs=designs, folder=folder, seed=seed, voxel_size=voxel_size, mask=write_masks)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(write, images, chunksize=4))
    else:
        for image in images:
            write(image)
    for design in designs:
        _write_tables(folder, design, [image for image in images if image["cohort"] == design.name])
    write_table(_truth(images), folder / "truth.tsv")
    _write_cells(cohort_table(designs), folder / "cohorts.tsv")
    write_json(done, {**facts, "fingerprint": mark})
    begun.unlink()


def _designs(names: Sequence[str] | None, participants: float | Mapping[str, float]) -> list[CohortDesign]:
    known = {design.name: design for design in COHORTS}
    for name in names or ():
        if name not in known:
            raise InputError("", "--cohorts", f"there is no cohort {name!r}", f"choose from {', '.join(known)}")
    chosen = [known[name] for name in names] if names else list(COHORTS)
    factors = participants if isinstance(participants, Mapping) else dict.fromkeys(known, participants)
    return [replace(design, people=max(4, round(design.people * factors.get(design.name, 1.0)))) for design in chosen]


def design_of(name: str, designs: Sequence[CohortDesign]) -> CohortDesign:
    """The design of a cohort by its name."""
    return next(design for design in designs if design.name == name)


def _people(design: CohortDesign, seed: int) -> list[dict[str, Any]]:
    """A row per image: the person, the session, the recorded values and the latent values."""
    generator = np.random.default_rng(seed_from(seed, "people", design.name))
    rows = []
    for number in range(1, design.people + 1):
        male = number % 2 if len(design.diagnoses) == 1 else (number // 2) % 2
        diagnosis = design.diagnoses[number % len(design.diagnoses)]
        own = generator.normal(0, SCATTER, len(COMPONENTS))
        size = SIZE["male"] * male + SIZE["mean"] + generator.normal(0, SIZE["sd"])
        cerebellum = generator.normal()
        bmi = BMI["mean"] + BMI["cerebellum"] * cerebellum + generator.normal(0, BMI["sd"])
        bmi = float(np.clip(bmi, *BMI["range"]))
        height = float(np.clip(165 + 13 * male + generator.normal(0, 6), 145, 205))
        left_handed = int(generator.random() < LEFT_HANDED)
        intelligence = _from_size(FLUID_INTELLIGENCE, size) + generator.normal(0, FLUID_INTELLIGENCE["sd"])
        neuroticism = _from_size(NEUROTICISM, size) + generator.normal(0, NEUROTICISM["sd"])
        person = {
            "cohort": design.name,
            "label": f"{design.name[:2].upper()}{number:03d}",
            "sex": male,
            "diagnosis": diagnosis,
            "handedness": left_handed,
            "bmi": bmi,
            "height": height,
            "weight": bmi * (height / 100) ** 2,
            "fluid_intelligence": float(intelligence),
            "neuroticism": float(np.clip(neuroticism, *NEUROTICISM["range"])),
        }
        age = generator.uniform(*design.ages)
        sessions = 2 if generator.random() < design.repeated else 1
        severity = 1.0 if diagnosis not in DISEASES else generator.normal(1, 0.2)
        gap = generator.uniform(1, 3)
        for session in range(1, sessions + 1):
            now = age + gap * (session - 1)
            effect = severity * DISEASES.get(diagnosis, np.zeros(len(COMPONENTS)))
            latents = AGEING * (now - 50) / 15 + MALE * male + own + effect
            of_session = {"age": round(now, 2), "session": f"{session:02d}" if design.repeated else ""}
            of_tissue = {f"latent_{name}": float(value) for name, value in zip(COMPONENTS, latents, strict=True)}
            of_person = {"latent_size": size, "latent_cerebellum": cerebellum, "latent_disease": float(effect.sum())}
            rows.append({**person, **of_session, **of_tissue, **of_person, "own": own + effect})
    return rows


def _from_size(target: dict[str, Any], size: Any) -> Any:
    return target["mean"] + target["size"] * size


def best_predictions(truth: pd.DataFrame) -> pd.DataFrame:
    """The best possible predictions of the targets of healthy people, from their latent values without error.

    No network can do better in expectation, because an image depends on its person only through the latent values.  Age
    and sex are estimated from them by Bayes' rule, with each cohort's age range as the prior.

    Parameters
    ----------
    truth : of images of healthy people: `cohort` and `latent_...`, as in ``truth.tsv``

    Returns
    -------
    a column per target, rows as in `truth`: the median of continuous targets, which has the least absolute error; the
    probability of class 1 for sex and handedness
    """
    latents = truth[[f"latent_{name}" for name in COMPONENTS]].to_numpy(float)
    size, cerebellum = (truth[f"latent_{name}"].to_numpy(float) for name in ("size", "cerebellum"))
    ages, males = np.empty(len(truth)), np.empty(len(truth))
    for row, cohort in enumerate(truth["cohort"]):
        design = design_of(cohort, COHORTS)
        grid = np.linspace(design.ages[0], design.ages[1], 1000)
        chances = []
        for male in (0, 1):
            expected = AGEING * (grid[:, None] - 50) / 15 + MALE * male  # [ages, components]
            of_latents = ((latents[row] - expected) ** 2).sum(1) / SCATTER**2
            of_size = ((size[row] - SIZE["male"] * male - SIZE["mean"]) / SIZE["sd"]) ** 2
            chances.append(-(of_latents + of_size) / 2)
        chances = np.exp(np.stack(chances) - np.max(chances))  # [sexes, ages]
        chances /= chances.sum()
        ages[row] = np.interp(0.5, np.cumsum(chances.sum(0)), grid)
        males[row] = chances[1].sum()
    return pd.DataFrame(
        {
            "age": ages,
            "sex": males,
            "handedness": LEFT_HANDED,
            "bmi": np.clip(BMI["mean"] + BMI["cerebellum"] * cerebellum, *BMI["range"]),
            "fluid_intelligence": _from_size(FLUID_INTELLIGENCE, size),
            "neuroticism": np.clip(_from_size(NEUROTICISM, size), *NEUROTICISM["range"]),
        },
        index=truth.index,
    )


def image_path(image: dict[str, Any]) -> Path:
    """An image's path relative to the study's folder."""
    session = f"ses-{image['session']}" if image["session"] else ""
    name = "_".join(part for part in (f"sub-{image['label']}", session, "T1w.nii.gz") if part)
    return Path("data", image["cohort"], f"sub-{image['label']}", session, "anat", name)


def _write_image(
    image: dict[str, Any], *, designs: Sequence[CohortDesign], folder: Path, seed: int, voxel_size: float, mask: bool
) -> None:
    from .anatomy import image_at

    design = design_of(image["cohort"], designs)
    names = (seed, "image", image["cohort"], image["label"], image["session"])
    generator = np.random.default_rng(seed_from(*names))
    affine, shape = _box(design, voxel_size, generator)
    grid = np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in shape), indexing="ij"), -1)
    points = grid @ affine[:3, :3].T + affine[:3, 3]
    pose = _rotation(generator.normal(0, 3, 3))  # of the head in the scanner
    points = (points - generator.normal(0, 4, 3)) @ pose
    latents = {name.removeprefix("latent_"): value for name, value in image.items() if name.startswith("latent_")}
    person = seed_from(seed, "shape", image["cohort"], image["label"])
    values, brain = image_at(points, latents, person, voxel_size)
    values = design.gain * (values * _bias(points, design.bias, generator) + 4)
    noise = generator.normal(0, design.noise * design.gain, (2, *shape))
    values = np.hypot(values + noise[0], noise[1])  # magnitude images have Rician noise
    path = folder / image_path(image)
    _save(values.astype(np.float32), affine, path)
    sidecar = {"Modality": "MR", "MagneticFieldStrength": 3, "Manufacturer": f"Simulated {design.name}"}
    write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
    if mask:
        name = path.name.replace("_T1w", "_mask")
        _save(brain.astype(np.uint8), affine, folder / "truth/masks" / design.name / name)


def _save(values: np.ndarray, affine: np.ndarray, path: Path) -> None:
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(np.round(values).astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    with written_whole(path, "wb") as file:
        file.write(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _box(design: CohortDesign, voxel_size: float, generator: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """The scanner's field of view, 192 x 234 x 212 mm around the head: affine and shape in its own axes."""
    extent = np.array([192.0, 234.0, 212.0])
    direction = np.zeros((3, 3))
    sizes, shape = np.zeros(3), []
    for axis, letter in enumerate(design.axes):
        world = next(number for number, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        direction[world, axis] = 1.0 if letter in "RAS" else -1.0
        sizes[axis] = voxel_size * design.stretch[axis]
        shape.append(round(extent[world] / sizes[axis]))
    affine = np.eye(4)
    affine[:3, :3] = _rotation((design.tilt, 0, design.tilt / 3)) @ direction * sizes
    centre = np.array([0.0, -18.0, -4.0]) + generator.normal(0, 3, 3)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, tuple(shape)


def _rotation(degrees) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


def _bias(points: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """The smooth shading of a receive coil, with values around 1."""
    scaled = points / 100
    terms = np.concatenate([scaled, scaled**2, scaled * np.roll(scaled, 1, -1)], -1)
    return np.exp(np.clip(terms @ generator.normal(0, strength / 2, 9), -0.6, 0.6))


CODES: dict[str, Any] = {"sex": {0: "F", 1: "M"}, "handedness": {0: "R", 1: "L"}}
DESCRIPTIONS = {
    "age": {"Description": "age at scan", "Units": "years"},
    "sex": {"Description": "sex of the participant"},
    "handedness": {"Description": "preferred hand", "Levels": {"R": "right", "L": "left"}},
    "bmi": {"Description": "body mass index", "Units": "kg/m^2"},
    "height": {"Description": "body height", "Units": "cm"},
    "weight": {"Description": "body weight", "Units": "kg"},
    "fluid_intelligence": {"Description": "fluid intelligence, points"},
    "neuroticism": {"Description": "neuroticism, points"},
    "diagnosis": {"Description": "diagnosis"},
}


def _write_tables(folder: Path, design: CohortDesign, images: list[dict[str, Any]]) -> None:
    """Write a cohort's BIDS files beside its images."""
    root = folder / "data" / design.name
    description = {"Name": f"Simulated cohort {design.name}", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    write_json(root / "dataset_description.json", {**description, "License": "CC0", "GeneratedBy": []})
    write_text(root / "README", f"Simulated cohort {design.name}: no person was scanned for it.\n")
    fields = ["age", "sex", *design.labels]
    if len(design.diagnoses) > 1:
        fields.append("diagnosis")
    codes: dict[str, dict[Any, str]] = {name: dict(values) for name, values in CODES.items()}
    for field_name in ("sex", "diagnosis"):
        if text := design.columns.get(f"{field_name}_codes"):
            pairs = [pair.split("=") for pair in text.split(",")]
            codes[field_name] = {int(new) if new.isdigit() else new: old for old, new in pairs}
    generator = np.random.default_rng(seed_from("missing", design.name))
    rows: list[dict[str, Any]] = []
    sessions: dict[str, list[tuple[str, str]]] = {}
    for image in images:
        row = {"participant_id": f"sub-{image['label']}"}
        for name in fields:
            value = codes.get(name, {}).get(image[name], image[name])
            if name in design.labels and generator.random() < 0.1:
                value = "n/a"  # labels are incomplete, as in real studies
            row[design.columns.get(name, name)] = f"{value:.2f}" if isinstance(value, float) else value
        if image["session"]:
            sessions.setdefault(image["label"], []).append((f"ses-{image['session']}", f"{image['age']:.2f}"))
        if image["session"] in ("", "01"):
            rows.append(row)
    _write_cells(pd.DataFrame(rows), root / "participants.tsv")
    names = {design.columns.get(name, name): DESCRIPTIONS[name] for name in fields}
    write_json(root / "participants.json", names)
    age = design.columns.get("age", "age")
    for label, visits in sessions.items():
        table = pd.DataFrame(visits, columns=["session_id", age])
        _write_cells(table, root / f"sub-{label}" / f"sub-{label}_sessions.tsv")
        write_json(root / f"sub-{label}" / f"sub-{label}_sessions.json", {age: DESCRIPTIONS["age"]})


def _write_cells(table: pd.DataFrame, path: Path) -> None:
    """A table that stands for a user's own: its readers take every cell as text."""
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))


def cohort_table(designs: Sequence[CohortDesign]) -> pd.DataFrame:
    """The study's cohorts.tsv."""
    mapping = sorted({name for design in designs for name in design.columns})
    rows = []
    for design in designs:
        names = {"cohort": design.name, "path": f"data/{design.name}", "roles": design.roles}
        options = {"pretraining_share": design.pretraining_share, "images_per_job": design.images_per_job}
        rows.append({**names, **options, **{name: design.columns.get(name, "") for name in mapping}})
    return pd.DataFrame(rows)


def _truth(images: list[dict[str, Any]]) -> pd.DataFrame:
    """A row per image: its latent values and, for images of a task, the best possible score.

    `latent_score` is the log likelihood ratio of the two diagnoses given the atrophy beyond age and sex.  For a task
    without an effect it is the sum of this atrophy, which is unrelated to the diagnosis.
    """
    rows = []
    for image in images:
        in_task: dict[str, Any] = {"task": None, "label": None, "latent_score": None}
        for task, (positive, negative) in TASKS.items():
            if image["diagnosis"] in (positive, negative) and task in design_of(image["cohort"], COHORTS).roles:
                shift = DISEASES.get(positive, np.zeros(len(COMPONENTS)))
                direction = shift if shift.any() else np.ones(len(COMPONENTS))
                score = float(image["own"] @ direction / SCATTER**2)
                in_task = {"task": task, "label": int(image["diagnosis"] == positive), "latent_score": score}
        names = {"cohort": image["cohort"], "participant_id": f"{image['cohort']}_{image['label']}"}
        scan = {"session": image["session"], "t1w": str(image_path(image)), "age": image["age"], "sex": image["sex"]}
        latents = {name: value for name, value in image.items() if name.startswith("latent_")}
        rows.append({**names, **scan, **latents, "diagnosis": image["diagnosis"], **in_task})
    return pd.DataFrame(rows)
