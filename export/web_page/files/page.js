// The page: loads the network, takes photographs or the camera, and shows the answers.

import {getWebGpuDevice, loadAndCompile, loadLiteRt, Tensor} from './runtime/litert.js';
import {answers, real} from './answers.js';
import {input, part} from './input.js';

const element = id => document.getElementById(id);
const status = element('status'), canvas = element('picture'), list = element('answers');
const context = canvas.getContext('2d', {willReadFrequently: true});
const LONGEST_SIDE = 2048;
const log = []; // LiteRT's own messages
let facts, network, camera, photo;
let processor = 'CPU'; // that the network was compiled for
let work = Promise.resolve(); // what is asked for is done one after another

const say = text => { status.textContent = text; };

async function load() {
  facts = await (await fetch('facts.json')).json();
  const keep = line => log.push(line); // else the browser's console shows each line, some of them as errors
  self.Module = {print: keep, printErr: keep};
  const jspi = 'Suspending' in WebAssembly; // WebAssembly that waits for JavaScript, which LiteRT.js needs for the GPU
  await loadLiteRt('./runtime/wasm/', {jspi});
  await compile('wasm');
  element('gpu').hidden = !(jspi && getWebGpuDevice());
  for (const button of document.querySelectorAll('button, input')) button.disabled = false;
  say('Ready. Choose a photograph, drop a photograph here, or use the camera.');
}

/** Compile the network; on an error, the network before stays. */
async function compile(accelerator) {
  const compiled = await loadAndCompile(facts.file, {accelerator});
  network?.delete();
  network = compiled;
  processor = accelerator === 'wasm' ? 'CPU' : 'GPU';
}

/** Run the network on the photograph in the canvas, and draw the answers over it. Gives the answers. */
async function look() {
  photo = context.getImageData(0, 0, canvas.width, canvas.height);
  const started = performance.now();
  const tensor = new Tensor(input(photo, facts), facts.input.shape);
  const prepared = performance.now();
  const outputs = await network.run(tensor);
  const values = [];
  for (const [place, output] of outputs.entries()) {
    values.push(real(await output.data(), facts.outputs[place]));
    output.delete();
  }
  tensor.delete();
  const ended = performance.now();
  const where = part(photo, facts);
  const found = answers(values, facts, where);
  draw(found, where);
  say(`${processor}: ${(ended - prepared).toFixed(1)} ms, preprocessing ${(prepared - started).toFixed(1)} ms`);
  return {answers: found, outputs: values};
}

/** Read a photograph, upright by its EXIF data, into the canvas, and run the network on it. */
async function show(file) {
  const picture = await createImageBitmap(file, {imageOrientation: 'from-image', premultiplyAlpha: 'none', colorSpaceConversion: 'none'});
  const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  [canvas.width, canvas.height] = [picture.width, picture.height].map(side => Math.max(1, Math.round(side * scale)));
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return look();
}

const colour = index => `hsl(${index * 137.5 % 360} 80% 60%)`;

function draw(found, where) {
  const percent = score => `${(100 * score).toFixed(1)} %`;
  const scored = score => facts.shares ? percent(score) : score.toFixed(2); // logits have no unit
  let rows = [];
  context.lineWidth = Math.max(2, canvas.width / 200);
  context.font = `${Math.max(12, canvas.width / 30)}px system-ui, sans-serif`;
  if (found.classes) rows = found.classes.map(each => [each.label, scored(each.score)]);
  if (found.objects) {
    rows = found.objects.map(each => [each.label, percent(each.score)]);
    for (const {box, index, label} of found.objects) {
      context.strokeStyle = context.fillStyle = colour(index);
      context.strokeRect(box.left, box.top, box.width, box.height);
      context.fillText(label, box.left, box.top - context.lineWidth);
    }
  }
  if (found.areas) rows = drawn(found.areas, where).map(([index, share]) => [facts.labels[index] ?? `class ${index}`, percent(share)]);
  if (found.values) rows = found.values.map(each => [each.name, each.values.slice(0, 8).map(value => value.toPrecision(4)).join(', ')]);
  if (found.classes || found.values) {
    context.strokeStyle = 'white';
    context.strokeRect(where.left, where.top, where.width, where.height);
  }
  list.replaceChildren(...(rows.length ? rows : [['Nothing that scores 0.5 or more', '']]).map(([name, value]) => {
    const row = document.createElement('tr');
    const [head, cell] = [document.createElement('th'), document.createElement('td')];
    head.scope = 'row';
    head.textContent = name;
    cell.textContent = value;
    row.append(head, cell);
    return row;
  }));
}

/** Draw the areas over the photograph; give the classes with their shares, the largest first. */
function drawn({rows, columns, classes}, where) {
  const mask = new OffscreenCanvas(columns, rows), over = mask.getContext('2d'), counts = new Map();
  classes.forEach((index, place) => {
    counts.set(index, (counts.get(index) ?? 0) + 1);
    if (index === 0) return; // the first class is the background
    over.fillStyle = colour(index);
    over.fillRect(place % columns, Math.floor(place / columns), 1, 1);
  });
  context.globalAlpha = 0.5;
  context.imageSmoothingEnabled = false;
  context.drawImage(mask, where.left, where.top, where.width, where.height);
  context.globalAlpha = 1;
  return [...counts].map(([index, count]) => [index, count / classes.length]).sort((one, other) => other[1] - one[1]).slice(0, 8);
}

/** Do something after all that was asked for before, and say what went wrong. */
const queue = action => {
  work = work.then(action).catch(error => say(`${error.message ?? error}`));
  return work;
};

async function film() {
  if (camera) return;
  const video = document.createElement('video');
  const stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
  video.srcObject = camera = stream;
  video.muted = video.playsInline = true;
  await video.play();
  element('camera').textContent = 'Stop the camera';
  const step = async () => {
    await queue(async () => {
      if (camera !== stream) return;
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      context.drawImage(video, 0, 0);
      await look();
    });
    if (camera === stream) requestAnimationFrame(step);
  };
  step();
}

function stop() {
  camera?.getTracks().forEach(track => track.stop());
  camera = undefined;
  element('camera').textContent = 'Use the camera';
}

const open = file => {
  stop();
  list.replaceChildren();
  if (file) queue(() => show(file));
};

element('camera').addEventListener('click', () => {
  if (camera) stop();
  else queue(() => film().catch(error => { stop(); throw new Error(`No camera: ${error.message}`); }));
});
element('file').addEventListener('change', ({target}) => open(target.files[0]));
element('use_gpu').addEventListener('change', ({target}) => queue(async () => {
  try {
    await compile(target.checked ? 'webgpu' : 'wasm');
  } finally {
    target.checked = processor === 'GPU';
  }
  if (!photo || camera) return;
  context.putImageData(photo, 0, 0);
  await look();
}));
addEventListener('dragover', event => event.preventDefault());
addEventListener('drop', event => {
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});

load().catch(error => say(`The network does not load: ${error.message ?? error}. ${log.slice(-3).join(' ')}`));
export {show};
