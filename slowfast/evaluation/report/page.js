"use strict";
(async () => {
  const PAGE_ROWS = 50; // rows of a page of the table of all videos
  const PRINTED_ROWS = 500; // a table with at most this many videos is printed whole
  const MAX_CONFUSIONS = 20; // entries of a list of confusions

  const find = (selector, root = document) => root.querySelector(selector);
  const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

  function make(tag, text = "", className = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    element.className = className;
    return element;
  }

  // A name in its own direction of writing, which must not change that of the text around it.
  const makeName = (text) => make("bdi", text);

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(find(`#${id}`).textContent), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  // ---- Sorting ------------------------------------------------------------------------------

  // Return a function that compares two items by a value. Missing values come last either way.
  function comparison(valueOf, descending) {
    return (first, second) => {
      const [a, b] = [valueOf(first), valueOf(second)];
      if (a === b) return 0;
      if (a === null) return 1;
      if (b === null) return -1;
      return (a < b) === descending ? 1 : -1;
    };
  }

  // Make the headers of a table buttons that call `sort(column, descending)`.
  function makeSortable(table, sort) {
    const headers = findAll("thead th", table);
    headers.forEach((header, column) => {
      const button = make("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.replaceChildren(button);
      header.setAttribute("aria-sort", "none");

      button.addEventListener("click", () => {
        const descending = header.getAttribute("aria-sort") === "ascending";
        headers.forEach((other) => other.setAttribute("aria-sort", "none"));
        header.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(column, descending);
      });
    });
  }

  function valueOfCell(cell) {
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  }

  for (const table of findAll("table.sortable")) {
    const body = find("tbody", table);
    const rows = [...body.rows];
    makeSortable(table, (column, descending) => {
      const valueOf = (row) => valueOfCell(row.cells[column]);
      body.replaceChildren(...rows.slice().sort(comparison(valueOf, descending)));
    });
  }

  for (const input of findAll("input[data-search]")) {
    const rows = [...find(`#${input.dataset.search} tbody`).rows];
    input.addEventListener("input", () => {
      const matches = matcher(input.value);
      for (const row of rows) row.hidden = !matches(find("th", row).textContent);
    });
  }

  // Return a function that tells whether a text contains all words of a query.
  function matcher(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return (text) => {
      const lower = text.toLowerCase();
      return words.every((word) => lower.includes(word));
    };
  }

  // ---- Table of all videos ------------------------------------------------------------------

  function showVideos(data, names) {
    const nameOf = (number) => (number === null ? null : names[number]);
    const videos = data.row.map((row, index) => ({
      row,
      path: data.path[index],
      label: nameOf(data.label[index]),
      prediction: nameOf(data.prediction[index]),
      probability: data.probability[index],
      rank: data.rank[index],
      nll: data.nll[index],
      status: data.status[index],
      reason: data.reasons[index] || "",
      labelNumber: data.label[index],
      predictionNumber: data.prediction[index],
    }));

    const kindOf = ({ status, labelNumber, predictionNumber }) => {
      if (status !== "scored") return "unscored";
      if (labelNumber === null) return "predicted";
      return labelNumber === predictionNumber ? "right" : "mistake";
    };
    for (const video of videos) {
      video.kind = kindOf(video);
      video.text = [video.path, video.label, video.prediction, video.status, video.reason].join("\n");
    }

    const table = find("#videos-table");
    const body = find("tbody", table);
    const keys = findAll("thead th", table).map((header) => header.dataset.key);
    const search = find("#video-search");
    const filter = find("#video-filter");
    const pairButton = find("#video-pair");
    const [previous, next] = [find("#video-previous"), find("#video-next")];
    const state = { sorted: videos, found: videos, page: 0, pair: null };

    function makeRow(video) {
      const row = make("tr", "", video.kind);
      const percent = video.probability === null ? "-" : `${(100 * video.probability).toFixed(2)}%`;
      const nll = video.nll === null ? "-" : video.nll.toFixed(4);

      const path = make("td", "", "path");
      path.append(makeName(video.path));
      if (video.reason) {
        const reason = make("div");
        reason.append(makeName(video.reason));
        path.append(reason);
      }
      const [label, prediction] = [make("td"), make("td")];
      label.append(makeName(video.label ?? "-"));
      prediction.append(makeName(video.prediction ?? "-"));

      const cells = {
        row: make("td", String(video.row), "num"),
        path,
        label,
        prediction,
        probability: make("td", percent, "num"),
        rank: make("td", String(video.rank ?? "-"), "num"),
        nll: make("td", nll, "num"),
        status: make("td", video.status),
      };
      row.append(...keys.map((key) => cells[key]));
      return row;
    }

    function show(numRows = PAGE_ROWS) {
      const first = numRows === PAGE_ROWS ? state.page * PAGE_ROWS : 0;
      const shown = state.found.slice(first, first + numRows);
      body.replaceChildren(...shown.map(makeRow));

      const total = state.found.length.toLocaleString("en");
      const range = shown.length ? `${first + 1} to ${first + shown.length} of ${total}` : "none";
      const all = state.found.length < videos.length ? `, from ${videos.length.toLocaleString("en")}` : "";
      find("#video-count").textContent = `${range}${all}`;
      previous.disabled = state.page === 0;
      next.disabled = (state.page + 1) * PAGE_ROWS >= state.found.length;
    }

    function update() {
      const matches = matcher(search.value);
      const isWanted = ({ kind, labelNumber, predictionNumber }) => {
        if (filter.value !== "all" && kind !== filter.value) return false;
        if (!state.pair) return true;
        return labelNumber === state.pair.label && predictionNumber === state.pair.prediction;
      };
      state.found = state.sorted.filter((video) => isWanted(video) && matches(video.text));
      state.page = 0;
      show();
    }

    function turn(pages) {
      state.page += pages;
      show();
    }

    makeSortable(table, (column, descending) => {
      const valueOf = (video) => video[keys[column]];
      state.sorted = videos.slice().sort(comparison(valueOf, descending));
      update();
    });
    search.addEventListener("input", update);
    filter.addEventListener("change", update);
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));

    function showPair(pair) {
      state.pair = pair;
      pairButton.hidden = !pair;
      if (pair) {
        const label = makeName(names[pair.label]);
        const prediction = makeName(names[pair.prediction]);
        pairButton.replaceChildren(label, " predicted as ", prediction, " ×");
        pairButton.setAttribute("aria-label", `Show all pairs again, not only ${pairButton.textContent}`);
      }
      update();
    }

    pairButton.addEventListener("click", () => showPair(null));
    for (const button of findAll("button[data-label]")) {
      button.addEventListener("click", () => {
        const { label, prediction } = button.dataset;
        showPair({ label: Number(label), prediction: Number(prediction) });
        find("#videos").scrollIntoView();
        pairButton.focus({ preventScroll: true });
      });
    }

    const isShort = () => state.found.length <= PRINTED_ROWS;
    addEventListener("beforeprint", () => isShort() && show(PRINTED_ROWS));
    addEventListener("afterprint", () => show());
    find('th[data-key="row"]', table).setAttribute("aria-sort", "ascending");
    show();
  }

  // ---- Confusion matrix ---------------------------------------------------------------------

  function showConfusionCell({ names, labels, predictions, counts }) {
    const box = find(".confusion-image");
    if (!box) return;

    const image = find("#confusion-cells", box);
    const output = find("#confusion-cell");
    const numClasses = names.length;
    const countOf = new Map(counts.map((count, index) => [labels[index] * numClasses + predictions[index], count]));
    const totals = new Array(numClasses).fill(0);
    counts.forEach((count, index) => (totals[labels[index]] += count));
    const cell = { label: 0, prediction: 0 };

    function tell() {
      const { label, prediction } = cell;
      const count = countOf.get(label * numClasses + prediction) || 0;
      const share = totals[label] ? `, ${((100 * count) / totals[label]).toFixed(1)}% of the label` : "";
      output.replaceChildren(
        `label ${label} `,
        makeName(names[label]),
        `, prediction ${prediction} `,
        makeName(names[prediction]),
        `: ${count} ${count === 1 ? "video" : "videos"}${share}`,
      );
    }

    const limit = (index) => Math.min(Math.max(index, 0), numClasses - 1);

    function point(event) {
      const area = image.getBoundingClientRect();
      const column = Math.floor(((event.clientX - area.left) / area.width) * numClasses);
      const row = Math.floor(((event.clientY - area.top) / area.height) * numClasses);
      if (column !== limit(column) || row !== limit(row)) return;
      cell.label = row;
      cell.prediction = column;
      tell();
    }

    box.addEventListener("pointermove", point);
    box.addEventListener("click", point);

    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    box.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      cell.label = limit(cell.label + step[0]);
      cell.prediction = limit(cell.prediction + step[1]);
      tell();
    });

    const zooms = findAll("button[data-zoom]");
    for (const button of zooms) {
      button.addEventListener("click", () => {
        const before = box.scrollWidth;
        const x = (box.scrollLeft + box.clientWidth / 2) / before;
        const y = (box.scrollTop + box.clientHeight / 2) / box.scrollHeight;
        box.style.setProperty("--zoom", button.dataset.zoom);
        box.classList.toggle("zoomed", button.dataset.zoom !== "1");
        box.scrollLeft = x * box.scrollWidth - box.clientWidth / 2;
        box.scrollTop = y * box.scrollHeight - box.clientHeight / 2;
        zooms.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      });
    }
  }

  function showClassLookup({ names, labels, predictions, counts }) {
    const input = find("#class-lookup");
    if (!input) return;

    const output = find("#class-confusions");
    find("#class-list").append(
      ...names.map((name) => {
        const option = make("option");
        option.value = name;
        return option;
      }),
    );

    // Make a list of the classes of some cells, the most frequent first.
    function makeList(title, from, to, number) {
      const cells = counts.map((count, index) => ({ count, index }));
      const own = cells.filter(({ index }) => from[index] === number);
      own.sort((a, b) => b.count - a.count || a.index - b.index);

      const list = make("ul");
      for (const { count, index } of own.slice(0, MAX_CONFUSIONS)) {
        const item = make("li", "", to[index] === number ? "right" : "");
        item.append(makeName(names[to[index]]), `: ${count}`);
        list.append(item);
      }
      if (own.length > MAX_CONFUSIONS) list.append(make("li", `and ${own.length - MAX_CONFUSIONS} more`));

      const block = make("div");
      block.append(make("h4", title), own.length ? list : make("p", "no video"));
      return block;
    }

    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      const lower = names.map((name) => name.toLowerCase());
      const exact = lower.indexOf(wanted);
      const close = lower.filter((name) => name.includes(wanted));
      const number = exact < 0 && close.length === 1 ? lower.indexOf(close[0]) : exact;
      output.className = wanted ? "pair" : "";
      if (!wanted) return output.replaceChildren();
      if (number < 0) return output.replaceChildren(make("p", `${close.length} classes match.`));

      output.replaceChildren(
        makeList("Videos of this class are predicted as", labels, predictions, number),
        makeList("Videos predicted as this class have the label", predictions, labels, number),
      );
    });
  }

  // ---- Start --------------------------------------------------------------------------------

  if (typeof DecompressionStream === "undefined") {
    find("#video-count").textContent = "This browser is too old to unpack the table.";
    return;
  }
  const [classes, videos] = await Promise.all([unpack("classes-data"), unpack("videos-data")]);
  showConfusionCell(classes);
  showClassLookup(classes);
  showVideos(videos, classes.names);
  document.documentElement.dataset.ready = "true";
})();
