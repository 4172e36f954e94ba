"use strict";
// Curves.
for (const figure of document.querySelectorAll("figure.chart")) {
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  const ink = getComputedStyle(document.body).color;
  const shown = {
    ...layout, font: { color: ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)" },
  };
  Plotly.newPlot(figure.querySelector(".plot"), data, shown, { responsive: true, displaylogo: false });
}

// Tables whose headings sort them.
for (const table of document.querySelectorAll("table[data-key=sortable]")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const filter = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter", ariaLabel: "Filter rows" });
  table.before(filter);
  filter.addEventListener("input", () => {
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  });
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent;
      const compare = (a, b) => (parseFloat(a) - parseFloat(b)) || a.localeCompare(b);
      rows.sort((a, b) => (falling ? -1 : 1) * compare(value(a), value(b)));
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

// Volumes.
const stored = document.getElementById("stored-volumes");
const COLOURS = {  // Okabe and Ito's, which colour-blind readers can tell apart; more classes repeat them, darker
  label: [[86, 180, 233], [0, 114, 178]],
  predicted: [[230, 159, 0], [213, 94, 0]],
  clean: [[0, 158, 115], [0, 110, 80]],
};

function classes(colours, count) {
  const map = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (let value = 1; value <= count; value++) {
    const [r, g, b] = colours[(value - 1) % colours.length];
    const shade = 1 - 0.25 * Math.floor((value - 1) / colours.length) % 1;
    map.R.push(r * shade); map.G.push(g * shade); map.B.push(b * shade); map.A.push(255);
    map.I.push(value); map.labels.push("");
  }
  return map;
}

function floats(volume) {  // as single precision, scaled, so that volumes can be added
  const slope = volume.hdr.scl_slope || 1, offset = volume.hdr.scl_inter || 0;
  return Float32Array.from(volume.img, (value) => value * slope + offset);
}

function replace(volume, values) {
  volume.img = values;
  volume.hdr.datatypeCode = 16;
  volume.hdr.numBitsPerVoxel = 32;
  volume.hdr.scl_slope = 1;
  volume.hdr.scl_inter = 0;
}

async function start(viewer, cases) {
  const canvas = viewer.querySelector("canvas");
  if (!document.createElement("canvas").getContext("webgl2")) return;
  viewer.hidden = false;
  viewer.nextElementSibling.hidden = true;
  const nv = new niivue.Niivue({
    logLevel: "error", backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.25, crosshairWidthUnit: "percent",
    textHeight: 0.03, loadingText: "", dragAndDropEnabled: false,
  });
  await nv.attachToCanvas(canvas);
  nv.setInterpolation(true);
  const field = (name) => viewer.querySelector(`[name=${name}]`);
  const told = viewer.querySelector(".told"), output = viewer.querySelector("output");
  let open = null;

  async function read(base64, options = {}) {
    return niivue.NVImage.loadFromBase64({ base64, name: "volume.nii.gz", ...options });
  }

  function draw() {
    const { shown, volumes, image, levels } = open;
    const level = Number(field("level").value), here = levels[level], base = field("base").value;
    const [low, high] = base === "noise" ? [-open.limit, open.limit] : open.window;
    replace(volumes.image, base === "noise" ? here.noise : base === "image" ? image : image.map((v, i) => v + here.noise[i]));
    Object.assign(volumes.image, { cal_min: low, cal_max: high });
    replace(volumes.predicted, here.predicted);
    for (const name of ["label", "predicted", "clean", "fragility"]) {
      const opacity = { label: 0.45, predicted: 0.5, clean: 0.5, fragility: 0.8 }[name];
      if (volumes[name]) volumes[name].opacity = field(name).checked ? opacity : 0;
    }
    nv.updateGLVolume();
    output.textContent = level ? `ε = ${here.eps}` : "none";
    const scale = base === "noise" ? `; noise from ${(-open.limit).toPrecision(3)} to ${open.limit.toPrecision(3)} ${shown.unit}` : "";
    told.textContent = `${shown.model}, ${shown.case}: Dice ${shown.dice.toFixed(3)} without noise`
      + (level ? `, ${here.dice.toFixed(3)} under ${here.attack} at ε = ${here.eps}` : "") + scale
      + (shown.note ? `. ${shown.note}` : "");
    viewer.dataset.drawn = `${cases.indexOf(shown)}:${level}:${base}`;
  }

  async function show(number) {
    const shown = cases[number];
    while (nv.volumes.length) nv.removeVolume(nv.volumes[nv.volumes.length - 1]);
    const volumes = { image: await read(shown.image, { colormap: "gray" }) };
    for (const name of ["label", "clean"]) volumes[name] = await read(shown[name]);
    volumes.predicted = await read(shown.clean);
    const image = floats(volumes.image);
    const none = { eps: 0, noise: new Float32Array(image.length), predicted: floats(volumes.predicted) };
    const levels = [none];
    for (const layer of shown.layers) {
      const noise = floats(await read(layer.noise)), predicted = floats(await read(layer.predicted));
      levels.push({ ...layer, noise, predicted });
    }
    const top = levels.reduce((most, { predicted }) => predicted.reduce((a, b) => Math.max(a, b), most), 1);
    const count = floats(volumes.label).reduce((a, b) => Math.max(a, b), top);
    for (const name of ["label", "clean", "predicted"]) {
      replace(volumes[name], floats(volumes[name]));
      volumes[name].setColormapLabel(classes(COLOURS[name], count));
    }
    if (shown.fragility) {
      volumes.fragility = await read(shown.fragility, { colormap: "plasma" });
      const most = shown.layers[shown.layers.length - 1].eps;
      replace(volumes.fragility, floats(volumes.fragility).map((eps) => (eps > 0 ? 1.1 * most - eps : 0)));
      Object.assign(volumes.fragility, { cal_min: 0.05 * most, cal_max: 1.1 * most });
    }
    field("fragility").disabled = !shown.fragility;
    for (const name of ["image", "label", "clean", "predicted", "fragility"]) if (volumes[name]) nv.addVolume(volumes[name]);
    const sorted = Float32Array.from(image).sort();
    const at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
    const limit = levels.reduce((most, { noise }) => noise.reduce((a, b) => Math.max(a, Math.abs(b)), most), 1e-12);
    open = { shown, volumes, image, levels, limit, window: [at(0.01), at(0.995)] };
    field("case").value = number;
    field("level").max = levels.length - 1;
    field("level").value = levels.length - 1;
    draw();
  }

  cases.forEach((shown, number) => field("case").add(new Option(`${shown.model}: ${shown.case}`, number)));
  field("case").addEventListener("change", (event) => show(Number(event.target.value)));
  for (const name of ["level", "base", "label", "predicted", "clean", "fragility"]) {
    for (const event of ["input", "change"]) field(name).addEventListener(event, draw);
  }
  for (const table of document.querySelectorAll("table[data-key=cases]")) {
    const heads = [...table.querySelectorAll("th")].map((head) => head.textContent);
    for (const row of table.tBodies[0].rows) {
      const cell = (head) => row.cells[heads.indexOf(head)].textContent;
      const number = cases.findIndex((shown) => shown.model === cell("model") && shown.case === cell("case"));
      if (number < 0) continue;
      const opens = () => { show(number); viewer.scrollIntoView({ behavior: "smooth" }); };
      row.className = "opens";
      row.tabIndex = 0;
      row.title = "Open in the viewer";
      row.addEventListener("click", opens);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") opens(); });
    }
  }
  await show(0);
}

if (stored) {
  const cases = JSON.parse(stored.textContent);
  for (const viewer of document.querySelectorAll(".viewer")) {
    start(viewer, cases).catch((error) => {
      viewer.hidden = true;
      viewer.nextElementSibling.hidden = false;
      console.error(error);
    });
  }
}
