"""The model that a command works on: a registered network, a file or a ``keras.Model``, and the model's input."""

import hashlib
import os
import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mobilenets_tf import registry
from mobilenets_tf.conversion.frozen_graph import FrozenGraph
from mobilenets_tf.conversion.own_normalisation import own_normalisation
from mobilenets_tf.conversion.rewriting import is_functional
from mobilenets_tf.conversion.traced import saved_model
from mobilenets_tf.conversion.traced.keras2_file import frozen_keras2_file
from mobilenets_tf.conversion.traced.keras_objects import frozen_keras, is_stock
from mobilenets_tf.data.preprocessing import CHANNELS, Preprocessing, Size, image_shape, shown_size
from mobilenets_tf.data.text_files import read_lines, shown
from mobilenets_tf.errors import RequestError
from mobilenets_tf.files import digest_of_files, sha256_of
from mobilenets_tf.manifest import manifest_of
from mobilenets_tf.models.float_model import FloatModel
from mobilenets_tf.models.keras_model import KerasModel
from mobilenets_tf.models.tflite_model import TFLiteModel
from mobilenets_tf.models.traced_model import TracedModel
from mobilenets_tf.networks.plan import Plan
from mobilenets_tf.progress import Progress, silent
from mobilenets_tf.public_api.types import check_fields
from mobilenets_tf.tasks import task_of
from mobilenets_tf.tflite.file_metadata import read_metadata
from mobilenets_tf.tflite.foreign.intake import check_taken
from mobilenets_tf.weights import catalog, fetching, keras2, load, saved_models
from mobilenets_tf.worker import Worker, WorkerError

# In ``ModelSource.weights``: random weights are wanted.
RANDOM = "random"
TFLITE = ".tflite"
# The forms of a detector's and a segmenter's files whose outputs are the network's own.
OWN_FORMS = ("raw", "stride")
_OF_NETWORKS = ("weights", "alpha", "classes", "fetch")
# What to do where nothing says how the pixels become a model's input.
NORMALISATION = (
    "Pass --mean and --std in pixel values (in Python: ModelSource(..., mean=, std=)): --mean 127.5 --std 127.5 for "
    "[-1, 1], --mean 0 --std 255 for [0, 1], --mean 0 --std 1 where the model rescales by itself."
)


