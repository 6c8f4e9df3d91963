"""One scan or one head under two names is found among simulated heads; heads of different people are not."""

import numpy as np
import pandas as pd
import pytest
from neurotransfer.cache.small_volumes import small_volume, small_voxel
from neurotransfer.simulation.anatomy import image_at
from neurotransfer.split import duplicates
from neurotransfer.split.duplicates import HEAD, NUMBERS, POSE, SCAN
from scipy import ndimage
from scipy.spatial.transform import Rotation

PEOPLE, AGAIN, VOXEL, SHAPE = 120, 25, 4.5, (36, 36, 44)
SETTINGS = {"same_head": 4.0, "chance_pairs": 1, "same_scan": 0.99, "same_pose": 0.3}


def scan_of(person: int, visit: int) -> np.ndarray:
    """A visit's small volume as in the cache; pose, shading, gain, noise and mask edge differ between visits."""
    own = np.random.default_rng((1, person))
    names = ("ventricle", "cortex", "hippocampus", "frontal", "size", "cerebellum")
    latents = dict(zip(names, own.normal(0, 0.7, 6), strict=True))
    now = np.random.default_rng((2, person, visit))
    axes = np.meshgrid(*(np.arange(edge, dtype=float) for edge in SHAPE), indexing="ij")
    voxels = np.stack(axes, -1) - (np.array(SHAPE) - 1) / 2
    points = np.stack([-voxels[..., 0], voxels[..., 2], -voxels[..., 1]], -1) * VOXEL + (0, -18, 8)
    points = (points - now.normal(0, 3, 3)) @ Rotation.from_euler("xyz", now.normal(0, 3, 3), degrees=True).as_matrix()
    image, brain = image_at(points, latents, 1000 + person, VOXEL)
    shading = np.exp((points / 100) @ now.normal(0, 0.08, 3) + ((points / 100) ** 2) @ now.normal(0, 0.08, 3))
    image = np.hypot(image * shading + now.normal(0, 3, SHAPE), now.normal(0, 3, SHAPE))
    edge = ndimage.gaussian_filter(brain.astype(float), 0.7) + ndimage.gaussian_filter(now.normal(0, 0.6, SHAPE), 1)
    image = np.where(edge > 0.5, image, 0)
    return np.clip(image * now.uniform(0.8, 1.0), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def cohort():
    """120 people with one scan each, 25 of them with a second scan on another day; and their heads."""
    volumes = [scan_of(person, 1) for person in range(PEOPLE)] + [scan_of(person, 2) for person in range(AGAIN)]
    return volumes, duplicates.heads_of(volumes, VOXEL, processes=2)


def images_named(names, checksum="c"):
    return pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(len(names))], "participant_id": names, "cohort": "x"}
    ).assign(checksum=checksum)


def planted(pairs, people=PEOPLE):
    """The numbers of pairs that are one person under two names, and of pairs of two persons."""
    numbers = pairs[["image_1", "image_2"]].apply(lambda column: column.str[1:].astype(int)).to_numpy()
    again = numbers[:, 1] - numbers[:, 0] == people
    return int(again.sum()), int((~again).sum())


def test_repeat_scans_are_found_as_one_head_and_strangers_are_not(cohort):
    volumes, heads = cohort
    names = [f"p{k}" for k in range(len(volumes))]  # people with two scans have two names
    pairs, summary = duplicates.find_pairs(heads, images_named(names), volumes, VOXEL, SETTINGS)
    found, false = planted(pairs)
    assert found >= 0.9 * AGAIN
    assert summary["pairs_compared"] == 145 * 144 / 2 > 10_000
    assert false < summary["pairs_compared"] / 10_000
    assert set(pairs["kind"]) == {HEAD} and summary["heads"] == len(pairs)


def test_copies_of_a_scan_in_another_intensity_scale_and_crop_are_all_found_as_one_scan(cohort):
    volumes, heads = cohort
    copies = []
    for number in range(20):
        copy = np.round(volumes[number] * (0.6 + 0.02 * number)) + np.where(volumes[number] > 0, 5.0, 0.0)
        copies.append(np.roll(np.clip(copy, 0, 255).astype(np.uint8), (1, -1, 2), (0, 1, 2)))
    rows = np.concatenate([heads[:PEOPLE], duplicates.heads_of(copies, VOXEL)])
    everything = [*volumes[:PEOPLE], *copies]
    names = [f"p{k}" for k in range(len(everything))]
    pairs, summary = duplicates.find_pairs(rows, images_named(names), everything, VOXEL, SETTINGS)
    scans = pairs[pairs["kind"] == SCAN]
    assert planted(scans) == (20, 0) and summary["scans"] == 20
    assert scans["correlation"].min() > 0.998 and scans["rotation"].max() < 0.1
    assert len(pairs) - len(scans) <= 1, "a third of a pair in 9,730 lies beyond 4 sd by chance"


