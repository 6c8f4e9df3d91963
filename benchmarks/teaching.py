"""What pretraining teaches, on a simulated study whose truth is known: docs/pretraining.md.

    make teaching

Simulates cohorts with eight times the demo's people, lets the workflow preprocess and split them and draw resamples,
and trains three networks with the same budget and seed: on all six targets, on age alone and on sex alone.  Then it
fits baseline and transfer at growing n.  What is done already is not done again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "workflow/scripts")]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from neurotransfer.files import read_json, read_table, read_tables, write_json, write_table, write_text  # noqa: E402
from neurotransfer.fit import finetuning  # noqa: E402
from neurotransfer.fit.settings import all_settings  # noqa: E402
from neurotransfer.manifest.compile import compile_manifest  # noqa: E402
from neurotransfer.network.device import choose_device  # noqa: E402
from neurotransfer.network.sfcn import SFCN, trunk_of  # noqa: E402
from neurotransfer.pretrain import loop  # noqa: E402
from neurotransfer.pretrain.batches import Images  # noqa: E402
from neurotransfer.pretrain.checkpoints import Checkpoints  # noqa: E402
from neurotransfer.pretrain.evaluation import metrics_with_intervals, point_metrics, weighted_metrics  # noqa: E402
from neurotransfer.pretrain.job import training_rows  # noqa: E402
from neurotransfer.pretrain.step import predictions_of  # noqa: E402
from neurotransfer.pretrain.targets import Target, learn_targets  # noqa: E402
from neurotransfer.simulation import demo, study  # noqa: E402
from neurotransfer.split.pools import check_pools  # noqa: E402
from neurotransfer.statistics.tests import bootstrap_interval  # noqa: E402
from neurotransfer.study.configuration import load_config  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

OVERLAYS = [ROOT / "config/demo.yaml", ROOT / "benchmarks/teaching.yaml"]
COHORTS = ("alpha", "beta", "gamma", "delta", "memory")  # memory, as ADNI in the paper, is on both sides
PEOPLE = 8  # times the demo's
STEPS = 200  # of the comparison of data types
CURVE_SHARE = 4  # one image in so many trains there, so that the steps are several epochs, which the curve's points are
NETWORKS = {"all six": None, "age alone": ["age"], "sex alone": ["sex"]}
UNITS = {"age": "years", "bmi": "kg/m²", "fluid_intelligence": "points", "neuroticism": "points"}


def prepare(folder: Path, cores: int) -> None:
    """Simulate the study in `folder`, which becomes the working directory, and have the workflow make its inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    study.simulate_study(
        Path(), seed=demo.SEED, voxel_size=demo.VOXEL_SIZE, cohorts=COHORTS, participants=PEOPLE, processes=cores
    )
    config = load_config(ROOT, OVERLAYS)
    compile_manifest(config, check_pools)
    made = [f"results/{kind}/{cohort}.tsv" for kind in ("index", "split/cohorts") for cohort in COHORTS]
    made += [f"results/resamples/ad_hc/n{n}/{name}.tsv" for n, name in resamples(config)]
    line = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", cores, "--quiet"]
    line += ["--nolock", "--rerun-incomplete", *made, "--configfile", *OVERLAYS]
    subprocess.run([str(part) for part in line], check=True)


def resamples(config: dict) -> list[tuple[int, str]]:
    """n and the replicate's name."""
    drawn = config["resampling"]
    return [(n, f"{at + 1:03d}") for n in drawn["n"] for at in range(drawn["replicates"])]


