"""The authors' network in Keras, with random weights: run by hand, it writes the checkpoints that the tests read.

    python tests/keras_sfcn.py FOLDER

needs tensorflow, which neither the workflow nor its tests need.  The files `tests/unit/exchange/keras.*` are of
tensorflow 2.21 and Keras 3.15.
"""

import sys
from pathlib import Path

import numpy as np

TARGETS = ("age", "sex", "handedness", "bmi", "fluid_intelligence", "neuroticism")
FILTERS = (2, 3, 2, 3, 2, 4)


def images():
    """Two images of 32³ voxels, float32, as the network takes them."""
    coarse = np.random.default_rng(5).integers(0, 256, (2, 8, 8, 8))
    return np.kron(coarse, np.ones((1, 4, 4, 4))).astype(np.float32)


def write(path):
    """Train the network for two steps, write its checkpoint, and return its predictions, [images, targets]."""
    import tensorflow as tf
    from tensorflow.keras import layers

    tf.keras.utils.set_random_seed(1)
    name = "SFCNMulti"
    inputs = layers.Input((32, 32, 32), name=f"{name}_inputs")
    x = layers.Reshape((32, 32, 32, 1), name=f"{name}_expand-dims")(inputs)
    for at, width in enumerate(FILTERS):
        last = at == len(FILTERS) - 1
        block = "top" if last else f"block-{at}"
        x = layers.Conv3D(width, 1 if last else 3, padding="same", name=f"{name}_{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{name}_{block}_norm")(x)
        x = layers.Activation("relu", name=f"{name}_{block}_activation")(x)
        pool = layers.GlobalMaxPooling3D(name=f"{name}_top_pool") if last else layers.MaxPooling3D(2)
        x = pool(x)
    heads = [
        layers.Dense(1, "sigmoid" if target in ("sex", "handedness") else None, name=f"{name}_predictions_{target}")(x)
        for target in TARGETS
    ]
    model = tf.keras.Model(inputs, layers.Concatenate()(heads))
    model.compile("adam", "mse")
    model.fit(images(), np.full((2, 6), 0.3), epochs=2, verbose=0)
    tf.train.Checkpoint(model).write(str(path))
    return model.predict(images(), verbose=0)


if __name__ == "__main__":
    predicted = write(Path(sys.argv[1], "keras"))
    np.savetxt(Path(sys.argv[1], "keras.tsv"), predicted, "%.9g", "\t", header="\t".join(TARGETS), comments="")
