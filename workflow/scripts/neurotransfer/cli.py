"""The console command `neurotransfer`: everything that a user does besides running Snakemake."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import InputError
from .study.access import OWNER, left_open, set_umask
from .text import counted, printable

if TYPE_CHECKING:
    from .operations.features_again import FeaturesAgain

REPOSITORY = Path(__file__).resolve().parents[3]
PENDING = "a withdrawal is pending: files of {shards} still hold people who have withdrawn"
ENDED_BY_PIPE = 141  # exit status of a program that SIGPIPE ended, in a shell
PROGRESS = 10.0  # seconds between two lines on the progress of a long command


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake gives one line on standard error and exit status 2."""
    chosen = _parser().parse_args(arguments)
    before = os.umask(OWNER)  # until a study's configuration is known
    try:
        ended = int(chosen.run(chosen) or 0)
        sys.stdout.flush()
        return ended
    except BrokenPipeError:  # the next program of a pipe, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush into the pipe again
        return ENDED_BY_PIPE
    except InputError as error:
        lines = [*error.explained().splitlines(), *_forgotten(chosen)]
        print("\n".join(f"neurotransfer: {line}" for line in lines), file=sys.stderr)
        return 2
    except OSError as error:
        from .jobs.job import explain

        print(f"neurotransfer: {explain(error)}", file=sys.stderr)
        return 2
    finally:
        os.umask(before)  # of a program that calls this function


def _parser() -> _Parser:
    """The options of every command; the help lists the commands in the order of these groups."""
    begin = "begin with: neurotransfer demo demo; with your own data: look, init, manifest, rehearse, plan, snakemake"
    about = "Is pretraining worth it for a small study?"
    parser = _Parser(prog="neurotransfer", description=about, epilog=f"{begin} (docs/tutorial.md)")
    parser.add_argument("--version", action="version", version=f"neurotransfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    groups = (
        _add_beginning,
        _add_people,
        _add_progress,
        _add_forecasts,
        _add_outcomes,
        _add_simulations,
        _add_predict,
        _add_verify,
        _add_weights,
    )
    for add in groups:
        add(commands)
    return parser


def _add_beginning(commands: argparse._SubParsersAction) -> None:
    """Commands from data sets to a compiled manifest."""
    look = commands.add_parser(
        "look", help="what a BIDS folder holds: images, sessions, columns, and what they may mean"
    )
    look.add_argument("folder", type=Path, metavar="FOLDER", help="of a data set")
    look.set_defaults(run=_look)

    init = commands.add_parser(
        "init", help="write cohorts.tsv and my-study.yaml for BIDS folders, with what is guessed"
    )
    init.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of a data set")
    init.add_argument("--directory", "-d", type=Path, default=Path(), help="the study's folder; default: here")
    init.set_defaults(run=_init)

    doctor = commands.add_parser("doctor", help="whether installation, Slurm, containers, GPU and disks are as needed")
    _add_study(doctor)
    doctor.add_argument("--profile", metavar="PROFILE", help="whose partitions are looked up; default: slurm")
    doctor.set_defaults(run=_doctor)

    manifest = commands.add_parser("manifest", help="compile cohorts and BIDS folders into images and shards")
    _add_study(manifest)
    manifest.add_argument(
        "--wait", action="store_true", help="if people withdraw while jobs run, compile when these have ended"
    )
    manifest.set_defaults(run=_manifest)


def _add_people(commands: argparse._SubParsersAction) -> None:
    """Commands for people who withdraw, or have several ids."""
    withdraw = commands.add_parser(
        "withdraw", help="take the names of people who have withdrawn out of old logs, or search for them everywhere"
    )
    _add_study(withdraw)
    withdraw.add_argument("--verify", action="store_true", help="search every file of the study, and write a statement")
    withdraw.set_defaults(run=_withdraw)

    same = commands.add_parser("same-people", help="people with several participant ids; add pairs that look alike")
    _add_study(same)
    same.add_argument(
        "--add", nargs="+", metavar="NAME", help="participants or images: their pairs in results/duplicates/pairs.tsv"
    )
    same.add_argument("--dry-run", "-n", action="store_true", help="show what would be repeated, and write nothing")
    same.set_defaults(run=_same_people)


