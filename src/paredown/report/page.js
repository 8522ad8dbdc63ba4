'use strict';
(function () {
  var SIZES = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, '%': 1 };
  var NARROW = 600;  // pixels, as in the style
  var PAPER = 660;  // pixels between the margins of A4 and of letter paper
  var NUMBER = /^([-+]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?)\s*([kMGTP%]?)/;

  // The number with which a cell begins, as "91.20 ± 0.31" or "40.8M"; null for any other text.
  function value(text) {
    var found = NUMBER.exec(text);
    return found && parseFloat(found[1].replace(/,/g, '')) * (SIZES[found[2]] || 1);
  }

  function sort(table, column, ascending) {
    var body = table.tBodies[0];
    var rows = Array.prototype.map.call(body.rows, function (row) {
      return { row: row, text: row.cells[column].textContent.trim() };
    });
    var numeric = rows.every(function (one) { return !one.text || value(one.text) !== null; });
    rows.sort(function (one, other) {
      if (!one.text || !other.text) { return (one.text ? 0 : 1) - (other.text ? 0 : 1); }  // empty cells come last
      var order = numeric ? value(one.text) - value(other.text) : one.text.localeCompare(other.text);
      return ascending ? order : -order;
    });
    rows.forEach(function (one) { body.appendChild(one.row); });
  }

  function sortable(table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column, heads) {
      var button = document.createElement('button');
      button.type = 'button';
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      head.setAttribute('aria-sort', 'none');
      button.addEventListener('click', function () {
        var ascending = head.getAttribute('aria-sort') !== 'ascending';
        Array.prototype.forEach.call(heads, function (other) { other.setAttribute('aria-sort', 'none'); });
        head.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
        sort(table, column, ascending);
      });
    });
  }

  function show(details) {
    details.open = true;
    details.scrollIntoView({ block: 'center' });
  }

  function showNamed() {
    var found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (found && found.tagName === 'DETAILS') { show(found); }
  }

  // A click on a point opens its runs and its command below; a point without any opens its link.
  function clickable(plot) {
    plot.on('plotly_click', function (event) {
      var link = event.points[0].customdata;
      var found = Array.prototype.find.call(document.querySelectorAll('details.point'), function (one) {
        return link && one.dataset.link === link;
      });
      if (found) { show(found); } else if (link) { window.open(link, '_blank', 'noopener'); }
    });
  }

  // On a narrow screen the legend is below the figure, not beside it.
  function fit(plot) {
    var narrow = window.innerWidth < NARROW, entries = plot.data.length;
    if (plot.dataset.narrow === String(narrow)) { return; }
    plot.dataset.narrow = String(narrow);
    var legend = { orientation: narrow ? 'h' : 'v', x: narrow ? 0 : 1.02, y: narrow ? -0.22 : 1, yanchor: 'top' };
    var height = narrow ? 420 + 12 * entries : plot.dataset.height * 1;
    Plotly.relayout(plot, { legend: Object.assign({}, plot.layout.legend, legend), height: height, autosize: true,
      'margin.l': narrow ? 55 : 80, 'margin.r': narrow ? 10 : 80 }).then(function () { Plotly.Plots.resize(plot); });
  }

  function copy(button) {
    var code = button.parentNode.querySelector('code');
    var range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    function told(done) {
      button.textContent = done ? 'copied' : 'selected: press Ctrl-C';
      setTimeout(function () { button.textContent = 'copy'; }, 2500);
    }
    function older() { told(document.execCommand('copy')); }  // where a page from a file has no clipboard
    if (!navigator.clipboard) { older(); return; }
    navigator.clipboard.writeText(code.textContent).then(function () { told(true); }, older);
  }

  function cell(row, text, kind) {
    var made = row.insertCell();
    made.textContent = text;
    if (kind) { made.className = kind; }
    return made;
  }

  function count(number) { return number === undefined ? '' : Math.round(number).toLocaleString('en-US'); }

  // Two settings, layer by layer: the layers of both, in the order of the first; a bar is what is left of a layer.
  function compare(view) {
    var layers = JSON.parse(document.getElementById('layers').textContent);
    var selects = view.querySelectorAll('select'), body = view.querySelector('tbody');
    function draw() {
      var sides = Array.prototype.map.call(selects, function (select) {
        var rows = new Map();
        layers[select.value].forEach(function (row) { rows.set(row.layer, row); });
        return rows;
      });
      var names = Array.from(new Set(Array.from(sides[0].keys()).concat(Array.from(sides[1].keys()))));
      body.textContent = '';
      names.forEach(function (name) {
        var row = body.insertRow(), pair = sides.map(function (side) { return side.get(name) || {}; });
        cell(row, name);
        pair.forEach(function (one) { cell(row, one.kind || 'none', 'words'); });
        ['macs', 'weights'].forEach(function (unit) {
          pair.forEach(function (one, place) {
            var made = cell(row, count(one[unit]));
            var left = one['dense_' + unit] ? one[unit] / one['dense_' + unit] : 0;
            var bar = made.appendChild(document.createElement('span'));
            bar.className = place ? 'bar second' : 'bar';
            bar.style.width = Math.max(0, Math.min(100, 100 * left)) + '%';
          });
        });
      });
    }
    Array.prototype.forEach.call(selects, function (select) { select.addEventListener('change', draw); });
    draw();
  }

  document.querySelectorAll('table.sortable').forEach(sortable);
  document.querySelectorAll('#compare').forEach(compare);
  document.querySelectorAll('button.copy').forEach(function (button) {
    button.addEventListener('click', function () { copy(button); });
  });
  var plots = document.querySelectorAll('.js-plotly-plot');
  plots.forEach(function (plot) { plot.dataset.height = plot.layout.height || 450; fit(plot); });
  document.querySelectorAll('#front .js-plotly-plot').forEach(clickable);
  window.addEventListener('resize', function () { plots.forEach(fit); });
  // Paper is narrower than the screen, and figures keep the width that they were drawn in.
  window.addEventListener('beforeprint', function () {
    plots.forEach(function (plot) { Plotly.relayout(plot, { width: PAPER, autosize: false }); });
  });
  window.addEventListener('afterprint', function () {
    plots.forEach(function (plot) {
      Plotly.relayout(plot, { width: null, autosize: true }).then(function () { Plotly.Plots.resize(plot); });
    });
  });
  window.addEventListener('hashchange', showNamed);
  showNamed();
}());
