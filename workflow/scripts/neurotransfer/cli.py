"""The console command `neurotransfer`: what a person does before, during and beside a run."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import __version__
from .errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRESS = 10.0  # seconds between two lines about how far a long command is


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a person's mistake is one line on standard error and exit status 2."""
    parser = argparse.ArgumentParser(prog="neurotransfer", description="Is pretraining worth it for a small study?")
    parser.add_argument("--version", action="version", version=f"neurotransfer {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    manifest = commands.add_parser("manifest", help="compile cohorts and BIDS folders into images and shards")
    _add_study(manifest)
    manifest.set_defaults(run=_manifest)

    simulate = commands.add_parser("simulate", help="make a study on real anatomy whose truth is known")
    simulate.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes; cohorts.tsv names it")
    simulate.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    simulate.add_argument("--voxel-size", type=float, default=4.5, metavar="MM", help="default: %(default)s")
    simulate.add_argument("--cohorts", nargs="+", metavar="NAME", help="only these of its cohorts; default: all")
    simulate.add_argument(
        "--participants", type=float, default=1.0, metavar="FACTOR", help="times as many people as the demo's study"
    )
    simulate.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    simulate.add_argument("--masks", action="store_true", help="also write the true brain masks")
    simulate.set_defaults(run=_simulate)

    demo = commands.add_parser("demo", help="simulate a study and run the whole workflow on it")
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="where it goes")
    demo.add_argument("--cores", type=int, default=2, help="default: %(default)s")
    demo.set_defaults(run=_demo)

    verify = commands.add_parser("verify", help="check every byte of the cache, and that nothing in it is stale")
    _add_study(verify)
    verify.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    verify.set_defaults(run=_verify)

    weights = commands.add_parser("weights", help="look into a file of weights")
    inner = weights.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = inner.add_parser("show", help="print architecture, crop, scaling, targets, preprocessing and training")
    show.add_argument("file", type=Path, metavar="FILE")
    show.set_defaults(run=_show_weights)

    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen) or 0
    except InputError as error:
        print("\n".join(f"neurotransfer: {line}" for line in getattr(error, "lines", [str(error)])), file=sys.stderr)
        return 2
    except OSError as error:
        from .jobs import explain

        print(f"neurotransfer: {explain(error)}", file=sys.stderr)
        return 2


def _add_study(parser: argparse.ArgumentParser) -> None:
    """The options that say which study is meant, spelled as Snakemake spells them."""
    parser.add_argument("--directory", "-d", type=Path, default=Path(), help="the study's folder; default: here")
    parser.add_argument(
        "--configfile", nargs="+", type=Path, default=[], metavar="FILE", help="overrides on top of config/config.yaml"
    )


def _enter_study(chosen: argparse.Namespace) -> dict:
    """Go to the study's folder and return its configuration, checked."""
    from .configuration import check_config, load_config

    overlays = [path.resolve() for path in chosen.configfile]
    if not chosen.directory.is_dir():
        raise InputError(chosen.directory, "", "there is no such folder", "correct --directory")
    os.chdir(chosen.directory)
    config = load_config(REPOSITORY, overlays)
    check_config(config, REPOSITORY / "workflow/schemas", [REPOSITORY / "config/config.yaml", *overlays])
    return config


def _manifest(chosen: argparse.Namespace) -> None:
    config = _enter_study(chosen)
    from .manifest import compile_manifest

    print(compile_manifest(config).text())


def _simulate(chosen: argparse.Namespace) -> None:
    from .simulation import simulate_study

    simulate_study(
        chosen.folder,
        seed=chosen.seed,
        voxel_size=chosen.voxel_size,
        cohorts=chosen.cohorts,
        participants=chosen.participants,
        processes=chosen.processes,
        write_masks=chosen.masks,
    )


def _demo(chosen: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(chosen.folder, REPOSITORY, cores=chosen.cores)


def _verify(chosen: argparse.Namespace) -> int:
    config = _enter_study(chosen)
    from .study import read_study
    from .verification import verify_cache

    told = time.monotonic()

    def progress(done: int, shards: int) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS or done == shards:
            told = time.monotonic()
            print(f"{done:,} of {shards:,} shards", file=sys.stderr, flush=True)

    found = verify_cache(read_study(config), chosen.threads, progress)
    for mistake in found.mistakes:
        print(mistake)
    print(found.text())
    return 1 if found.mistakes else 0


def _show_weights(chosen: argparse.Namespace) -> None:
    from .weights import show

    print(show(chosen.file))


if __name__ == "__main__":
    sys.exit(main())