@pytest.mark.parametrize("size", [8, 20])
def test_a_copy_is_found_in_a_small_study_and_nothing_else(cohort, size):
    volumes, heads = cohort
    chosen = [*range(40, 40 + size), 40]
    names = [f"p{k}" for k in range(size + 1)]
    pairs, _ = duplicates.find_pairs(heads[chosen], images_named(names), [volumes[k] for k in chosen], VOXEL, SETTINGS)
    assert pairs[["image_1", "image_2", "kind"]].to_numpy().tolist() == [["i0", f"i{size}", SCAN]]


def test_two_scans_of_one_participant_are_no_duplicates(cohort):
    volumes, heads = cohort
    names = [f"p{k % PEOPLE}" for k in range(len(volumes))]
    pairs, summary = duplicates.find_pairs(heads, images_named(names), volumes, VOXEL, SETTINGS)
    assert planted(pairs)[0] == 0 and summary["pairs_found"] == len(pairs)


def test_volumes_without_a_head_are_counted_and_left_out(cohort):
    volumes, heads = cohort
    empty, flat = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 7, np.uint8)
    strange = duplicates.heads_of([empty, flat], VOXEL)
    assert strange.shape == (2, NUMBERS) and np.isnan(strange).all()
    everything = [*volumes[:60], empty, flat]
    rows = np.concatenate([heads[:60], strange])
    pairs, summary = duplicates.find_pairs(
        rows, images_named([f"p{k}" for k in range(62)]), everything, VOXEL, SETTINGS
    )
    assert (summary["images"], summary["images_compared"], len(pairs)) == (62, 60, 0)
    few, summary = duplicates.find_pairs(rows[:2], images_named(["a", "b"]), volumes[:2], VOXEL, SETTINGS)
    assert few.empty and summary["least_similarity"] is None


def test_a_head_is_the_same_whatever_its_intensity_scale(cohort):
    volumes, heads = cohort
    dark = duplicates.head_of((volumes[0] // 2).astype(np.uint8), VOXEL)
    strangers = np.linalg.norm(heads[1:PEOPLE, POSE:] - heads[0, POSE:], axis=1)
    assert np.linalg.norm(dark[POSE:] - heads[0, POSE:]) < 0.1 * strangers.min()
    assert np.degrees(np.linalg.norm(dark[:POSE] - heads[0, :POSE])) < 0.2


def test_the_estimated_pose_is_the_simulated_one(cohort):
    """Two visits differ by a rotation that the simulation determines."""
    _, heads = cohort
    for person in range(10):
        angles = [np.random.default_rng((2, person, visit)) for visit in (1, 2)]
        for generator in angles:
            generator.normal(0, 3, 3)
        true = [Rotation.from_euler("xyz", generator.normal(0, 3, 3), degrees=True) for generator in angles]
        found = [Rotation.from_rotvec(heads[row, :POSE]) for row in (person, PEOPLE + person)]
        expected = (true[1].inv() * true[0]).magnitude(), (true[1] * true[0].inv()).magnitude()
        measured = (found[1] * found[0].inv()).magnitude()
        assert np.degrees(min(abs(measured - value) for value in expected)) < 1.0


def test_products_in_blocks_find_the_same_pairs_as_all_products_at_once():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(157, 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    people = generator.integers(0, 60, 157)
    products = rows.astype(float) @ rows.T.astype(float)
    wanted = {(i, j) for i in range(157) for j in range(i + 1, 157) if products[i, j] >= 0.5 and people[i] != people[j]}
    found = duplicates.alike(rows, people, 0.5, block=32)
    assert set(zip(found["first"], found["second"], strict=True)) == wanted
    assert found["product"].is_monotonic_decreasing and found.attrs["found"] == len(wanted)
    best = duplicates.alike(rows, people, 0.5, most=10, block=32)
    pd.testing.assert_frame_equal(best, found.head(10), check_dtype=False)
    assert best.attrs["found"] >= 10


@pytest.mark.parametrize(("voxel", "factor"), [(1.0, 4), (0.8, 5), (2.0, 2), (4.5, 1)])
def test_small_volumes_are_means_of_blocks(voxel, factor):
    image = np.random.default_rng(0).integers(0, 256, (23, 24, 26)).astype(np.uint8)
    small = small_volume(image, voxel)
    assert small.shape == tuple(edge // factor for edge in image.shape) and small.dtype == np.uint8
    assert small_voxel(voxel) == pytest.approx(voxel * factor)
    for voxel_index in [(0, 0, 0), (2, 1, 3), tuple(edge - 1 for edge in small.shape)]:
        block = image[tuple(slice(at * factor, (at + 1) * factor) for at in voxel_index)]
        assert abs(int(small[voxel_index]) - block.mean()) <= 0.51
