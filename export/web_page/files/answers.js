// What the outputs of a network say.

/** The real values of an output, as the file stores it. */
export const real = (stored, {scale, zero_point}) =>
  scale ? Float32Array.from(stored, level => (level - zero_point) * Math.fround(scale)) : stored;

const label = (facts, index) => facts.labels[index] ?? `class ${index}`;

/** The classes with the highest scores: [{index, label, score}]. */
function classes(outputs, facts, count) {
  let scores = [...outputs[0]];
  if (facts.cut !== null) { // one value for two classes
    const second = facts.cut === 0 ? 1 / (1 + Math.exp(-scores[0])) : scores[0];
    scores = [1 - second, second];
  }
  const order = scores.map((_, index) => index).sort((one, other) => scores[other] - scores[one] || one - other);
  return order.slice(0, count).map(index => ({index, label: label(facts, index), score: scores[index]}));
}

function overlap(one, other) {
  const width = Math.min(one.left + one.width, other.left + other.width) - Math.max(one.left, other.left);
  const height = Math.min(one.top + one.height, other.top + other.height) - Math.max(one.top, other.top);
  const common = Math.max(width, 0) * Math.max(height, 0);
  return common / (one.width * one.height + other.width * other.height - common);
}

/** The objects, the highest score first: [{index, label, score, box}], boxes in pixels of the photograph. */
function objects(outputs, facts, part, threshold) {
  const answer = (index, score, [top, left, bottom, right]) => ({
    index, label: label(facts, index), score,
    box: {
      left: part.left + left * part.width, top: part.top + top * part.height,
      width: (right - left) * part.width, height: (bottom - top) * part.height,
    },
  });
  if (facts.form === 'nms') {
    const [boxes, indices, scores, [number]] = outputs;
    return Array.from({length: number}, (_, each) => answer(Math.round(indices[each]), scores[each], boxes.slice(4 * each, 4 * each + 4)))
      .filter(each => each.score >= threshold);
  }
  const [boxes, scores] = outputs, columns = facts.classes + 1;
  const candidates = [];
  scores.forEach((score, place) => {
    const index = place % columns - 1, anchor = Math.floor(place / columns); // -1 is the background
    if (index < 0 || score < threshold) return;
    let corners = boxes.slice(4 * anchor, 4 * anchor + 4);
    if (facts.form === 'raw') {
      const [y, x, h, w] = facts.anchors[anchor], [ty, tx, th, tw] = corners, [sy, sx, sh, sw] = facts.scales;
      const [centreY, centreX] = [y + ty / sy * h, x + tx / sx * w];
      const [halfHeight, halfWidth] = [h * Math.exp(th / sh) / 2, w * Math.exp(tw / sw) / 2];
      corners = [centreY - halfHeight, centreX - halfWidth, centreY + halfHeight, centreX + halfWidth];
    }
    candidates.push(answer(index, score, corners));
  });
  // Non-maximum suppression: of two boxes of a class that overlap, the box with the higher score stays.
  const kept = [];
  for (const each of candidates.sort((one, other) => other.score - one.score)) {
    if (kept.every(other => other.index !== each.index || overlap(other.box, each.box) <= facts.overlap)) kept.push(each);
  }
  return kept;
}

/** The class of each place: {rows, columns, classes}. */
function areas([values], facts) {
  const {rows, columns} = facts;
  if (facts.form === 'mask') return {rows, columns, classes: Uint16Array.from(values)};
  if (facts.single) return {rows, columns, classes: Uint16Array.from(values, value => value > facts.cut ? 1 : 0)};
  const classes = Uint16Array.from({length: rows * columns}, (_, place) => {
    let best = 0;
    for (let index = 1; index < facts.classes; index++) {
      if (values[facts.classes * place + index] > values[facts.classes * place + best]) best = index;
    }
    return best;
  });
  return {rows, columns, classes};
}

/**
 * Read the outputs. outputs: the real values of each. part: of the photograph, which the network was given.
 * Gives {classes}, {objects}, {areas}, or {values}: [{name, values}].
 */
export function answers(outputs, facts, part, {count = 5, threshold = 0.5} = {}) {
  switch (facts.task) {
    case 'classify': return {classes: classes(outputs, facts, count)};
    case 'detect': return {objects: objects(outputs, facts, part, threshold)};
    case 'segment': return {areas: areas(outputs, facts)};
    default: return {values: facts.outputs.map(({name}, place) => ({name, values: [...outputs[place]]}))};
  }
}
