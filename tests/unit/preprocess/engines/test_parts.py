"""What FastSurfer's work on an image consists of, from the lines of its log; how many images share a GPU, from that."""

import pytest
from neurotransfer.preprocess.engines import containers, fastsurfer
from neurotransfer.preprocess.engines.parts import seconds_in_log, seconds_of_parts
from neurotransfer.study import demands

# The first lines of the parts as 2.4.0-dev prints them, and seconds at which they come.
LINES = [
    (4, "Version: 2.4.0-dev+7c45785"),
    (4.5, "python3 /fastsurfer/FastSurferCNN/run_prediction.py --t1 /input/x.nii.gz --sid x --device auto"),
    (10, "[INFO: run_prediction.py:  561]: Checking or downloading default checkpoints ..."),
    (11, "[INFO: inference.py:  200]: Loading checkpoint /fastsurfer/checkpoints/aparc_vinn_coronal_v2.0.0.pkl"),
    (14, "[INFO: run_prediction.py:  297]: Successfully loaded image from /input/x.nii.gz."),
    (17, "[INFO: run_prediction.py:  374]: Run coronal prediction"),
    (22, "[INFO: inference.py:  469]: Coronal inference on /input/x.nii.gz finished in 5.0000 seconds"),
    (28, "[INFO: inference.py:  469]: Sagittal inference on /input/x.nii.gz finished in 5.2500 seconds"),
    (33, "[INFO: inference.py:  469]: Axial inference on /input/x.nii.gz finished in 5.5000 seconds"),
    (33.5, "[INFO: run_prediction.py:  654]: Creating brainmask based on segmentation..."),
    (37, "INFO: Running N4 bias-field correction..."),
    (57, "python3 /fastsurfer/FastSurferCNN/segstats.py --segfile a.mgz --segstatsfile b.stats"),
    (61, "Partial volume stats for 95 labels written to b.stats."),
    (61, "Calculation took 3.75 seconds using up to 1 threads."),
]
END = 61.5


def logged(lines: list[tuple[float, str]]) -> tuple[bytes, list[tuple[float, int]]]:
    """The text, and its size after each line."""
    text, growth = b"", []
    for seconds, line in lines:
        text += f"{line}\n".encode()
        growth.append((seconds, len(text)))
    return text, [*growth, (END, len(text))]


def without(*words: str) -> list[tuple[float, str]]:
    return [(seconds, line) for seconds, line in LINES if not any(word in line for word in words)]


def test_each_part_lasts_from_its_first_line_to_the_next_parts():
    parts = seconds_of_parts(*logged(LINES))
    assert list(parts) == list(demands.PARTS)
    assert list(parts.values()) == [4.5, 5.5, 4, 3, 16, 4, 20, 4.5]  # the GPU is idle from the last view on
    assert sum(parts.values()) == END


def test_a_part_without_its_line_counts_in_the_one_before():
    parts = seconds_of_parts(*logged(without("N4", "segstats")))
    assert list(parts)[-1] == "masks" and parts["masks"] == END - 33
    assert seconds_of_parts(*logged(without("inference on")))["network"] == 16.5
    assert seconds_of_parts(*logged(without("FastSurferCNN", "INFO"))) == {}  # another version's lines
    assert seconds_of_parts(b"", []) == {}


def test_lines_that_are_read_at_once_have_one_time():
    text, growth = logged(LINES)
    parts = seconds_of_parts(text, [growth[0], growth[7], growth[-1]])
    assert (parts["start"], parts["import"], parts["network"]) == (28, 0, END - 28)


def test_a_log_without_times_still_has_the_networks_and_the_statistics():
    assert seconds_in_log(logged(LINES)[0].decode()) == {"network": 15.75, "statistics": 3.75}
    assert seconds_in_log("nothing of that kind") == {}


PARTS = {"start": 25.0, "network": 5.0, "bias field": 30.0, "statistics": 5.0}
MINUTE = {"start": 20.0, "network": 16.0, "bias field": 20.0, "statistics": 4.0}


@pytest.mark.parametrize(
    ("changes", "at_once", "seconds"),
    [
        ({"measured": MINUTE}, 4, 16),  # the network takes 16 s of it
        ({"measured": MINUTE, "volumes": False}, 3, 16),
        ({"measured": MINUTE, "images_at_once": 2}, 2, 30),
        ({"measured": MINUTE, "images_at_once": 1}, 1, 60),
        ({"measured": MINUTE, "threads": 1}, 2, 44),  # the cores are busy, and the GPU is not
        ({"measured": PARTS}, 4, 20),
        ({"measured": PARTS, "threads": 20}, 8, 65 / 8),  # what a node's memory allows
        ({"measured": PARTS, "threads": 20, "max_mem_mb": 24000}, 3, 65 / 3),
        ({"measured": PARTS, "volumes": False}, 4, 25 / 3),
        ({"measured": {"network": 9.0}}, 1, 9),
    ],
)
def test_the_images_at_once_are_the_fewest_that_keep_gpu_or_cores_busy(changes, at_once, seconds):
    settings = {
        "engine": "fastsurfer", "gpus": 1, "threads": 3, "images_at_once": None, "max_mem_mb": 64000, "time_limit": None
    } | changes  # fmt: skip
    assert demands.demand(settings).at_once == at_once
    assert demands.seconds_per_image(settings) == pytest.approx(seconds)
    if not settings["images_at_once"] and at_once > 1:  # one fewer would take longer
        fewer = demands.seconds_per_image(settings | {"images_at_once": at_once - 1})
        assert fewer > demands.seconds_per_image(settings)


@pytest.mark.parametrize(("given", "memory", "at_once"), [(None, "11019", 2), (None, "4000", 1), (3, "4000", 3)])
def test_a_small_gpu_gets_fewer_images_unless_the_configuration_says_how_many(
    tmp_path, monkeypatch, given, memory, at_once
):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$3 $4" = "-i GPU-1" ] && echo {memory}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-2")
    own = {"version": "2.5.0", "runs_in": "native", "image": None, "script": None, "license": None}
    settings = {"engine": "fastsurfer", "gpus": 1, "threads": 3, "max_mem_mb": 64000, "fastsurfer": own}
    engine = fastsurfer.FastSurfer(settings | {"images_at_once": given, "voxel_size": 1.0}, tmp_path)
    engine._fit_to_gpu()
    assert engine.at_once == at_once
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    assert containers.gpu_memory_mb() is None


def test_a_rehearsals_parts_are_taken_and_a_damaged_file_is_not(tmp_path):
    path = tmp_path / "costs.json"
    assert demands.as_measured({"a": 1}, path) == {"a": 1}
    path.write_text('{"preprocess": {"seconds": 3, "parts": {"network": 2.0, "start": 1.0}}}')
    assert demands.as_measured({"a": 1}, path) == {"a": 1, "measured": {"network": 2.0, "start": 1.0}}
    for parts in ("{}", "[1]", '{"network": 0}', '{"network": "x"}', "3"):
        path.write_text(f'{{"preprocess": {{"parts": {parts}}}}}')
        assert demands.as_measured({"a": 1}, path) == {"a": 1}
    for text in ("{", "[]", '{"preprocess": {"seconds": 3}}'):
        path.write_text(text)
        assert demands.as_measured({"a": 1}, path) == {"a": 1}
