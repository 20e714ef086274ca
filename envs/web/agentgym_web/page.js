// What a page shows, as lines: its accessibility tree, every element with an id that stays its own while it lives. Hidden text, class names
// and attributes that nobody sees are left out. window.__agentgym holds the ids, and knows when the page has settled.
(() => {
  if (window.__agentgym) return;
  const kept = window.__agentgym = { ids: new WeakMap(), elements: new Map(), next: 1 };
  const ROLES = {
    A: 'link', BUTTON: 'button', SELECT: 'combobox', TEXTAREA: 'textbox', OPTION: 'option', IMG: 'image', H1: 'heading', H2: 'heading', H3: 'heading',
    LABEL: 'label', LI: 'item', TD: 'cell', TH: 'header', CANVAS: 'canvas', SUMMARY: 'button', circle: 'circle', rect: 'rectangle', polygon: 'polygon',
    ellipse: 'ellipse', line: 'line', path: 'path', text: 'text', IFRAME: 'frame',
  };
  const INPUTS = {
    checkbox: 'checkbox', radio: 'radio', button: 'button', submit: 'button', reset: 'button', image: 'button', range: 'slider', number: 'spinbutton',
    search: 'searchbox', file: 'file',
  };
  const VALUED = new Set(['textbox', 'spinbutton', 'slider', 'searchbox']);
  const WHOLE = new Set(['button', 'link', 'heading', 'tab', 'option', 'menuitem']);  // named by all that is in them
  const SKIPPED = new Set(['SCRIPT', 'STYLE', 'NOSCRIPT', 'TEMPLATE', 'HEAD', 'META', 'LINK']);
  const HIDDEN = new Set(['reward-display', 'sync-task-cover', 'click-canvas', 'query']);
  const MOST = 400;

  const idOf = (element) => {
    let id = kept.ids.get(element);
    if (!id) { id = kept.next++; kept.ids.set(element, id); kept.elements.set(id, new WeakRef(element)); }
    return id;
  };
  const BARE = new Set(['presentation', 'none', 'tablist']);  // roles that say nothing of an element itself
  const told = (element) => { const what = element.getAttribute('role'); return BARE.has(what) ? '' : what; };
  const role = (element) => told(element) || (element.tagName === 'INPUT' ? INPUTS[element.type] || 'textbox' : ROLES[element.tagName]) || '';
  const clean = (text) => text.replace(/\s+/g, ' ').trim();
  const ownText = (element) => clean([...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join(' '));
  const inside = (element) => (element.shadowRoot ? [...element.shadowRoot.children]
    : element.tagName === 'SLOT' && element.assignedElements().length ? element.assignedElements() : [...element.children]);
  const name = (element, what) => {
    const by = (element.getAttribute('aria-labelledby') || '').split(' ').map((id) => id && element.getRootNode().getElementById(id)).filter(Boolean);
    return by.map((e) => clean(e.textContent)).join(' ') || clean(element.getAttribute('aria-label') || '') || ownText(element)
      || WHOLE.has(what) && clean(element.textContent)
      || clean(element.labels && element.labels.length && element.labels[0].textContent || element.getAttribute('alt')
        || ['submit', 'button', 'reset'].includes(element.type) && element.value || element.getAttribute('placeholder') || element.getAttribute('title') || '');
  };

  const unseen = (element, style) => style.display === 'none' || style.visibility === 'hidden' || +style.opacity === 0 || element.ariaHidden === 'true';
  const boxless = (element) => {
    const box = element.getBoundingClientRect();
    return !(box.width > 0 && box.height > 0) && element.tagName !== 'line' && element.tagName !== 'OPTION';
  };
  // An empty square of some colour: there is nothing else by which it could be told from others.
  const boxed = (element, style) => element.tagName === 'DIV' && !element.childElementCount && !ownText(element)
    && !/^rgba\(.*, 0\)$/.test(style.backgroundColor) && element.getBoundingClientRect().width < 120;
  const middle = (element) => { const b = element.getBoundingClientRect(); return `at ${Math.round(b.x + b.width / 2)},${Math.round(b.y + b.height / 2)}`; };

  const state = (element, what, style, parts) => {
    if (VALUED.has(what)) parts.push(`value ${JSON.stringify(String(element.value ?? ''))}`);
    if (what === 'file') parts.push(`files ${JSON.stringify([...element.files].map((f) => f.name))}`);
    if (what === 'combobox' && element.options) {
      parts.push(`value ${JSON.stringify(element.selectedOptions.length ? clean(element.selectedOptions[0].textContent) : '')}`);
      parts.push(`options ${JSON.stringify([...element.options].map((o) => clean(o.textContent)))}`);
    }
    for (const [is, word] of [[element.tagName === 'TEXTAREA', 'multiline'], [element.checked, 'checked'], [element.selected && what === 'option', 'selected'], [element.disabled, 'disabled'],
      [element.getRootNode().activeElement === element && element !== document.body, 'focused']]) if (is) parts.push(word);
    if (element.dataset && element.dataset.irreversible) parts.push('irreversible');
    if (element instanceof SVGElement && element.tagName !== 'text') {
      const box = element.getBoundingClientRect();
      parts.push(`${element.getAttribute('fill') || style.fill}`, `${Math.round(box.width)}x${Math.round(box.height)}`);
    }
    if (element instanceof SVGElement || what === 'canvas') parts.push(middle(element));
    if (element.scrollHeight > element.clientHeight + 4 && /auto|scroll/.test(style.overflowY)
      || what === 'textbox' && element.scrollHeight > element.clientHeight + 8) parts.push('scrolls');
  };

  const acts = (element, style) => style.cursor === 'pointer' || element.onclick || element.draggable && element.tagName !== 'IMG';
  // The line of an element; false if it says and does nothing by itself.
  const describe = (element, style, depth, lines) => {
    const what = role(element), said = ownText(element), svg = element instanceof SVGElement, clickable = acts(element, style);
    if (!what && !said && !clickable && !boxed(element, style) && !(svg && element.tagName !== 'svg' && element.tagName !== 'g') && element.tabIndex < 0) return false;
    if (element.tagName === 'OPTION' && !element.parentElement.multiple && element.parentElement.size < 2) return false;
    if (element.tagName === 'LABEL' && element.control && !clickable) return false;  // its field is named by it
    const parts = [`[${idOf(element)}]`, what || (svg ? element.tagName : clickable ? 'clickable' : said ? 'text' : 'box')];
    if (boxed(element, style)) parts.push(style.backgroundColor);
    const called = name(element, what);
    if (called) parts.push(JSON.stringify(called.slice(0, 300)));
    state(element, what, style, parts);
    lines.push('  '.repeat(Math.min(depth, 6)) + parts.join(' '));
    return true;
  };
  // The same as HTML: the tag, and what a person would see of its attributes.
  const describeTag = (element, style, depth, lines) => {
    const said = ownText(element), parts = [`[${idOf(element)}] <${element.tagName.toLowerCase()}`];
    for (const each of ['type', 'href', 'placeholder', 'alt', 'title', 'role', 'aria-label']) if (element.getAttribute(each)) parts.push(`${each}=${JSON.stringify(element.getAttribute(each))}`);
    const more = [];
    state(element, role(element), style, more);
    lines.push('  '.repeat(Math.min(depth, 12)) + parts.join(' ') + '>' + (said ? ' ' + JSON.stringify(said.slice(0, 300)) : '') + (more.length ? ' ' + more.join(' ') : ''));
    return true;
  };

  const walk = (element, depth, lines, tell) => {
    if (SKIPPED.has(element.tagName) || HIDDEN.has(element.id) || element.classList.contains('ui-helper-hidden-accessible')) return;
    if (lines.length >= MOST) { lines.more = (lines.more || 0) + 1; return; }
    const style = getComputedStyle(element);
    if (unseen(element, style)) return;
    const told = !boxless(element) && element !== document.body && tell(element, style, depth, lines);
    if (told) depth += 1;
    if (element.tagName === 'SELECT' && !(element.multiple || element.size > 1)) return;
    if (told && WHOLE.has(role(element)) && !ownText(element) && !element.querySelector('input, select, textarea, button, a, img, svg, canvas')) return;
    for (const child of inside(element)) walk(child, depth, lines, tell);
    if (element.tagName === 'IFRAME') {
      let body = null;
      try { body = element.contentDocument && element.contentDocument.body; } catch (e) { /* another origin */ }
      if (body) walk(body, depth, lines, tell); else lines.push('  '.repeat(depth) + '(a frame of another origin)');
    }
  };
  kept.outline = (kind) => {
    const lines = [];
    if (kept.elements.size && ![...kept.elements.keys()].some((id) => kept.find(id))) kept.forget();  // another page: numbers begin anew
    walk(document.body, 0, lines, kind === 'dom' ? describeTag : describe);
    if (lines.more) lines.push('(more follows, too much to show)');
    return lines.join('\n');
  };
  kept.forget = () => { kept.ids = new WeakMap(); kept.elements.clear(); kept.next = 1; };
  kept.find = (id) => { const ref = kept.elements.get(id), e = ref && ref.deref(); return e && e.isConnected && e.ownerDocument.defaultView ? e : null; };

  // The boxes of what can be acted upon and is on the screen: [id, x, y, width, height].
  const LIVE = new Set(['button', 'link', 'combobox', 'textbox', 'searchbox', 'spinbutton', 'slider', 'checkbox', 'radio', 'tab', 'menuitem', 'option', 'file']);
  kept.boxes = () => [...kept.elements.keys()].map((id) => [id, kept.find(id)]).filter(([, e]) => e && (LIVE.has(role(e)) || acts(e, getComputedStyle(e)))).map(([id, e]) => {
    const box = e.getBoundingClientRect(), [x, y] = shift(e, box.x, box.y);
    return [id, x, y, box.width, box.height];
  }).filter(([, x, y, w, h]) => w > 0 && h > 0 && x < innerWidth && y < innerHeight && x + w > 0 && y + h > 0);

  // A place inside a frame as a place of the page.
  const shift = (element, x, y) => {
    for (let view = element.ownerDocument.defaultView; view !== window; view = view.parent) {
      const box = view.frameElement.getBoundingClientRect();
      x += box.x + view.frameElement.clientLeft; y += box.y + view.frameElement.clientTop;
    }
    return [x, y];
  };
  // Where to point at an element: {x, y}, or {why} it cannot be pointed at.
  kept.point = (id) => {
    const element = kept.find(id);
    if (!element) return { why: kept.elements.has(id) ? 'it is gone' : 'there is no such element' };
    element.scrollIntoView({ block: 'nearest', inline: 'nearest', behavior: 'instant' });
    const box = element.getBoundingClientRect(), view = element.ownerDocument.defaultView;
    let why = 'it is off the screen';
    for (const [across, down] of [[0.5, 0.5], [0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8], [0.05, 0.05], [0.95, 0.95], [0.95, 0.05], [0.05, 0.95]]) {
      const x = box.x + box.width * across, y = box.y + box.height * down;
      if (x < 0 || y < 0 || x >= view.innerWidth || y >= view.innerHeight) continue;
      const hit = element.getRootNode().elementFromPoint(x, y);
      if (!hit || hit === element || element.contains(hit) || hit.contains(element) || element.labels && [...element.labels].includes(hit)) {
        const [px, py] = shift(element, x, y);
        return { x: px, y: py };
      }
      why = `it is covered by ${hit.tagName.toLowerCase()} ${JSON.stringify(clean(hit.textContent).slice(0, 40))}`;
    }
    return { why };
  };
  // What the site itself says of an element (or of a place, or of what a key would send): the word of its data-irreversible, or ''.
  kept.marked = (id, x, y) => {
    let element = id ? kept.find(id) : x === undefined ? document.activeElement : document.elementFromPoint(x, y);
    if (element && x === undefined && !id && element.form) element = element.form.querySelector('[data-irreversible]') || element;
    const found = element && element.closest && element.closest('[data-irreversible]');
    return found ? found.dataset.irreversible : '';
  };

  // Settling: no navigation under way, everything loaded, no request of a script open. Known by events.
  let leaving = null, open = 0, waiters = [];
  const wake = () => { const those = waiters; waiters = []; for (const each of those) each(); };
  const busy = () => document.readyState !== 'complete' || open > 0 || leaving && !leaving.defaultPrevented;
  if (window.navigation) {
    navigation.addEventListener('navigate', (e) => { if (!e.destination.sameDocument && e.downloadRequest === null) leaving = e; });
    navigation.addEventListener('navigateerror', () => kept.stay());
  }
  window.addEventListener('load', wake);
  window.addEventListener('pageshow', () => kept.stay());
  kept.stay = () => { leaving = null; wake(); };
  const closing = () => { open -= 1; wake(); };
  if (window.fetch) {
    const real = window.fetch;
    window.fetch = (...given) => {
      open += 1;
      const answer = real.apply(window, given);
      answer.then((r) => ((r.headers.get('content-type') || '').includes('event-stream') ? null : r.clone().arrayBuffer())).catch(() => null).then(closing);
      return answer;
    };
  }
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (...given) { open += 1; this.addEventListener('loadend', closing, { once: true }); return send.apply(this, given); };
  let opened = 0;  // how often a window was asked for since the last look
  document.addEventListener('click', (e) => { const a = e.target.closest && e.target.closest('a[target]'); if (a && !['', '_self', '_top', '_parent'].includes(a.target)) opened += 1; }, true);
  const opens = window.open;
  window.open = (...given) => { opened += 1; return opens.apply(window, given); };
  kept.opened = () => { const n = opened; opened = 0; return n; };
  const tick = () => new Promise((done) => { const c = new MessageChannel(); c.port1.onmessage = done; c.port2.postMessage(0); });
  const loading = (f) => {
    try { const d = f.contentDocument; return d && f.loading !== 'lazy' && (d.readyState !== 'complete' || d.URL === 'about:blank' && f.src && f.src !== 'about:blank'); } catch (e) { return false; }
  };
  const frames = () => [...document.querySelectorAll('iframe')].map((f) => { try { return f.contentWindow.__agentgym; } catch (e) { return null; } }).filter(Boolean);
  let changes = 0;
  new MutationObserver(() => { changes += 1; }).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  // With `still`, timers of the page do not run by themselves: only what it loads is waited for.
  kept.settled = async (still) => {
    for (let round = 0, before = still ? changes : -1; round < 30 && (round === 0 || busy() || changes !== before); round++) {
      while (busy()) await new Promise((done) => waiters.push(done));
      await Promise.all([...document.images].map((i) => i.complete || i.loading === 'lazy' || new Promise((done) => { i.onload = i.onerror = done; })));
      await Promise.all([...document.querySelectorAll('iframe')].filter(loading).map((f) => new Promise((done) => f.addEventListener('load', done, { once: true }))));
      for (const frame of frames()) await frame.settled(still);
      before = changes;
      if (!still) { await tick(); await tick(); }
    }
  };

  // What an observation is made of, and what a form holds that the outline does not tell.
  const fields = () => [...document.querySelectorAll('input, textarea, select')];
  const ticked = (e) => ['checkbox', 'radio'].includes(e.type);
  const scrolling = () => [document.scrollingElement, ...document.querySelectorAll('*')].filter((e, i) => e && e.scrollTop && (i === 0 || e !== document.scrollingElement));
  kept.read = (kind) => ({
    seen: kept.outline(kind), url: location.href, title: document.title, scrolled: scrolling().map((e) => e.scrollTop),
    values: fields().map((e) => (ticked(e) ? e.checked : e.type === 'file' ? [...e.files].map((f) => f.name) : e.value)),
  });
  // Give elements the numbers that they had elsewhere, in the order of the outline.
  kept.renumber = (numbers, next) => {
    kept.forget();
    kept.outline();
    const refs = [...kept.elements.values()];
    kept.forget();
    refs.forEach((ref, i) => { const e = ref.deref(), id = numbers[i] || next++; kept.ids.set(e, id); kept.elements.set(id, ref); });
    kept.next = next;
  };
  kept.refill = ([values, top]) => {
    fields().forEach((e, i) => { if (e.type === 'file' || i >= values.length) return; if (ticked(e)) e.checked = values[i]; else e.value = values[i]; });
    window.scrollTo(0, top);
  };
})()
