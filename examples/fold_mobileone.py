"""Train with MobileOne's branches, ship one convolution for each: fold a model that has a MobileOne inside.

python examples/fold_mobileone.py
"""

import keras
import numpy as np
from keras import layers

from mobilenets_tf import MobileOneMu0, counts, export, reparameterize

backbone = MobileOneMu0(input_shape=(64, 64, 3), include_top=False, pooling="avg", branches=2)
inputs = keras.Input((64, 64, 3), name="photo")
model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="kind")(backbone(inputs)), name="my_model")

# A few steps, so that the BatchNorm statistics are no longer those of a new model.
random = np.random.default_rng(0)
photos, kinds = random.uniform(-1, 1, (16, 64, 64, 3)).astype(np.float32), random.integers(0, 3, 16)
model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)  # for so few steps no graph
model.fit(photos, kinds, epochs=2, batch_size=8, verbose=0)

folded = reparameterize(model)
difference = np.abs(folded.predict(photos, verbose=0) - model.predict(photos, verbose=0)).max()
before, after = counts(model), counts(folded)
print(f"largest difference of an output  {difference:.1e}")
print(f"multiply-adds                    {before['macs']:,} -> {after['macs']:,}")
print(f"parameters                       {before['params_total']:,} -> {after['params_total']:,}")
assert difference < 1e-5

# Exporting folds by itself; the file equals the model that was trained.
result = export.to_tflite(model, "float32", overwrite=True)
print("\n".join([str(result.path), *export.verify(result.path, model, photos).lines()]))
