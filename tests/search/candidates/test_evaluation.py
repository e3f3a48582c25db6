"""The score and the latency of a point are those of the network that its plan names."""

import random

import keras
import numpy as np
import pytest
from PIL import Image

from mobilenets_tf import ModelSource, Plan, TrainRequest, create_model
from mobilenets_tf.search.candidates.evaluation import Candidates
from mobilenets_tf.search.candidates.space import Space
from mobilenets_tf.search.latency.base_file import file_of
from mobilenets_tf.training.request import check
from tests.conftest import photographs
from tests.support.synthetic_machine import table_of

pytestmark = pytest.mark.slow
SIZE = 32
PLAN = Plan("mobilenet_v1", {"alpha": 0.5, "rows": [[48, 1, 1], [64, 2, 2]], "resolution": SIZE, "classes": 3})


@pytest.fixture(scope="module")
def candidates(tmp_path_factory, worker):
    """Of a network with pictures of three classes that differ in brightness, and a table of a synthetic machine."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(photographs(90, size=SIZE)):
        place = folder / ("dark", "grey", "light")[index % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(((pixels + 1) * 50 + 70 * (index % 3)).astype(np.uint8)).save(place / f"{index:03}.png")
    keras.utils.set_random_seed(0)
    parent = create_model(PLAN)
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    parent.save(path)
    source = ModelSource(str(path), mean=127.5, std=127.5)
    request = TrainRequest(
        source, str(folder), str(path.parent / "out"), recipe="recover", batch_size=16, distribute="none"
    )
    space = Space.of(PLAN, ["widths", "depth"])
    table = table_of(file_of(parent, "float32", worker), "float32")
    return Candidates(check(request), parent, space, table, 3, worker=worker)


def test_points_are_scored_and_timed(candidates, worker):
    space = candidates.space
    half = space.at(0.5)
    shallow = space.drawn(lambda each: 1 if each.name == "depth/stage2" else each.own)
    latencies = [candidates.latency(point) for point in (space.parent, half, shallow)]
    assert latencies[1] < latencies[0] and latencies[2] < latencies[0]
    table = candidates._settings.table
    content = file_of(create_model(space.plan_of(shallow)), "float32", worker)
    assert latencies[2] == pytest.approx(table.predict(content), rel=0.02)
    narrow = space.drawn(lambda each: each.choices[0] if each.kind == "widths" else shallow[each.name])
    scores = [candidates.evaluate(point) for point in (narrow, shallow, narrow)]
    assert scores[0] == scores[2] != scores[1]  # whatever was judged between
    assert all(np.isfinite(each.loss) and 0 <= each.score <= 1 for each in scores)


def test_what_is_new_in_a_structure_does_not_depend_on_what_was_tried_before(candidates):
    own = candidates.space.parent
    shallow = candidates.space.drawn(lambda each: 1 if each.name == "depth/stage2" else each.own)
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(len(drawn))  # as after other trials, or in another process
        candidates._last_point = own
        candidates._structure_of(shallow)
        drawn.append(random.random())  # as fresh weights and Dropout's seeds are drawn
    assert drawn[0] == drawn[1]
