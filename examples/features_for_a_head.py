"""A backbone's features by stride, for a detection or segmentation head of your own.

python examples/features_for_a_head.py
"""

import keras
from keras import layers

import mobilenets_tf


def main():
    # output_stride 16: the last stage keeps the resolution and is dilated instead, as segmentation wants it.
    backbone = mobilenets_tf.create_model("mobilenet_v2", resolution=224, include_top=False, output_stride=16)
    features = mobilenets_tf.features(backbone)
    for stride, tensor in features.items():
        print(f"stride {stride:>2}: {tuple(tensor.shape[1:])}")
    fine = layers.Conv2D(21, 1, name="fine")(features[8])
    coarse = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(21, 1, name="coarse")(features[16]))
    model = keras.Model(backbone.inputs, layers.Add()([fine, coarse]), name="tiny_segmenter")
    print(f"{model.name}: {tuple(model.output.shape[1:])}, {model.count_params():,} parameters")


if __name__ == "__main__":
    main()
