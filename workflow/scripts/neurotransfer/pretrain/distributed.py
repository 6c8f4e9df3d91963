"""Several processes that train together, a GPU each: how torchrun starts them, and what they agree on.

Each works on its share of every batch.  Batch norm's statistics come from the whole batch (see normalisation),
and the loss of a share is divided by counts of the whole batch, so that gradients add up over ranks to those
of one process that has the batch to itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from ..errors import InputError
from ..files import read_json, write_json
from ..jobs.job import explain
from ..network.fused_norm import over_all_ranks, ranks

logger = logging.getLogger("neurotransfer")
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def rank() -> int:
    """Which of the processes this one is, from 0; 0 if there is one."""
    return distributed.get_rank() if ranks() > 1 else 0


def passes_of(count: int, accumulate: int) -> list[np.ndarray]:
    """Which images of a batch this rank works on: places in the batch, an array for each of `accumulate` passes.

    Raises
    ------
    InputError
        if the batch is too small to give each rank an image in each pass
    """
    if count < accumulate * ranks():
        what = f"a batch of {count} images is too small for {ranks()} GPUs and {accumulate} passes"
        raise InputError("configuration", "batch_size", what, "raise it, or lower gpus or accumulate")
    return [np.array_split(indices, ranks())[rank()] for indices in np.array_split(np.arange(count), accumulate)]


def share_of(count: int) -> np.ndarray:
    """This rank's of `count` rows; all ranks have as many, and the first rows twice if that is needed."""
    return np.resize(np.arange(count), (-(-count // ranks()), ranks()))[:, rank()]


def gather(outputs: np.ndarray, count: int, device: torch.device) -> np.ndarray:
    """What each rank found for its `share_of(count)`, [share, ...], as one array for all rows, on every rank."""
    if ranks() == 1:
        return outputs
    mine = torch.from_numpy(outputs).to(device)
    everyone = [torch.empty_like(mine) for _ in range(ranks())]
    distributed.all_gather(everyone, mine)
    return torch.stack(everyone, 1).flatten(0, 1)[:count].cpu().numpy()


def add_gradients(parameters: Iterable[Tensor], losses: Tensor, asked: bool) -> Tensor:
    """Sum gradients and losses over ranks, the gradients in place.

    Parameters
    ----------
    losses : this rank's, [losses]
    asked : whether this rank has received a signal to stop

    Returns
    -------
    how many ranks have received a signal to stop, and the sums of the losses: [1 + losses], on the device
    """
    mine = torch.cat([losses.new_full((1,), float(asked)), losses])
    if ranks() == 1:
        return mine
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = over_all_ranks(torch.cat([mine, *(gradient.flatten() for gradient in gradients)]))
    parts = total[len(mine) :].split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return total[: len(mine)]


def any_rank(yes: bool, device: torch.device) -> bool:
    """Whether it is so on any rank; all of them wait for one another here."""
    return over_all_ranks(torch.tensor(float(yes), device=device)).item() > 0


def check_all_have(number: int, device: torch.device) -> None:
    """Stop if ranks begin at different steps, because they would wait for one another for ever."""
    here = torch.tensor([float(number)], device=device)
    if any_rank(over_all_ranks(here.clone()).item() != number * ranks(), device):
        fix = "run the same command again; if that does not help, delete the checkpoints"
        raise InputError("checkpoints", "", "the processes of this training found different ones", fix)


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within, this process is one of those that torchrun started; on a GPU of its own if there are GPUs."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def start(count: int, module: str, facts: Mapping[str, Any], log: str | Path | None = None) -> None:
    """Run ``python -m module`` in `count` processes by torchrun, each with `facts`, and wait for them.

    SIGTERM is passed on, and the processes have 30 seconds to save what they have.

    Parameters
    ----------
    module : that calls `take_part` when it is run
    facts : JSON values
    log : file that the first process writes its log to, after what is there

    Raises
    ------
    InputError, RuntimeError
        what one of the processes has failed with
    SystemExit
        with status 143 after SIGTERM
    """
    with tempfile.TemporaryDirectory(prefix="neurotransfer-") as folder:
        write_json(Path(folder) / "facts.json", {"log": str(log) if log else None, "facts": facts})
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        scripts = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, [scripts, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*torchrun, "-m", module, folder], env=environment, preexec_fn=_end_with_parent)
        asked: list[int] = []

        def pass_on(number: int, _: object) -> None:
            asked.append(number)
            process.send_signal(signal.SIGTERM)

        previous = signal.signal(signal.SIGTERM, pass_on)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
            if process.poll() is None:
                process.terminate()
                process.wait()
        if status == 0:
            return
        causes = [read_json(path) for path in sorted(Path(folder).glob("cause-*.json"))]
    mistakes = [cause["mistake"] for cause in causes if cause["mistake"]]
    if mistakes:
        raise InputError(*mistakes[0])
    if asked or any(cause["status"] == 143 for cause in causes):
        sys.exit(143)
    raise RuntimeError(causes[0]["cause"] if causes else f"torchrun ended with status {status}")


def take_part(work: Any) -> None:
    """What a module that `start` runs does: `work(facts)` as one of the ranks, its failure left for `start`."""
    _end_with_parent()
    folder = Path(sys.argv[1])
    given = read_json(folder / "facts.json")
    number = int(os.environ["RANK"])
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if given["log"] and number == 0:
        handlers.append(logging.FileHandler(given["log"], mode="a", encoding="utf-8"))
    level = logging.INFO if number == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True)
    try:
        with joined():
            work(json.loads(json.dumps(given["facts"])))
    except BaseException as error:
        mistake = [error.file, error.where, error.what, error.fix] if isinstance(error, InputError) else None
        status = error.code if isinstance(error, SystemExit) else 1
        write_json(folder / f"cause-{number}.json", {"cause": explain(error), "mistake": mistake, "status": status})
        sys.exit(status)


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the process that started this one is gone, even by kill -9: nothing is left behind."""
    with contextlib.suppress(OSError, AttributeError):  # another system has no prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