def sides() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Index rows of the training and of the validation images."""
    kinds = ("index", "split/cohorts")
    return training_rows(*(read_tables(f"results/{kind}/{name}.tsv" for name in COHORTS) for kind in kinds))


def pretrain(name: str, seed: int) -> None:
    """Train a network of NETWORKS, and write its weights and its predictions of the validation images."""
    folder = Path("networks", f"{name} {seed}")
    if (folder / "predictions.tsv").exists():
        return
    config = load_config(ROOT, OVERLAYS)
    tables = sides()
    chosen = NETWORKS[name] or list(config["targets"])
    targets = learn_targets({target: config["targets"][target] for target in chosen}, tables[0])
    device = choose_device("cpu", 1)
    network, settings = config["network"], config["pretrain"]
    images = (Images(table, "results/cache") for table in tables)
    checkpoints = Checkpoints(folder / "checkpoints", "teaching")
    asked = {"targets": targets, "network": network, "settings": settings}
    result = loop.pretrain(*images, tables, **asked, seed=seed, device=device, checkpoints=checkpoints)
    model = SFCN(network["channels"], network["bottleneck"], len(targets), network["pooling"], 0.0)
    model.load_state_dict(result.state)
    found = predictions_of(model, {"validation": tables[1]}, "results/cache", targets, 32, device)
    save_file({key: value.contiguous() for key, value in result.state.items()}, folder / "weights.safetensors")
    write_table(result.history, folder / "history.tsv")
    write_table(found, folder / "predictions.tsv")
    checkpoints.delete()


def curve(data_type: str, seed: int) -> list[float]:
    """Training loss by epoch over the first 200 steps or more, in a data type."""
    path = Path(f"curves/{data_type}-{seed}.json")
    if not path.exists():
        config = load_config(ROOT, OVERLAYS)
        tables = sides()
        tables = tables[0][::CURVE_SHARE].reset_index(drop=True), tables[1]
        steps = -(-len(tables[0]) // config["pretrain"]["batch_size"])
        settings = config["pretrain"] | {"data_type": data_type, "epochs": -(-STEPS // steps)}
        result = loop.pretrain(
            *(Images(table, "results/cache") for table in tables),
            tables,
            targets=learn_targets(config["targets"], tables[0]),
            network=config["network"],
            settings=settings,
            seed=seed,
            device=choose_device("cpu", 1),
            checkpoints=Checkpoints(path.with_suffix(""), "teaching"),
        )
        write_json(path, result.history["train_loss"].tolist())
    return read_json(path)


def fit(n: int, replicate: str, model: str) -> dict:
    """n, replicate, model and test AUC of a fit."""
    path = Path(f"fits/n{n}/{replicate}/{model}.json")
    if not path.exists():
        config = load_config(ROOT, OVERLAYS)
        fitting = {"seed": config["seed"], "network": config["network"], "training": config["models"]["cnn"]}
        fitting["settings"] = all_settings(config["models"][model]["settings"])
        trunk = trunk_of(load_file("networks/all six 1/weights.safetensors")) if model == "transfer" else None
        record = finetuning.fit(model, f"results/resamples/ad_hc/n{n}/{replicate}.tsv", fitting, trunk=trunk)
        write_json(path, {"n": n, "replicate": replicate, "model": model, "auc": record["test_auc"]})
    return read_json(path)


def limits(validation: pd.DataFrame) -> pd.DataFrame:
    """The best that the simulated truth allows, as predictions of the validation images in long form."""
    truth = read_table("truth.tsv").set_index("t1w").loc[validation["t1w"]]
    best = study.best_predictions(truth).to_numpy()
    parts = []
    for column, name in enumerate(study.best_predictions(truth[:1]).columns):
        part = validation[["participant_id"]].assign(target=name, truth=validation[name], prediction=best[:, column])
        parts.append(part.dropna(subset=["truth"]))
    return pd.concat(parts)


def predictions(name: str, seeds: int) -> pd.DataFrame:
    """Of the validation images, in long form, averaged over the networks of all seeds."""
    found = [read_table(f"networks/{name} {seed + 1}/predictions.tsv") for seed in range(seeds)]
    return found[0].assign(prediction=np.mean([part["prediction"].to_numpy(float) for part in found], axis=0))


def table_of_targets(found: dict[str, pd.DataFrame], tables: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Rows of the page's first table: MAE or AUC per target, of every network and of both bounds."""
    config = load_config(ROOT, OVERLAYS)
    best = limits(tables[1])
    rows = []
    for target in learn_targets(config["targets"], tables[0]):
        name = "mae" if target.kind == "continuous" else "auc"
        known = best[best["target"] == target.name]
        truth = known["truth"].to_numpy(float)
        dummy = point_metrics(truth, np.full(len(truth), target.mean), target.kind) | {"auc": 0.5}
        row = {"target": target.name.replace("_", " "), "metric": name.upper()}
        row["training images (cohorts)"] = (
            f"{tables[0][target.name].notna().sum()} ({tables[0].dropna(subset=[target.name])['cohort'].nunique()})"
        )
        row |= {"validation images": len(known), "dummy": dummy[name]}
        for network, only in NETWORKS.items():
            row[network] = float("nan")
            if only is None or target.name in only:
                part = found[network][found[network]["target"] == target.name]
                numbers = part["truth"].to_numpy(float), part["prediction"].to_numpy(float)
                people = part["participant_id"].to_numpy(str)
                metrics = metrics_with_intervals(*numbers, people, target.kind, resamples=2000, seed=1)
                row[network] = metrics.set_index("metric").loc[name, ["value", "low", "high"]].tolist()
        row["the truth allows"] = point_metrics(truth, known["prediction"].to_numpy(float), target.kind)[name]
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_gains(fits: pd.DataFrame) -> pd.DataFrame:
    """Rows of the page's second table: mean test AUCs by n, transfer's gain and its interval over replicates."""
    rows = []
    for n, group in fits.groupby("n"):
        wide = group.pivot(index="replicate", columns="model", values="auc")
        gain = (wide["transfer"] - wide["baseline"]).to_numpy()
        low, high = bootstrap_interval(gain, statistic="mean", resamples=10_000, seed=1)
        row = {
            "n": n,
            "replicates": len(wide),
            "baseline": wide["baseline"].mean(),
            "transfer": wide["transfer"].mean(),
        }
        rows.append(row | {"gain": gain.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def shown(value: object, digits: int) -> str:
    """A cell: a number, or one with its interval."""
    if isinstance(value, list):
        return f"{value[0]:.{digits}f} ({value[1]:.{digits}f} to {value[2]:.{digits}f})"
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def markdown(table: pd.DataFrame, digits: int) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(shown(value, digits) for value in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


PAGE = """# What pretraining teaches, where the truth is known

Made by `make teaching` ({minutes} minutes of CPU): the demo's cohorts with {people} times their people
(`benchmarks/teaching.yaml`), rendered, preprocessed and split by the workflow: {train} images train, {validation}
validate. Each network has the demo's size (crop {crop}, channels {channels})
and the same {epochs} epochs; the epoch with the lowest validation loss is kept.

## All six targets at once, or one alone

{targets}

MAE in the target's unit ({units});
brackets: 95 % bootstrap interval over the validation participants, of {seeds}.
The dummy predicts the training mean, or a coin. "The truth allows" is what
somebody reaches who reads each person's simulated anatomy from the image without error
(`study.best_predictions`): age moves four parts of the brain, which scatter between people of one age; sex moves
the size of the head; BMI, intelligence and neuroticism follow one trait each, plus chance; handedness is chance.

{verdict}

Rare targets ask for batches in which enough images have them. In batches of 24 without shifts, as above, BMI is found
in 6 to 15 epochs. With the demo's batches of 8, shifts of a voxel and a learning rate of 0.01, age and sex were learnt
as well, and BMI was not within 30 epochs (the tries are in `benchmarks/README.md`). The settings and weights were
chosen on these validation images and networks.

## Transfer's gain by the number of training images

Alzheimer's disease against healthy people of a cohort whose other people the network was pretrained with, as in the
paper; two settings of the demo, mean test AUC over resamples, and the gain with its 95 % bootstrap interval over
resamples.

{gains}

{trend}

This needs a baseline that is trained to its end. With the demo's 8 epochs in place of 24 the gain did not shrink:
0.182, 0.139, 0.173 and 0.180 at n = 16, 32, 64 and 128 (10 resamples, half as many test images).

## The same in bfloat16

Training loss by epoch, over {steps} steps or more of the network with all six targets, on one of {share} training
images:

{losses}

bfloat16 moves the mean curve of three seeds by {moved:+.3f} on average, and the seeds of float32 spread by
{spread:.3f}; it moves it by less than they spread in {within} of {epochs_of_losses} epochs. Computed on a CPU; sums and
weights stay float32, as they do on a GPU. What moves the curve is that rounded voxels tie or change places under
max-pool and ReLU: of this small network's first steps, gradients are off by some 20 to 30 % of their norm in most
layers, with the plain torch layers under autocast by 30 % and more.
"""


def difference(target: Target, first: pd.DataFrame, second: np.ndarray | pd.DataFrame) -> list[float]:
    """MAE or AUC of the first predictions less that of the second, with its 95 % bootstrap interval over participants.

    Validation has one image of each, so images are drawn.  Numbers instead of a table are predictions of their own.
    """
    rows, name = first[first["target"] == target.name], "mae" if target.kind == "continuous" else "auc"
    if isinstance(second, pd.DataFrame):
        second = second.loc[second["target"] == target.name, "prediction"].to_numpy(float)
    count = len(rows)
    drawn = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=2000)
    weights = np.vstack([np.ones((1, count)), drawn])
    truth = rows["truth"].to_numpy(float)
    one, other = (
        weighted_metrics(truth, values, weights, target.kind)[name]
        for values in (rows["prediction"].to_numpy(float), np.resize(second, count))
    )
    return [(one - other)[0], *np.nanquantile((one - other)[1:], (0.025, 0.975))]


def verdict(found: dict[str, pd.DataFrame], targets: list[Target]) -> str:
    """What the first table says, in words that follow from paired differences."""
    lines, learnt, not_learnt = [], [], []
    for target in targets:
        sign = -1 if target.kind == "continuous" else 1  # less error, or more AUC, is better
        name, unit = target.name.replace("_", " "), f" {UNITS[target.name]}" if target.name in UNITS else ""
        metric = "MAE" if sign < 0 else "AUC"
        if f"{target.name} alone" in found:
            value, low, high = difference(target, found["all six"], found[f"{target.name} alone"])
            worse = "harm" if sign * value < 0 else "a gain"
            verdict = "no difference that these people could show" if low <= 0 <= high else f"{worse} beyond chance"
            lines.append(f"{name}: {metric} {value:+.2f}{unit} ({low:+.2f} to {high:+.2f}), {verdict}")
        else:
            dummy = np.array([target.mean])
            value, low, high = difference(target, found["all six"], dummy)
            beats = max(sign * low, sign * high) > 0 and min(sign * low, sign * high) > 0
            (learnt if beats else not_learnt).append(f"{name} ({metric} {value:+.2f}{unit}, {low:+.2f} to {high:+.2f})")
    text = f"All six against one alone, as differences of the same people: {'; '.join(lines)}. "
    text += "Of the targets that few cohorts have, against the dummy, learnt beyond chance: "
    return text + f"{', '.join(learnt) or 'none'}; not: {', '.join(not_learnt) or 'none'}."


def trend(fits: pd.DataFrame) -> str:
    """What the second table says."""
    wide = fits.pivot(index=["replicate", "n"], columns="model", values="auc")
    gain = (wide["transfer"] - wide["baseline"]).unstack("n")
    first, last = gain.columns.min(), gain.columns.max()
    fall = (gain[first] - gain[last]).to_numpy()
    low, high = bootstrap_interval(fall, statistic="mean", resamples=10_000, seed=1)
    verdict = "shrinks as n grows" if low > 0 else "does not shrink beyond what so few resamples leave to chance"
    return (
        f"From n = {first} to n = {last} the gain falls by {fall.mean():.3f} (95 % interval {low:.3f} to {high:.3f}): "
        f"it {verdict}."
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "teaching", help="of the study; default: teaching")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, default=2, help="networks of each kind; default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of the page; default: docs")
    asked = parser.parse_args()
    out = asked.out.resolve()
    started = os.times()
    prepare(asked.folder, asked.cores)
    print("teaching: the study is prepared", flush=True)
    config = load_config(ROOT, OVERLAYS)
    with ProcessPoolExecutor(asked.cores) as pool:
        seeds = range(1, asked.seeds + 1)
        for done in [pool.submit(pretrain, name, seed) for seed in seeds for name in NETWORKS]:
            done.result()
        print("teaching: the networks are trained", flush=True)
        jobs = [(n, name, model) for n, name in resamples(config) for model in ("baseline", "transfer")]
        fits = pd.DataFrame([done.result() for done in [pool.submit(fit, *job) for job in jobs]])
        runs = [(name, seed) for name in ("float32", "bfloat16") for seed in (1, 2, 3)]
        curves = [done.result() for done in [pool.submit(curve, *run) for run in runs]]
    spent = sum(os.times()[:4]) - sum(started[:4]) + (read_json("spent.json") if Path("spent.json").exists() else 0)
    write_json("spent.json", spent)
    tables = sides()
    found = {name: predictions(name, asked.seeds) for name in NETWORKS}
    targets, gains = table_of_targets(found, tables), table_of_gains(fits)
    write_text("targets.tsv", targets.map(str).to_csv(sep="\t", index=False))
    write_text("gains.tsv", gains.to_csv(sep="\t", index=False))
    losses = pd.DataFrame({f"{name}, seed {seed}": curve for (name, seed), curve in zip(runs, curves, strict=True)})
    losses.insert(0, "epoch", np.arange(1, len(losses) + 1))
    exact, rounded = losses.iloc[:, 1:4].to_numpy(), losses.iloc[:, 4:].to_numpy()
    moved, spread = rounded.mean(1) - exact.mean(1), np.ptp(exact, axis=1)
    text = PAGE.format(
        people=PEOPLE, steps=STEPS, share=CURVE_SHARE, minutes=round(spent / 60), train=len(tables[0]),
        validation=len(tables[1]), crop=config["cache"]["crop"],
        channels=config["network"]["channels"], epochs=config["pretrain"]["epochs"], targets=markdown(targets, 2),
        units=", ".join(f"{name.replace('_', ' ')}: {unit}" for name, unit in UNITS.items()),
        seeds="one network" if asked.seeds == 1 else f"{asked.seeds} networks of different seeds, averaged",
        verdict=textwrap.fill(verdict(found, learn_targets(config["targets"], tables[0])), 120),
        gains=markdown(gains, 3), trend=trend(fits),
        losses=markdown(losses, 3), moved=moved.mean(), spread=spread.mean(), within=(np.abs(moved) < spread).sum(),
        epochs_of_losses=len(losses),
    )  # fmt: skip
    write_text(out / "pretraining.md", text)
    print(text)


if __name__ == "__main__":
    main()
