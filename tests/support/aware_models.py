"""What an aware model answers, computed as in training: in a graph, which TensorFlow rewrites."""

import tensorflow as tf

from mobilenets_tf.quantize.qat.integer_arithmetic import not_converted


def graph_answers(model, pictures):
    """The outputs for a batch, without the time in which ``predict`` turns Python into TensorFlow."""
    return tf.nest.flatten(tf.function(not_converted(lambda images: model(images, training=False)))(pictures))