def _add_progress(commands: argparse._SubParsersAction) -> None:
    """Commands for the progress of a study, and for failed images."""
    status = commands.add_parser("status", help="the images by state, cohort and reason, and the progress of each step")
    _add_study(status)
    status.add_argument("--watch", action="store_true", help="show it on one screen until all is done")
    status.add_argument(
        "--seconds", type=_positive, default=30, help="between two looks of --watch; default: %(default)s"
    )
    status.set_defaults(run=_status)

    retry = commands.add_parser("retry", help="mark failed images for another try, after showing the consequences")
    _add_study(retry)
    retry.add_argument("--reason", metavar="REASON", help="images that failed for this reason")
    retry.add_argument("--cohort", metavar="COHORT", help="failed images of this cohort")
    retry.add_argument("--image", nargs="+", default=[], metavar="IMAGE", help="these images, even if they are ok")
    retry.add_argument("--list", action="store_true", help="print every image, not only the first ten")
    retry.add_argument("--dry-run", "-n", action="store_true", help="show what would be done, and do nothing")
    retry.set_defaults(run=_retry)


def _add_forecasts(commands: argparse._SubParsersAction) -> None:
    """Commands for the time before a study runs."""
    plan = commands.add_parser("plan", help="jobs, hours, disk, feasibility and power, before anything runs")
    _add_study(plan)
    plan.add_argument("--gpus", type=_count, default=8, help="GPUs in use at once; default: %(default)s")
    plan.add_argument("--cores", type=_count, default=64, help="cores in use at once; default: %(default)s")
    plan.set_defaults(run=_plan)

    freeze = commands.add_parser("freeze", help="write the analysis plan, before the first fit, as a file to register")
    _add_study(freeze)
    freeze.set_defaults(run=_freeze)

    rehearse = commands.add_parser("rehearse", help="run the workflow on a few of the study's images, in rehearsal/")
    _add_study(rehearse)
    rehearse.add_argument("--profile", metavar="PROFILE", help="as Snakemake's; default: this machine, with --cores")
    rehearse.add_argument("--minutes", type=_positive, default=60, help="after which it ends; default: %(default)s")
    rehearse.add_argument("--per-cohort", type=_count, default=2, metavar="N", help="images; default: %(default)s")
    rehearse.add_argument("--gpus", type=_count, default=8, help="that the study may use; default: %(default)s")
    rehearse.add_argument("--cores", type=_count, help="of this machine; default: all")
    rehearse.add_argument("options", nargs="*", metavar="-- OPTIONS", help="further options of Snakemake")
    rehearse.set_defaults(run=_rehearse)


def _add_outcomes(commands: argparse._SubParsersAction) -> None:
    """Commands for what a study that runs or has run gives: fits, failures, costs."""
    preview = commands.add_parser("preview", help="a preliminary page from the finished fits, while the others run")
    _add_study(preview)
    preview.add_argument("--output", type=Path, metavar="FILE", help="default: preview.html in the study's folder")
    preview.set_defaults(run=_preview)

    failures = commands.add_parser("failures", help="failed jobs and their causes, with the command that repeats each")
    _add_study(failures)
    failures.add_argument("--n", type=_count, default=20, help="failures shown in full; default: %(default)s")
    failures.add_argument(
        "--profile", metavar="PROFILE", help="of the commands; default: slurm, or local if there is no sbatch"
    )
    failures.set_defaults(run=_failures)

    costs = commands.add_parser("costs", help="time and memory of finished jobs: a row per rule, or per job")
    _add_study(costs)
    costs.add_argument("--output", type=Path, metavar="FILE", help="write a row per job to this TSV")
    costs.set_defaults(run=_costs)


