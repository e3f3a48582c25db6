"""The quantisation schemes, as data. Their names are used everywhere: in Python, on the command line, in file names.

float32         nothing quantised; the reference
float16         weights stored in half precision, arithmetic in float (a GPU uses half precision throughout)
dynamic         weights int8, activations quantised on the fly; no calibration; convolutions may fall back to float
int8            weights and activations int8, input and output int8: for integer-only hardware
int8_float_io   the same inside, float input and output
int16x8         weights int8, activations int16, float input and output
"""

from dataclasses import dataclass

from mobilenets_tf.errors import unknown


@dataclass(frozen=True)
class Scheme:
    """A way to store and compute a network in fewer bits.

    weights: the type in which weights are stored. activations: the type in which the ops compute. io: the type of the
    file's inputs and outputs.
    """

    name: str
    weights: str
    activations: str
    io: str = "float32"

    @property
    def calibrated(self) -> bool:
        """Whether activation ranges, and so calibration images, are needed."""
        return self.activations != "float32"


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", "float32", "float32"),
        Scheme("float16", "float16", "float32"),
        Scheme("dynamic", "int8", "float32"),
        Scheme("int8", "int8", "int8", io="int8"),
        Scheme("int8_float_io", "int8", "int8"),
        Scheme("int16x8", "int8", "int16"),
    )
}


def get(name: str | Scheme) -> Scheme:
    """Find a scheme by its name; a ``Scheme`` is returned as it is.

    Raises:
        RequestError: there is no scheme of that name; the message has the nearest name.
    """
    if isinstance(name, Scheme):
        return name
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
