"""Volumes between their voxels: byte by byte what scipy gives."""

import numpy as np
import pytest
from neurotransfer.preprocess.engines import interpolation
from scipy import ndimage

RANDOM = np.random.default_rng(5)
SHAPE = (13, 9, 11)


def volumes(order: str = "C") -> list[np.ndarray]:
    return [np.asarray(RANDOM.normal(size=SHAPE), np.float32, order=order) for _ in range(3)]


@pytest.fixture(params=[7, 8192], ids=["many pieces", "one piece"], autouse=True)
def pieces(request, monkeypatch):
    monkeypatch.setattr(interpolation, "PIECE", request.param)


@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_those_of_map_coordinates_within_on_and_outside_of_the_border(order):
    maps = volumes(order)
    indices = RANDOM.uniform(-2, 14, (3, 5000))
    indices[:, :1000] = np.round(indices[:, :1000])  # on voxels, and on the border
    indices[:, 1000:1003] = np.array([[0, 12, 12 + 1e-12], [0, 8, 0], [-1e-12, 10, 0]])
    expected = [ndimage.map_coordinates(values, indices, order=1, mode="constant") for values in maps]
    found = interpolation.values_at(maps, indices)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_a_point_without_a_place_has_no_value():
    indices = np.array([[np.nan, 1.5, np.inf, -1e30], [1, 2, 3, 4], [1, 2, 3, 4]])
    assert interpolation.values_at(volumes(), indices)[:, [0, 2, 3]].tolist() == [[0, 0, 0]] * 3


@pytest.mark.parametrize("shape", [(8, 12, 10), (30, 20, 25), (1, 1, 1)])
def test_a_transformed_volume_is_that_of_affine_transform(shape):
    maps = volumes()
    for values in maps:
        values[:4] = values[:, 7:] = 0  # the work on these is left out
    filled = interpolation.occupied(maps)
    assert 0 < filled.mean() < 0.8
    for _ in range(5):
        mapping = np.eye(4)
        mapping[:3, :3] += RANDOM.normal(0, 0.2, (3, 3))
        mapping[:3, 3] = RANDOM.normal(0, 2, 3)
        expected = [
            ndimage.affine_transform(values, mapping[:3, :3], mapping[:3, 3], shape, order=1) for values in maps
        ]
        assert np.array_equal(interpolation.transformed(maps, filled, mapping, shape), expected)
