// From a photograph to the input of the network, equal to the Python code that evaluated the network.

const round = value => { // half to even, as Python and NumPy round
  const nearest = Math.round(value);
  return Math.abs(value % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
};
const {fround, max, min, floor, abs} = Math;

/** Where the crop lies: left, top, width and height; of "resize_then_crop" in the resized photograph, and its size. */
function box({width, height}, facts) {
  const shorter = min(facts.height, facts.width);
  if (facts.crop === 'crop_then_resize') {
    const unit = min(width * shorter / facts.width, height * shorter / facts.height);
    const side = max(1, Math.trunc(shorter / facts.resize * unit));
    const [wide, high] = [facts.width, facts.height].map(length => max(1, round(side * length / shorter)));
    return {left: floor((width - wide + 1) / 2), top: floor((height - high + 1) / 2), wide, high};
  }
  if (facts.crop === 'resize_then_crop') {
    const [columns, rows] = [facts.width, facts.height].map(length => round(facts.resize * length / shorter));
    const scale = max(columns / width, rows / height);
    const [wide, high] = [max(columns, Math.trunc(width * scale)), max(rows, Math.trunc(height * scale))];
    return {left: round((wide - facts.width) / 2), top: round((high - facts.height) / 2), wide, high};
  }
  return {left: 0, top: 0, wide: width, high: height};
}

/** The part of a photograph that the network is given, in pixels of the photograph. */
export function part(photo, facts) {
  const {left, top, wide, high} = box(photo, facts);
  if (facts.crop !== 'resize_then_crop') return {left, top, width: wide, height: high};
  const [across, down] = [photo.width / wide, photo.height / high];
  return {left: left * across, top: top * down, width: facts.width * across, height: facts.height * down};
}

// Pillow's filters: how many pixels of the result they reach, and the weight at a distance.
const sinc = x => x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
const FILTERS = {
  bilinear: [1, x => x < 1 ? 1 - x : 0],
  bicubic: [2, x => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0],
  lanczos: [3, x => x < 3 ? sinc(x) * sinc(x / 3) : 0],
};
const ONE = 1 << 22; // a weight of 1

/** For each pixel of the result along one side: the first pixel that it is made of, and the weights from there on. */
function weighted(length, begin, side, size, skipped, count, filter) {
  const [reach, weight] = FILTERS[filter];
  const scale = side / size, stretch = max(1, scale), support = reach * stretch;
  return Array.from({length: count}, (_, place) => {
    const centre = begin + (place + skipped + 0.5) * scale;
    const first = max(0, Math.trunc(centre - support + 0.5)), last = min(length, Math.trunc(centre + support + 0.5));
    const real = Array.from({length: last - first}, (_, each) => weight(abs((each + first - centre + 0.5) * (1 / stretch))));
    const sum = real.reduce((all, each) => all + each, 0);
    const weights = real.map(each => each / sum * ONE).map(each => Math.trunc(each < 0 ? each - 0.5 : each + 0.5));
    return {first, weights};
  });
}

const summed = (weights, value) => {
  let sum = ONE / 2;
  weights.forEach((weight, each) => { sum += value(each) * weight; });
  return max(0, min(255, floor(sum / ONE)));
};

function nearest(length, begin, side, size, skipped, count) {
  const scale = side / size;
  let place = begin + scale * 0.5;
  for (let each = 0; each < skipped; each++) place += scale;
  return Array.from({length: count}, () => {
    const pixel = max(0, min(length - 1, Math.trunc(place)));
    place += scale;
    return pixel;
  });
}

/** For each pixel of the result along one side: the two pixels beside it, and how far it is from the first. */
function neighbours(begin, side, size, skipped, count) {
  return Array.from({length: count}, (_, each) => {
    const exact = fround(fround(fround(each + skipped + 0.5) * fround(side / size)) - 0.5);
    const place = max(0, min(side - 1, exact)), first = Math.trunc(place);
    return {first: begin + first, second: begin + min(first + 1, side - 1), share: fround(place - first)};
  });
}

const between = (first, second, share) => fround(first + fround(fround(second - first) * share));

/** The values 0 to 255 of the resized photograph, height x width x channels. photo: as a canvas gives ImageData. */
export function levels(photo, facts) {
  const {width: W, height: H, channels: C, interpolation} = facts;
  const grey = index => (19595 * photo.data[index] + 38470 * photo.data[index + 1] + 7471 * photo.data[index + 2] + 32768) >> 16;
  const value = C === 1 ? (x, y) => grey(4 * (y * photo.width + x)) : (x, y, c) => photo.data[4 * (y * photo.width + x) + c];
  const {left, top, wide, high} = box(photo, facts);
  const after = facts.crop === 'resize_then_crop';
  const across = after ? [0, photo.width, wide, left, W] : [left, wide, W, 0, W];
  const down = after ? [0, photo.height, high, top, H] : [top, high, H, 0, H];
  const result = new Uint8Array(H * W * C);
  if (interpolation === 'nearest') {
    const columns = nearest(photo.width, ...across), rows = nearest(photo.height, ...down);
    for (let y = 0, at = 0; y < H; y++) for (let x = 0; x < W; x++) for (let c = 0; c < C; c++) result[at++] = value(columns[x], rows[y], c);
    return result;
  }
  if (interpolation === 'keras_bilinear') {
    const columns = neighbours(...across), rows = neighbours(...down);
    for (let y = 0, at = 0; y < H; y++) for (let x = 0; x < W; x++) for (let c = 0; c < C; c++) {
      const {first, second, share} = rows[y];
      const [one, other] = [columns[x].first, columns[x].second].map(column => between(value(column, first, c), value(column, second, c), share));
      result[at++] = round(between(one, other, columns[x].share));
    }
    return result;
  }
  // As Pillow does: along the rows, rounded to eight bits, then along the columns.
  const columns = weighted(photo.width, ...across, interpolation), rows = weighted(photo.height, ...down, interpolation);
  const from = rows[0].first, to = rows[H - 1].first + rows[H - 1].weights.length;
  const narrow = new Uint8Array((to - from) * W * C);
  for (let y = from, at = 0; y < to; y++) for (let x = 0; x < W; x++) for (let c = 0; c < C; c++) {
    const {first, weights} = columns[x];
    narrow[at++] = summed(weights, each => value(first + each, y, c));
  }
  for (let y = 0, at = 0; y < H; y++) for (let place = 0; place < W * C; place++) {
    const {first, weights} = rows[y];
    result[at++] = summed(weights, each => narrow[(first - from + each) * W * C + place]);
  }
  return result;
}

/** The input tensor of a photograph. */
export function input(photo, facts) {
  const pixels = levels(photo, facts);
  if (facts.input.dtype === 'uint8') return pixels;
  const [mean, std] = [fround(facts.mean), fround(facts.std)];
  const table = Float32Array.from({length: 256}, (_, level) => fround(fround(level - mean) / std));
  return Float32Array.from(pixels, level => table[level]);
}
