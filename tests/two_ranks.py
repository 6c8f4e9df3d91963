"""One of two ranks that share a batch of five images unevenly: gradients and statistics of both, and of one alone.

python two_ranks.py FOLDER RANK
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "workflow/scripts"))
from neurotransfer.network.sfcn import SFCN
from torch import distributed

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
images, target = torch.rand(5, 1, 17, 16, 18, dtype=torch.double) * 255, torch.randn(5, 2, dtype=torch.double)


def trained(mine: slice) -> dict[str, torch.Tensor]:
    """Gradients and buffers after a step on these images."""
    torch.manual_seed(1)
    network = SFCN([16, 4, 5], 4, 2, "average", 0.0).double()
    (network(images[mine]) - target[mine]).square().sum().backward()
    return {name: value.grad for name, value in network.named_parameters()} | dict(network.named_buffers())


alone = trained(slice(None))
alone["largest gradient"] = max(value.abs().max() for value in alone.values())
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
together = trained(slice(0, 2) if rank == 0 else slice(2, 5))
for name, value in together.items():
    if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
        distributed.all_reduce(value)
together["largest gradient"] = alone["largest gradient"]
if rank == 0:
    torch.save(alone, folder / "alone.pt")
    torch.save(together, folder / "together.pt")
distributed.destroy_process_group()