def _add_simulations(commands: argparse._SubParsersAction) -> None:
    """Commands that simulate a study."""
    simulate = commands.add_parser("simulate", help="simulate a study with known truth, on real anatomy")
    simulate.add_argument("folder", type=Path, metavar="FOLDER", help="the study's new folder")
    simulate.add_argument("--seed", type=_seed, default=7, help="default: %(default)s")
    simulate.add_argument("--voxel-size", type=_positive, default=4.5, metavar="MM", help="default: %(default)s")
    simulate.add_argument("--cohorts", nargs="+", metavar="NAME", help="only these cohorts; default: all")
    simulate.add_argument(
        "--participants",
        type=_positive,
        default=1.0,
        metavar="FACTOR",
        help="people, as a multiple of the demo's",
    )
    simulate.add_argument("--processes", type=_count, default=os.cpu_count() or 1, help="default: %(default)s")
    simulate.add_argument("--masks", action="store_true", help="also write the true brain masks")
    simulate.set_defaults(run=_simulate)

    demo = commands.add_parser("demo", help="simulate a study and run the whole workflow on it")
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="the study's folder")
    demo.add_argument("--cores", type=_count, default=2, help="default: %(default)s")
    demo.set_defaults(run=_demo)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    """The command for own scans."""
    predict = commands.add_parser("predict", help="what weights predict of your own scans, in a table")
    predict.add_argument("--weights", type=Path, required=True, metavar="FILE", help="of a network: .safetensors")
    predict.add_argument(
        "--images", type=Path, required=True, metavar="PATH", help="a BIDS folder, a list of files, or one image"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, such as predictions.tsv")
    predict.add_argument("--engine", choices=["fastsurfer", "builtin", "derivatives"], help="default: of the weights")
    predict.add_argument(
        "--derivatives", metavar="PATTERN", help="existing outputs, such as derivatives/fastsurfer/sub-{participant}"
    )
    predict.add_argument("--work", type=Path, metavar="FOLDER", help="for all other files; default: beside the table")
    predict.add_argument("--cores", type=_count, help="of this machine; default: all")
    predict.add_argument("--profile", metavar="PROFILE", help="as Snakemake's: jobs of the workflow, for many scans")
    predict.add_argument(
        "--configfile", nargs="+", type=Path, default=[], metavar="FILE", help="overrides on top of config/config.yaml"
    )
    predict.add_argument("options", nargs="*", metavar="-- OPTIONS", help="further options of Snakemake")
    predict.set_defaults(run=_predict)


def _add_verify(commands: argparse._SubParsersAction) -> None:
    """The command for the cache."""
    verify = commands.add_parser("verify", help="check every byte of the cache, and that it is up to date")
    _add_study(verify)
    verify.add_argument("--threads", type=_count, default=os.cpu_count() or 1, help="default: %(default)s")
    verify.set_defaults(run=_verify)


def _add_weights(commands: argparse._SubParsersAction) -> None:
    """Commands for files of weights."""
    weights = commands.add_parser("weights", help="files of weights: what one says of itself, and published ones")
    inner = weights.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = inner.add_parser("show", help="print architecture, crop, scaling, targets, preprocessing and training")
    show.add_argument("file", type=Path, metavar="FILE")
    show.set_defaults(run=_show_weights)
    published = inner.add_parser("import", help="make a file of weights from a published network")
    published.add_argument("source", type=Path, metavar="SOURCE", help="the published file")
    published.add_argument("--as", dest="kind", required=True, metavar="KIND", help="docs/weights.md lists the kinds")
    published.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    published.add_argument("--mapping", type=Path, metavar="FILE", help="describes the source, for --as mapping")
    published.add_argument("--crops", type=Path, metavar="FOLDER", help="of images, for ONNX with folded batch norm")
    published.set_defaults(run=_import_weights)
    check = inner.add_parser("check", help="compare with published predictions, and record in the file that it passed")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--crops", type=Path, required=True, metavar="FOLDER", help="of the images")
    check.add_argument(
        "--expected", type=Path, required=True, metavar="TABLE", help="published predictions, CSV or TSV"
    )
    check.add_argument("--tolerance", type=_tolerance, default=0.001, help="in the target's unit; default: %(default)s")
    check.add_argument("--column", metavar="NAME", help="of TABLE, with the first target, if its name is another one")
    check.add_argument("--threads", type=_count, default=os.cpu_count() or 1, help="default: %(default)s")
    check.set_defaults(run=_check_weights)
    export = inner.add_parser("export", help="write weights for other programs, with a model card beside them")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument("--as", dest="form", required=True, choices=["onnx", "torch"])
    export.add_argument("--licence", required=True, help="under which you give the weights away, such as CC-BY-4.0")
    export.add_argument("--out", type=Path, metavar="EXPORT", help="default: FILE with another ending")
    export.add_argument("--images", type=Path, nargs="+", default=[], metavar="IMAGE", help="cropped, for the check")
    export.add_argument("--metrics", type=Path, metavar="TABLE", help="of evaluate; default: metrics.tsv beside FILE")
    export.set_defaults(run=_export_weights)


def _forgotten(chosen: argparse.Namespace) -> list[str]:
    """A line on the option --configfile if it is not there, and a file beside the study seems to belong into it."""
    here = {Path("my-study.yaml"): Path("my-study.yaml"), Path("simulated.json"): REPOSITORY / "config/demo.yaml"}
    found = [str(file) for sign, file in here.items() if sign.is_file()]
    if getattr(chosen, "configfile", None) != [] or not found:
        return []
    return [f"without --configfile it is the paper's study; was this one meant: --configfile {found[0]}"]


class _Parser(argparse.ArgumentParser):
    """A mistake in the options gives one line, as every other mistake does."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(' '.join(message[:500].split()))}; see {self.prog} --help\n")


def _count(text: str) -> int:
    """A whole number of an option, such as of cores."""
    return int(_between(int, text, 1, 1_000_000))


def _seed(text: str) -> int:
    return int(_between(int, text, 0, 2**64 - 1))


def _positive(text: str) -> float:
    return _between(float, text, 0.001, 1e6)


def _tolerance(text: str) -> float:
    return _between(float, text, 1e-9, 1e6)


def _between(kind: Callable[[str], float], text: str, low: float, high: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"it is {text[:40]!r} but must be {what} from {low} to {high:.0f}")
    return value


def _add_study(parser: argparse.ArgumentParser) -> None:
    """The options that name the study, spelled as in Snakemake."""
    parser.add_argument("--directory", "-d", type=Path, default=Path(), help="the study's folder; default: here")
    parser.add_argument(
        "--configfile", nargs="+", type=Path, default=[], metavar="FILE", help="overrides on top of config/config.yaml"
    )


def _enter_study(chosen: argparse.Namespace) -> dict:
    """Go to the study's folder and return its configuration, checked."""
    from .study.configuration import check_config, load_config

    overlays = [path.absolute() for path in chosen.configfile]
    if not chosen.directory.is_dir():
        raise InputError(chosen.directory, "", "there is no such folder", "correct --directory")
    os.chdir(chosen.directory)
    config = load_config(REPOSITORY, overlays)
    check_config(config, REPOSITORY / "workflow/schemas", [REPOSITORY / "config/config.yaml", *overlays])
    if is_open := left_open(set_umask(config)):
        print(f"neurotransfer: {is_open}", file=sys.stderr)
    return config


def _look(chosen: argparse.Namespace) -> None:
    from .manifest.look import look

    print(look(chosen.folder).text())


def _init(chosen: argparse.Namespace) -> None:
    from .manifest.look import start_study
    from .split.pools import feasible_sizes
    from .study.configuration import load_config

    config = load_config(REPOSITORY)

    def feasible(positive: int, negative: int, sizes: Sequence[int], share: float) -> list[int]:
        settings = config["resampling"] | {"validation_share": share, "test_share": share}
        return feasible_sizes(positive, negative, sizes, settings, config["seed"])

    started = start_study(chosen.folders, chosen.directory, feasible)
    for path in started.paths:
        print(f"written: {path}")
    for note in started.notes:
        print(f"note: {note}")
    then = "neurotransfer manifest --configfile my-study.yaml"
    if chosen.directory.resolve() != Path.cwd():
        then = _manifest_command(chosen.directory, started.paths[1])
    print(f"check the guesses in both; then: {then}")


def _manifest_command(folder: Path, configuration: Path) -> str:
    """The command that compiles the manifest of a study in another folder."""
    options = ["--directory", str(folder), "--configfile", str(configuration)]
    return shlex.join(["neurotransfer", "manifest", *options])


def _doctor(chosen: argparse.Namespace) -> int:
    profile = Path(_profile(chosen.profile or "slurm"))
    config = _enter_study(chosen)
    from .operations.doctor import WRONG, examine, text

    findings = examine(config, REPOSITORY, profile)
    print(text(findings))
    return int(any(finding.state == WRONG for finding in findings))


def _manifest(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .manifest.compile import compile_manifest
    from .split.pools import check_pools

    if chosen.wait:
        _wait_for_runs()
    summary = compile_manifest(config, check_pools)
    print(summary.text())
    if summary.withdrawn_shards:
        from .manifest.carrying_out import running
        from .manifest.withdrawal import consequences
        from .study.plan import read_study

        print(consequences(summary.withdrawn_shards, config))
        study = read_study(config)
        concerned = [shard for shard in summary.withdrawn_shards if shard in study.shards]
        if run := running(concerned, study):
            print(
                f"pending: {run} may still write what it has read before; when it has ended, run snakemake: that run "
                "carries the withdrawal out, whatever was written in between"
            )


def _withdraw(chosen: argparse.Namespace) -> int:
    config = _enter_study(chosen)
    from .files import write_text
    from .jobs.lock_note import runs_now
    from .manifest.withdrawal import read_withdrawn
    from .operations.withdrawal_search import STATEMENT, clean_logs, names_of, search, statement
    from .study import layout
    from .study.plan import FROZEN, read_study

    study, withdrawn = read_study(config), read_withdrawn(config["withdrawn"])
    if run := runs_now():
        raise InputError(Path.cwd(), "", f"{run} runs this study", "wait for its end, then give the command again")
    names = names_of(withdrawn)
    if not chosen.verify:
        cleaned = clean_logs(names)
        if cleaned:
            print(f"{counted(cleaned, 'log no longer names', 'logs no longer name')} people who have withdrawn")
        print("now: neurotransfer withdraw --verify")
        return 0
    cores = len(os.sched_getaffinity(0))
    network = _features_again(config, Path(layout.weights(study.run)), cores) if FROZEN in study.further else None
    found = search(study, withdrawn, names, config["preprocessing"]["voxel_size"], cores=cores, network=network)
    print(found.text())
    if not found.is_clean:
        return 1
    write_text(STATEMENT, statement(found, withdrawn, config["study"]))
    print(f"written: {STATEMENT}")
    return 0


def _features_again(config: Mapping[str, Any], weights: Path, cores: int) -> FeaturesAgain:
    """How features of the study's arm frozen are made."""
    from .operations.features_again import FeaturesAgain  # it imports torch

    settings = config["models"]["cnn"]
    return FeaturesAgain(
        weights,
        tuple(config["cache"]["crop"]),
        config["models"]["frozen"],
        settings["batch_size"],
        settings["data_type"],
        cores,
    )


def _same_people(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .manifest.same_people import DEFAULT, add_groups, found_pairs, read_same_people
    from .study import layout
    from .study.consequences import jobs_after_people, listed_by_rule
    from .study.plan import read_study
    from .study.same_people import joined, people_of

    path = config["same_people"]
    if path is None:
        raise InputError("configuration", "same_people", "the study has no list of people", f"set it to {DEFAULT}")
    listed = joined(group.names for group in read_same_people(path))
    if not chosen.add:
        print(f"{path}: {counted(len(listed), 'person', 'people')} with {sum(map(len, listed)):,} participant ids")
        return
    pairs = found_pairs(chosen.add, layout.PAIRS)
    new = [pair for pair in pairs if not any({*pair} <= {*group} for group in listed)]
    if not new:
        print(f"{path}: it has these people already")
        return
    study = read_study(config, stale_too=True)
    there = _participants()
    if gone := {name for group in new for name in group} - there:
        raise InputError(layout.PAIRS, min(gone), "the study has no such participant any more", "leave it out")
    groups = [[name for name in group if name in there] for group in joined([*listed, *new])]  # others have withdrawn
    people = people_of(groups, study.roles)
    print(f"then the next run of snakemake does: {listed_by_rule(jobs_after_people(study, people)) or 'nothing'}")
    if chosen.dry_run:
        return
    add_groups(path, new)
    print(f"written: {path}, {counted(len(new), 'more line')}; now: neurotransfer manifest")


def _participants() -> set[str]:
    from .files import read_dicts
    from .study import layout

    return {row["participant_id"] for row in read_dicts(layout.IMAGES, "participant_id")}


def _wait_for_runs() -> None:
    """Return when no Snakemake holds the lock of this folder."""
    from .jobs.lock_note import runs_now

    said = False
    while run := runs_now():
        if not said:
            print(f"waiting for the end of {run}", file=sys.stderr, flush=True)
            said = True
        time.sleep(2)


def _status(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .operations.status import status_of, watch
    from .preprocess.reasons import MEANINGS
    from .study.plan import check_fresh, read_study

    if chosen.watch:
        try:
            watch(lambda: status_of(read_study(config, stale_too=True)), MEANINGS, chosen.seconds, sys.stdout)
        except KeyboardInterrupt:
            print()
        return
    print(status_of(read_study(config, stale_too=True)).text(MEANINGS))
    try:
        check_fresh(config)
    except InputError as error:  # a stale manifest can still be shown
        print(f"\nnote: {error}")


def _retry(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .operations.retry import mark, retry_of
    from .study.plan import read_study

    retry = retry_of(read_study(config), reason=chosen.reason, cohort=chosen.cohort, images=chosen.image)
    print(retry.text(everything=chosen.list))
    if chosen.dry_run:
        print("nothing is marked (--dry-run)")
    else:
        mark(retry)
        print("marked; the next run of snakemake processes them again")


def _plan(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .operations.plan import forecast
    from .study.plan import read_study

    print(forecast(config, read_study(config), gpus=chosen.gpus, cores=chosen.cores))


def _freeze(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .operations.freeze import freeze
    from .study.plan import read_study

    print(freeze(config, read_study(config)))


def _rehearse(chosen: argparse.Namespace) -> int:
    overlays = [path.absolute() for path in chosen.configfile]
    profile = _profile(chosen.profile or "local")
    config = _enter_study(chosen)
    from .operations.rehearsal import rehearse
    from .operations.rehearsal_sample import FOLDER

    cores = chosen.cores or os.cpu_count() or 1
    options = ["--profile", profile]
    options += [] if chosen.profile else ["--cores", str(cores)]
    report = rehearse(
        config,
        REPOSITORY,
        overlays,
        options=[*options, *chosen.options],
        minutes=chosen.minutes,
        per_cohort=chosen.per_cohort,
        gpus=chosen.gpus,
        cores=cores if chosen.cores else 64,
    )
    print(f"\n{report.text()}\n\npage: {Path(FOLDER, 'rehearsal.html')}")
    return 1 if report.problems else 0


def _preview(chosen: argparse.Namespace) -> None:
    output = chosen.output.resolve() if chosen.output else None
    config = _enter_study(chosen)
    from .files import write_text
    from .report.preview import preview_html
    from .study.plan import read_study

    output = output or Path("preview.html").resolve()
    write_text(output, preview_html(config, read_study(config)))
    print(output)


def _failures(chosen: argparse.Namespace) -> None:
    from .operations.failures import failures_of, report

    print(report(failures_of(chosen.directory), chosen.n, _snakemake_options(chosen)))


def _snakemake_options(chosen: argparse.Namespace) -> list[str]:
    """The options with which Snakemake, called in the current folder, goes on with the study of a command."""
    from .study import layout

    here = Path.cwd() == REPOSITORY
    profile = _profile(chosen.profile or ("slurm" if shutil.which("sbatch") else "local"))
    is_local = Path(profile) == REPOSITORY / "profiles/local"
    if here and Path(profile).is_relative_to(REPOSITORY):
        profile = str(Path(profile).relative_to(REPOSITORY))
    snakefile = [] if here else ["--snakefile", str(REPOSITORY / "Snakefile")]
    cores = ["--cores", str(os.cpu_count() or 1)] if is_local else []
    study = [part for name in ("directory", "configfile") for part in _given(chosen, name)]
    if not chosen.configfile and (own := chosen.directory / layout.PREDICTION).is_file():
        study += ["--configfile", str(own)]
    return [*snakefile, "--profile", profile, *cores, *study]


def _given(chosen: argparse.Namespace, name: str) -> list[str]:
    """An option of this command, spelled for Snakemake; nothing if it has its default."""
    value = getattr(chosen, name)
    values = [str(part) for part in (value if isinstance(value, list) else [value])]
    return [f"--{name}", *values] if values not in ([], ["."]) else []


def _costs(chosen: argparse.Namespace) -> None:
    output = chosen.output.resolve() if chosen.output else None
    config = _enter_study(chosen)
    from .operations.costs import COLUMNS, gather, parts_measured, rows_of_parts, summary
    from .study.plan import read_study
    from .text import aligned, number

    rows = gather(read_study(config), config)
    cells = [["rule", "jobs", "hours", "median s", "max MB", "device"]]
    for row in summary(rows):
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        numbers = [number(row["jobs"]), f"{row['hours']:.2f}", f"{row['median_seconds']:.1f}", memory]
        cells.append([row["rule"], *numbers, row["device"]])
    print(aligned(cells, "lrrrrl"))
    if parts := rows_of_parts(parts_measured(), config):
        print("\n" + aligned([["FastSurfer on an image", "seconds", "share"], *parts], "lrr"))
    if output:
        import pandas as pd

        from .files import write_table

        write_table(pd.DataFrame(rows, columns=COLUMNS), output)


def _simulate(chosen: argparse.Namespace) -> None:
    from .simulation.study import simulate_study

    simulate_study(
        chosen.folder,
        seed=chosen.seed,
        voxel_size=chosen.voxel_size,
        cohorts=chosen.cohorts,
        participants=chosen.participants,
        processes=chosen.processes,
        write_masks=chosen.masks,
    )
    then = _manifest_command(chosen.folder, REPOSITORY / "config/demo.yaml")
    print(f"simulated: {chosen.folder / 'cohorts.tsv'}; then: {then}")


def _demo(chosen: argparse.Namespace) -> int:
    from .simulation.demo import run_demo

    return run_demo(chosen.folder, REPOSITORY, cores=chosen.cores)


def _predict(chosen: argparse.Namespace) -> int:
    from .predict.command import predict

    return predict(
        REPOSITORY,
        weights=chosen.weights.absolute(),
        images=chosen.images,
        out=chosen.out.absolute(),
        engine=chosen.engine,
        derivatives=chosen.derivatives,
        work=chosen.work.absolute() if chosen.work else None,
        cores=chosen.cores,
        profile=_profile(chosen.profile) if chosen.profile else None,
        overlays=[path.absolute() for path in chosen.configfile],
        options=chosen.options,
    )


def _profile(name: str) -> str:
    """The path of a profile: the repository's, or else the one that Snakemake finds; the name if there is none."""
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    folders = (REPOSITORY / "profiles", Path.cwd(), settings / "snakemake", Path("/etc/xdg/snakemake"))
    return next((str(folder / name) for folder in folders if (folder / name).exists()), name)


def _verify(chosen: argparse.Namespace) -> int:
    config = _enter_study(chosen)
    from .cache.verify import verify_cache
    from .study.plan import read_study

    reported = time.monotonic()

    def progress(done: int, shards: int) -> None:
        nonlocal reported
        if time.monotonic() - reported > PROGRESS or done == shards:
            reported = time.monotonic()
            print(f"{done:,} of {shards:,} shards", file=sys.stderr, flush=True)

    study = read_study(config)
    found = verify_cache(study, chosen.threads, progress)
    from .manifest.carrying_out import pending_shards
    from .report.certificate_page import check_page
    from .study import layout

    for mistake in found.mistakes:
        print(mistake)
    print(found.text())
    try:
        check_page(layout.CERTIFICATE_PAGE)
    except InputError as error:  # of the page alone: nothing is wrong with the study
        print(error)
    if pending := pending_shards(study):
        print(f"{PENDING.format(shards=counted(len(pending), 'shard'))}; run snakemake again, which carries it out")
    return 1 if found.mistakes or pending else 0


def _show_weights(chosen: argparse.Namespace) -> None:
    from .pretrain.weight_file import show

    print(show(chosen.file))


def _import_weights(chosen: argparse.Namespace) -> None:
    from .exchange.importing import import_weights

    print(import_weights(chosen.source, chosen.kind, chosen.out, chosen.mapping, chosen.crops))


def _check_weights(chosen: argparse.Namespace) -> int:
    from .exchange.known_answers import check_weights_file

    options = {"tolerance": chosen.tolerance, "column": chosen.column, "threads": chosen.threads}
    check = check_weights_file(chosen.file, chosen.crops, chosen.expected, **options)
    print(check.text())
    return 0 if check.passed else 1


def _export_weights(chosen: argparse.Namespace) -> None:
    from .exchange.exporting import export_weights

    print(export_weights(chosen.file, chosen.form, chosen.out, chosen.licence, chosen.images, chosen.metrics))


if __name__ == "__main__":
    sys.exit(main())