@dataclass(frozen=True)
class ModelSource:
    """The model that a command works on; plain data, so that a child process can receive it.

    model: a registry name; the path of a ``.keras`` or full-model ``.h5`` or ``.hdf5`` file, of a float ``.tflite``
        file or of a SavedModel folder; or a model of Keras 3 or of Keras 2 (tf_keras), of any class that TensorFlow
        can trace.
    weights, alpha, classes: for a registered network, as in ``create_model``; the number of classes is that of a weight
        file where it is left out. weights may also be "random". None gives random weights too, but is taken for an
        oversight: verbs that need trained weights warn of it.
    resolution: height and width of the input in pixels: one number, or (height, width). Of a registered network by
        default the published one; of a file or an object it fixes the sides that the model leaves open.
    mean, std: of the input, in pixel values 0-255, one number, or one for each channel; for a file without a manifest.
        A ``.keras`` file that was trained here has a manifest beside it, with mean and std. A Keras model that
        normalises by itself is noticed.
    labels: a text file with one class name a line; for a file without a manifest.
    signature: of a ``.tflite`` file or a SavedModel folder with several signatures, the key of the one to take.
    crop, resize, interpolation: how a photograph becomes the input, as in ``Preprocessing``; None: as the
        manifest or the published weight set says, else the whole photograph, as Keras' own loaders do.
    fetch: fetch published weights that are not on this machine; False downloads nothing.
    content: of a model object: its ``.keras`` file, or its frozen graph where no other process could load that file;
        ``model`` is then the object's name. See ``of``.
    """

    model: str
    weights: str | None = None
    alpha: float | None = None
    resolution: Size | None = None
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: str | None = None
    crop: str | None = None
    resize: int | None = None
    interpolation: str | None = None
    fetch: bool = False
    signature: str | None = None
    content: bytes | FrozenGraph | None = field(default=None, repr=False)

    def __post_init__(self):
        given: Any = self.model
        if _is_keras(given):
            object.__setattr__(self, "model", given.name)
        elif not isinstance(given, (str, os.PathLike)):
            raise RequestError(
                f"Received {type(given).__name__} for a model; expected a registry name, the path of a model "
                "file or a SavedModel folder, a keras.Model or a ModelSource."
            )
        if _is_keras(self.weights):
            raise RequestError(
                "The weights of a ModelSource are a tag or a file. Put the model's weights into the network first: "
                f"create_model({str(self.model)!r}, weights=model), and give what comes out."
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                object.__setattr__(self, name, (value,))
            elif value is not None:
                object.__setattr__(self, name, tuple(value))
        check_fields(self)
        if isinstance(self.resolution, tuple) and self.resolution[0] == self.resolution[1]:
            object.__setattr__(self, "resolution", self.resolution[0])
        if _is_keras(given):
            object.__setattr__(self, "content", _portable(given, self.resolution))

    @staticmethod
    def of_facts(facts: dict) -> "ModelSource | None":
        """Make the source that ``facts`` describes in a manifest; None for a ``keras.Model`` object, which is gone."""
        values: dict[str, Any] = {each.name: facts[each.name] for each in fields(ModelSource) if each.name in facts}
        if values.get("model") is None:
            return None
        source = ModelSource(**values)
        if not source.is_file and source.weights is None and "weights_sha256" in facts:
            return None  # the object had the name of a registered network
        return source if source.is_file or source.model in registry.list_models() else None

    @staticmethod
    def of(model) -> "ModelSource":
        """Make the source of a model: of a registry name, a path, a ``keras.Model`` object, or a ``ModelSource``.

        Raises:
            RequestError: ``model`` is none of these.
        """
        return model if isinstance(model, ModelSource) else ModelSource(model)

    @property
    def is_file(self) -> bool:
        """Whether the model is a file, or an object, rather than a registered network."""
        if self.content is not None or Path(self.model).suffix in (*saved_models.SUFFIXES, TFLITE):
            return True
        # Whatever else is a path is no name, and whoever opens it says what it is.
        is_path = os.sep in self.model or os.path.exists(self.model)
        return is_path and self.model not in registry.list_models()

    @property
    def is_tflite(self) -> bool:
        """Whether the model is a TFLite file, which needs no TensorFlow."""
        return self.content is None and Path(self.model).suffix == TFLITE and not self.is_saved_model

    @property
    def is_saved_model(self) -> bool:
        """Whether the model is a SavedModel folder."""
        return self.content is None and saved_model.is_saved_model(Path(self.model))

    @property
    def _is_graph(self) -> bool:
        """Whether the model is a graph, without layers."""
        return self.is_tflite or self.is_saved_model or isinstance(self.content, FrozenGraph)

    @property
    def preload(self) -> str:
        """The library that a ``Worker`` needs to work on the model; empty for a TFLite file."""
        return "" if self.is_tflite else "tensorflow"

    @property
    def task(self) -> str:
        """The task of the network, one of ``registry.TASKS``; "classify" for a file whose manifest names no task."""
        if self.is_file:
            return self._manifest().get("task", "classify")
        return registry.get(self.model).task

    @property
    def plan(self) -> Plan | None:
        """The plan of the network: a registered network's, or what the manifest of a file says of it. None where
        nothing says which network a file has.

        Raises:
            RequestError: the manifest is damaged.
        """
        if not self.is_file:
            given = {name: getattr(self, name) for name in ("alpha", "resolution", "classes")}
            return Plan(self.model, {name: value for name, value in given.items() if value is not None})
        manifest = self._manifest()
        if "plan" in manifest:
            return Plan.of_plain(manifest["plan"], f"The plan in {self.model}.json")
        known = ModelSource.of_facts(manifest.get("model") or {})
        return None if known is None or known.is_file else known.plan

    @property
    def says_its_task(self) -> bool:
        """Whether the network is registered, or a manifest beside its file names its task."""
        return not self.is_file or "task" in self._manifest()

    @property
    def void(self) -> int:
        """The value of pixels of no class in the masks that a segmenter was trained on; 255 if not known."""
        return self._manifest().get("options", {}).get("void", 255) if self.is_file else 255

    @property
    def name(self) -> str:
        """The name that the names of the result's files begin with.

        The names of files get into shell commands, Kotlin and HTML. So everything but letters, digits, "_", "-", "+"
        and "." becomes "_".
        """
        name = Path(self.model).stem if self.is_file and self.content is None else self.model
        name = re.sub(r"[^\w.+-]", "_", name).lstrip(".-") or "model"
        return name if self.alpha in (None, 1.0) else f"{name}_{self.alpha}"

    @property
    def random_part(self) -> str | None:
        """The part of a registered network whose weights are random: "network" without weights, "head" with published
        weights of another task or other classes; else None."""
        if self.is_file:
            return None
        if self._is_random:
            return "network"
        if self._weight_file is None:
            return "head" if self.classes not in (None, 1000) or registry.get(self.model).backbone else None
        if registry.get(self.model).backbone:
            in_file = load.head_classes_in(self._weight_file)
        else:
            in_file = load.classes_in(self._weight_file, self.model)
        return None if in_file is not None and self.classes in (None, in_file) else "head"

    @property
    def _is_random(self) -> bool:
        return not self.is_file and self.weights in (None, RANDOM)

    @property
    def _weight_file(self) -> Path | None:
        """The weight file of a registered network; None for random weights and for published ones."""
        file = None if self.is_file or self.weights in (None, RANDOM) else Path(str(self.weights))
        return file if file and file.is_file() else None

    @property
    def says_its_input(self) -> bool:
        """Whether the normalisation of the input is known."""
        return self.mean is not None or self.weight_set() is not None or self._manifest_preprocessing() is not None

    def check(self, may_be_random: bool = False, in_keras: bool = False) -> None:
        """Refuse a source that cannot be built, without importing TensorFlow; warn of random weights that nobody has
        asked for. Nothing is fetched: see ``fetch_weights``.

        Args:
            may_be_random: do not warn, since the model is going to be trained or random weights are refused elsewhere.
            in_keras: a Keras model with layers is needed, at the model's own size: a graph is refused, and for a file
                ``resolution``.

        Raises:
            RequestError: the name is unknown, a value is out of range, or a file or weight set is not here and is not
                to be fetched.
        """
        if self.is_file:
            if self._is_graph and in_keras:
                raise self._is_graph_error()
            if in_keras and self.resolution is not None:
                raise RequestError(
                    f"--resolution {shown_size(self.resolution)} (resolution=): training takes {self.model} at its "
                    "own size. Leave the option out; for another size build the model again, with "
                    "keras.Input((height, width, 3))."
                )
            if self.is_tflite:
                check_taken(self.model, self.resolution, self.signature)
                self._check_form()
            elif self.content is None and not self.is_saved_model:
                saved_models.check_kind(Path(self.model))
            for option in _OF_NETWORKS:
                if getattr(self, option) not in (None, False):
                    raise RequestError(f"--{option} ({option}=) is for registered networks; {self.model} has its own.")
        else:
            registry.check_size(registry.get(self.model), self.alpha, self.resolution)
            if self.weights not in (None, RANDOM) and not Path(self.weights).is_file():
                if Path(self.weights).suffix:
                    raise RequestError(f"No such weight file: {self.weights}")
                _published(self)
            if not may_be_random and self.classes is None and self.random_part == "head" and self._weight_file:
                self._check_head()
        if self.signature is not None and not (self.is_tflite or self.is_saved_model):
            raise RequestError(
                f"--signature (signature=) is for .tflite files and SavedModel folders; {self.model} is neither."
            )
        self.check_input()
        self.check_labels()
        if self.fetch:
            fetching.check_is_tag(self.weights)
        elif self._is_published:
            catalog.require(_published(self))
        if not may_be_random:
            self._warn_of_random_weights()

    def fetch_weights(self, progress: Progress = silent) -> None:
        """Fetch the published weights, if that was asked for and they are not on this machine. To be called when
        everything else of a request has been checked.

        Raises:
            RequestError: the weights cannot be fetched.
        """
        if self.fetch:
            fetching.fetch_tag(self.model, self.weights, self.alpha, progress)

    @property
    def _is_published(self) -> bool:
        return not self.is_file and not self._is_random and self._weight_file is None

    def _check_form(self) -> None:
        """Refuse a detector's or segmenter's file whose outputs are no longer the network's own."""
        form = self._manifest().get("form")
        if form not in (None, *OWN_FORMS):
            raise RequestError(
                f"{self.model} gives its answers in the form {form!r}, to which no other form can be added. Give the "
                f"file of the form {' or '.join(map(repr, OWN_FORMS))} (deploy --scheme float32 --output ...)."
            )

    def _is_graph_error(self) -> RequestError:
        if self.content is None:
            return RequestError(saved_models.not_a_model(Path(self.model)))
        return RequestError(
            f"{self.model} is a model whose layers only its own process knows, and training needs layers: expected a "
            "functional or sequential Keras 3 model of stock layers. (The verbs that make or judge files take it, and "
            "qat trains it.)"
        )

    def _check_head(self) -> None:
        """Refuse a weight file without a classifier, unless the request says how many classes the classifier has."""
        if registry.get(self.model).backbone is None:
            raise RequestError(
                f"{self.weights} has no classifier, so the answers of {self.model} would mean nothing. Train the "
                f"network first (mobilenets-tf train --model {self.model} --weights {self.weights}), or pass --classes "
                "for a classifier with random weights."
            )

    def check_input(self) -> None:
        """Refuse wrong values of mean, std, crop, resize and interpolation.

        Raises:
            RequestError: a name is unknown, a number is out of range, or mean and std are not given together.
        """
        if (self.mean is None) != (self.std is None):
            raise RequestError("Give --mean and --std together (mean=, std=): the input is (pixel - mean) / std.")
        if self.resize is not None and self.resize < 1:
            raise RequestError(f"resize={self.resize}: expected a number of pixels.")
        self.asked(Preprocessing())

    def check_labels(self) -> None:
        """Refuse a file of labels that is not there, cannot be read or is empty.

        Raises:
            RequestError: so it is.
        """
        if self.labels is None:
            return
        if not os.path.isfile(self.labels):
            raise RequestError(f"No such labels file: {shown(self.labels)}")
        if not read_lines(self.labels):
            raise RequestError(f"{self.labels} is empty; expected one class name a line.")

    def asked(self, known: Preprocessing | None) -> Preprocessing | None:
        """Return the preprocessing that is known of the model, with what the request says otherwise (except ``resize``,
        which needs the size of the input: see ``Preprocessing.at``). None: nothing says how the input is normalised.

        Raises:
            RequestError: a name is unknown, or a number is out of range.
        """
        if known is None and self.mean is None:
            return None
        known, changes = known or Preprocessing(), dict[str, Any]()
        if self.mean is not None and self.std is not None:
            count = max(len(self.mean), len(self.std))
            count = known.channels if count == 1 else count
            changes |= {"mean": channel_values(self.mean, count), "std": channel_values(self.std, count)}
        if self.interpolation is not None:
            changes["interpolation"] = self.interpolation
        if self.crop is not None:
            changes |= {"crop": self.crop, "resize": None if self.crop == "stretch" else known.resize}
        return replace(known, **changes)

    def _warn_of_random_weights(self) -> None:
        if self.random_part == "head":
            warnings.warn(
                f"RANDOM HEAD: {self.weights!r} has weights for the backbone of {self.model} alone, not for its "
                f"{'head' if self.classes is None else f'{self.classes} classes'}, so its answers mean nothing. "
                "Train the network first (mobilenets-tf train), and give the .keras file that comes out.",
                stacklevel=3,
            )
        elif self.random_part == "network" and self.weights is None:
            alpha, records = self.alpha or 1.0, catalog.weight_sets(self.model)
            tags = dict.fromkeys(record.tag for record in records if record.alpha in (None, alpha))
            published = "" if registry.get(self.model).backbone else "".join(f"--weights {tag}, " for tag in tags)
            warnings.warn(
                f"RANDOM WEIGHTS: {self.model} was asked for without weights, so its answers mean nothing. Give "
                f"{published}--weights FILE or a trained .keras file; --weights random if you want random weights.",
                stacklevel=3,
            )

    def weight_set(self) -> catalog.WeightSet | None:
        """Return the record of the published weights that ``weights`` names by tag or by file; else None.

        Raises:
            RequestError: there is no such tag.
        """
        if self.is_file or self.weights in (None, RANDOM):
            return None
        path = Path(self.weights)
        if path.suffix or path.is_file():
            return next((r for r in catalog.weight_sets(self.model) if r.filename == path.name), None)
        return catalog.find(self.model, self.weights, self.alpha)

    def open(self) -> FloatModel:
        """Build or load the model, as the verbs that make files of it use it.

        Raises:
            RequestError: the file cannot be loaded, or is no file to begin from.
        """
        if self.is_tflite:
            grids = (self._manifest().get("anchors") or {}).get("grids") or ()
            return TFLiteModel(Path(self.model), self.resolution, self.signature, tuple(map(tuple, grids)))
        if isinstance(self.content, FrozenGraph):
            return TracedModel(self.content, self.model, self.model)
        if self.is_saved_model:
            return self._traced(saved_model.frozen_saved_model, Path(self.model), self.signature, self.resolution)
        try:
            return KerasModel(self.build(), self.resolution if self.is_file else None)
        except keras2.NotInKeras3Error as reason:
            return self._traced(frozen_keras2_file, Path(self.model), str(reason), self.resolution)

    def _traced(self, frozen: Callable[..., FrozenGraph], *arguments) -> TracedModel:
        """Return the model of a file or folder that a child process freezes to a graph."""
        with Worker() as worker:
            try:
                graph = worker.call(frozen, *arguments)
            except WorkerError as error:
                raise RequestError(f"{self.model} ended the process that read it. {error}") from error
        return TracedModel(graph, Path(self.model).stem, self.model)

    def build(self, **options):
        """Build or load the ``keras.Model``. ``options``: further arguments for the builder of a registered network.

        Raises:
            RequestError: the model is a graph, or cannot be built or loaded.
        """
        if self._is_graph or isinstance(self.content, FrozenGraph):  # the latter for the type checker
            raise self._is_graph_error()
        if self.is_file:
            return saved_models.load_model(self.model) if self.content is None else saved_models.of_bytes(self.content)
        from mobilenets_tf.factory import create_model

        weights = None if self.weights == RANDOM else self.weights
        if self.resolution is not None:
            options = {"resolution": self.resolution} | options
        options = {"alpha": self.alpha, "weights": weights} | options
        if self.classes is not None:
            options["classes"] = self.classes
        return create_model(self.model, **options)

    def preprocessing(self, model) -> Preprocessing:
        """Return the preprocessing of the model's input, at the model's size.

        A model that normalises by itself is noticed, and said in a warning: without a word of the request or of a
        manifest it gets what its own normalisation needs.

        Raises:
            RequestError: neither file, request nor model say how the input is normalised, or the input is not one image
                of fixed size with 1, 3 or 4 channels.
        """
        shapes = [tuple(each.shape[1:]) for each in model.inputs]
        # Other verbs fix the sides when they open a model.
        if _is_keras(model) and len(shapes) == 1 and len(shapes[0]) == 3 and None in shapes[0]:
            raise RequestError(
                f"{self.model} takes {shapes[0]}: it is trained at a size of its own, and has none. Build the model "
                f"again, with keras.Input((height, width, {shapes[0][2] or 3}))."
            )
        shape = image_shape(shapes)
        if shape is None:
            raise RequestError(
                f"{self.name} takes {[tuple(each.shape) for each in model.inputs]}; this command feeds one image of a "
                "fixed size: (1, height, width, channels) with 1, 3 or 4 channels. Use "
                "mobilenets_tf.export.to_tflite(model, scheme, calibration=samples)."
            )
        known = self._known_preprocessing()
        own = own_normalisation(model) if _is_keras(model) else model.own_normalisation
        if own and known is None:
            known = Preprocessing(mean=(own.mean,) * shape[2], std=(own.std,) * shape[2])
            if self.mean is None:
                warnings.warn(
                    f"{self.name}: {own.described()}. So its file takes (pixel - {own.mean:g}) / {own.std:g}, "
                    f"as with --mean {own.mean:g} --std {own.std:g}.",
                    stacklevel=2,
                )
        told = self.asked(known)
        if told is None:
            raise RequestError(
                f"{self.weights or self.model} does not say how its input is normalised. {NORMALISATION}"
            )
        framed = task_of(self.task).framed(told)
        if self.crop is not None and framed.crop != self.crop:
            raise RequestError(
                f"crop={self.crop!r}: to {self.task}, a network gets the whole photograph. Leave --crop (crop=) out."
            )
        framed = framed.of_image(shape, self.resize)
        if own and self.mean is not None and (set(framed.mean), set(framed.std)) != ({own.mean}, {own.std}):
            warnings.warn(
                f"NORMALISED TWICE: {self.name}: {own.described()}, and --mean and --std (mean=, std=) normalise its "
                "input once more. Leave both out, unless the model was trained on images that were normalised twice.",
                stacklevel=2,
            )
        return framed

    def _known_preprocessing(self) -> Preprocessing | None:
        """Return what the manifest or the published weight set says; of random weights, the normalisation with which
        the network was published, for whole photographs: the crop belongs to the published weights."""
        if told := self._manifest_preprocessing():
            return told
        if record := self.weight_set():
            return record.preprocessing
        if not self._is_random:
            return None
        record = next(iter(catalog.weight_sets(self.model)), None)
        return record.preprocessing.whole() if record else Preprocessing()

    def label_names(self, classes: int | None = None) -> list[str]:
        """Return a name for each class; [] where the names are not known.

        Raises:
            RequestError: the number of names is not ``classes``.
        """
        if self.labels is not None:
            names = read_lines(self.labels)
        elif self.is_file:
            names = self._manifest().get("labels", [])
        else:
            names = self._network_labels()
        if classes is not None and names and len(names) != classes:
            raise RequestError(
                f"{self.labels or self.model} gives {len(names)} labels; the model has {classes} outputs."
            )
        return names

    def _network_labels(self) -> list[str]:
        """Return the labels of a registered network: what the manifest beside its weight file says, or ImageNet's names
        if the network has as many classes."""
        weight_file, backbone = self._weight_file, registry.get(self.model).backbone
        in_file = load.classes_in(weight_file, self.model) if weight_file and not backbone else None
        if weight_file and self.classes in (None, in_file) and (names := manifest_of(weight_file).get("labels")):
            return names
        record = self.weight_set() or next(iter(catalog.weight_sets(self.model)), None)
        if record is None or backbone:
            return []
        return record.labels if (self.classes or in_file or record.classes) == record.classes else []

    def _manifest(self) -> dict:
        """Read the manifest beside the model's file; of a TFLite file, what the metadata inside say where the manifest
        does not."""
        if self.content is not None:
            return {}
        manifest = manifest_of(Path(self.model))
        if not self.is_tflite or not Path(self.model).is_file():
            return manifest
        inside = read_metadata(Path(self.model))
        # Where a file can have several forms, a manifest alone says which one.
        task = inside.task if inside.task and not task_of(inside.task).forms else None
        told = {"task": task, "labels": list(inside.labels)}
        return {name: value for name, value in told.items() if value} | manifest

    def _manifest_preprocessing(self) -> Preprocessing | None:
        if self.content is not None:
            return None
        if self.is_tflite:
            told = Preprocessing.of(manifest_of(Path(self.model)), f"{self.model}.json")
            return told or read_metadata(Path(self.model)).preprocessing
        file = self.model if self.is_file else self.weights
        return Preprocessing.of(manifest_of(Path(file)), f"{file}.json") if file else None

    def plain(self) -> dict:
        """Return the fields as plain data for manifests; for a ``keras.Model`` object the content's sha256."""
        values = {name: value for name, value in asdict(self).items() if name not in ("content", "fetch")}
        if self.content is not None:
            content = self.content.content if isinstance(self.content, FrozenGraph) else self.content
            values["sha256"] = hashlib.sha256(content).hexdigest()
        return values

    def described(self) -> dict:
        """Return the fields that were given, as plain data, without the content of a ``keras.Model`` object."""
        return {name: value for name, value in self.plain().items() if value is not None and name != "sha256"}

    def options(self, flag: str = "") -> str:
        """Write the command-line options that name this model, with the model itself after ``flag``."""
        words = [flag, self.model] if flag else [self.model]
        for name, value in asdict(self).items():
            if name == "resolution" and isinstance(value, tuple):
                words += ["--resolution", shown_size(value)]
            elif name not in ("model", "content", "fetch") and value is not None:
                words += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
        return shlex.join(words)

    def facts(self) -> dict:
        """Return the manifest's facts about the model: the fields, and sha256, source and licence of the weights."""
        record = self.weight_set()
        path: str | Path | None = None
        if self.content is not None:
            path = None
        elif self.is_file:
            path = self.model
        elif self._is_random:
            path = None
        elif self._weight_file:
            path = self._weight_file
        else:
            path = catalog.require(_published(self))
        facts = {key: value for key, value in self.plain().items() if value is not None}
        if self.content is not None:
            facts["weights_sha256"] = facts.pop("sha256")
        if self.is_saved_model:
            facts |= {
                "kind": saved_model.KIND,
                "weights_sha256": digest_of_files(saved_model.files_of(Path(self.model))),
            }
        elif path:
            facts["weights_sha256"] = sha256_of(Path(path))
        if isinstance(self.content, FrozenGraph):
            facts["kind"] = self.content.kind
        if record:
            facts |= {"weights_source": record.source, "weights_licence": record.licence}
            facts |= {"weights_restrictions": record.restrictions} if record.restrictions else {}
        return facts


# A model in any form that ``ModelSource.of`` takes: a registry name, a path, a ``keras.Model`` or a ``ModelSource``. A
# request turns it into a ``ModelSource``.
AnyModel = ModelSource | Any


def _is_keras(model: Any) -> bool:
    return hasattr(model, "get_config") and hasattr(model, "predict_on_batch")


def _portable(model: Any, resolution: Size | None) -> bytes | FrozenGraph:
    """Return a model object as another process can have it: the ``.keras`` file of a model of stock layers, which keeps
    the layers; of any other the frozen graph.

    Raises:
        RequestError: the model cannot be traced.
    """
    return saved_models.to_bytes(model) if is_stock(model) else frozen_keras(model, resolution)


def opened(model: AnyModel) -> FloatModel:
    """Return a model that is given in any form as the verbs use it; a ``FloatModel`` as it is.

    Raises:
        RequestError: the name is unknown, or the file is not there or cannot be loaded.
    """
    if isinstance(model, (KerasModel, TFLiteModel, TracedModel)):
        return model
    if _is_keras(model) and is_functional(model):
        return KerasModel(model)
    source = ModelSource.of(model)
    source.check()
    source.fetch_weights()
    return source.open()


def weight_preprocessing(
    name: str, weights: str = "imagenet", *, alpha: float | None = None, resolution: int | None = None
) -> Preprocessing:
    """Return how photographs become the input that a published weight set was trained with.

    Args:
        name: a registry name. weights: a tag of its weight sets. alpha: width multiplier, as in ``create_model``.
        resolution: height and width of the input in pixels; None: the published one.

    Raises:
        RequestError: the name or the tag is unknown.
    """
    source = ModelSource(name, weights=weights, alpha=alpha)
    record = _published(source)
    size = registry.get(name).resolution if resolution is None else resolution
    return task_of(source.task).framed(record.preprocessing).at(size)


def weight_labels(name: str, weights: str = "imagenet", *, alpha: float | None = None) -> list[str]:
    """Return the names of the classes of a published weight set, in the order of the outputs.

    Args:
        name: a registry name. weights: a tag of its weight sets. alpha: width multiplier, as in ``create_model``.

    Raises:
        RequestError: the name or the tag is unknown.
    """
    return _published(ModelSource(name, weights=weights, alpha=alpha)).labels


def _published(source: ModelSource) -> catalog.WeightSet:
    record = source.weight_set()
    if record is None:
        raise RequestError(f"{source.weights!r} is not the tag of a published weight set of {source.model}.")
    return record


def channel_values(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return a number for each channel, of one number for all channels or one for each.

    Raises:
        RequestError: there are neither one number nor as many as channels.
    """
    values = tuple(float(value) for value in values)
    if len(values) not in (1, channels) or channels not in CHANNELS:
        raise RequestError(
            f"Expected one number, or one for each channel (R, G, B; of an RGBA image four); received {values}."
        )
    return values * channels if len(values) == 1 else values
