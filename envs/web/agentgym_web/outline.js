// What a page shows, as lines: every visible element that says or does something, with an id that stays its own while it lives.
// Hidden text, class names and attributes that nobody sees are left out. window.__agentgym holds the ids.
(() => {
  const kept = window.__agentgym = { ids: new WeakMap(), elements: new Map(), next: 1, log: [] };
  const ROLES = {
    A: 'link', BUTTON: 'button', SELECT: 'combobox', TEXTAREA: 'textbox', OPTION: 'option', IMG: 'image', H1: 'heading', H2: 'heading', H3: 'heading',
    LABEL: 'label', LI: 'item', TD: 'cell', TH: 'header', CANVAS: 'canvas', circle: 'circle', rect: 'rectangle', polygon: 'polygon', ellipse: 'ellipse',
    line: 'line', path: 'path', text: 'text', IFRAME: 'frame',
  };
  const INPUTS = { checkbox: 'checkbox', radio: 'radio', button: 'button', submit: 'button', range: 'slider', number: 'spinbutton' };
  const SKIPPED = new Set(['SCRIPT', 'STYLE', 'NOSCRIPT', 'TEMPLATE', 'HEAD', 'META', 'LINK']);
  const HIDDEN = new Set(['reward-display', 'sync-task-cover', 'click-canvas', 'query']);

  const idOf = (element) => {
    let id = kept.ids.get(element);
    if (!id) { id = kept.next++; kept.ids.set(element, id); kept.elements.set(id, new WeakRef(element)); }
    return id;
  };
  const role = (element) => element.getAttribute('role') || (element.tagName === 'INPUT' ? INPUTS[element.type] || 'textbox' : ROLES[element.tagName]) || '';
  const clean = (text) => text.replace(/\s+/g, ' ').trim();
  const ownText = (element) => clean([...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join(' '));
  const label = (element) => clean(
    element.getAttribute('aria-label') || (element.labels && element.labels.length && element.labels[0].textContent) || element.getAttribute('placeholder')
    || element.getAttribute('alt') || element.getAttribute('title') || '');

  const visible = (element, style) => {
    if (style.display === 'none' || style.visibility === 'hidden' || +style.opacity === 0) return false;
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 || element.tagName === 'line' || element.tagName === 'OPTION';
  };

  // An empty square of some colour: there is nothing else by which it could be told from others.
  const boxed = (element, style) => element.tagName === 'DIV' && !element.childElementCount && !ownText(element)
    && !/^rgba\(.*, 0\)$/.test(style.backgroundColor) && element.getBoundingClientRect().width < 120;

  const describe = (element, style, depth, lines) => {
    const what = role(element), said = ownText(element), parts = [];
    const svg = element instanceof SVGElement;
    const clickable = style.cursor === 'pointer' || element.onclick || element.draggable && element.tagName !== 'IMG';
    if (!what && !said && !clickable && !boxed(element, style) && !(svg && element.tagName !== 'svg' && element.tagName !== 'g') && element.tabIndex < 0) return false;
    if (element.tagName === 'OPTION' && !element.parentElement.multiple && element.parentElement.size < 2) return false;
    parts.push(`[${idOf(element)}]`, what || (svg ? element.tagName : clickable ? 'clickable' : said ? 'text' : 'box'));
    const name = said || label(element);
    if (boxed(element, style)) parts.push(style.backgroundColor);
    if (name) parts.push(JSON.stringify(name.slice(0, 300)));
    if (what === 'textbox' || what === 'spinbutton' || what === 'slider') parts.push(`value ${JSON.stringify(String(element.value ?? ''))}`);
    if (what === 'combobox' && element.options) {
      parts.push(`value ${JSON.stringify(element.selectedOptions.length ? clean(element.selectedOptions[0].textContent) : '')}`);
      parts.push(`options ${JSON.stringify([...element.options].map((o) => clean(o.textContent)))}`);
    }
    if (element.checked) parts.push('checked');
    if (element.selected && what === 'option') parts.push('selected');
    if (element.disabled) parts.push('disabled');
    if (document.activeElement === element && element !== document.body) parts.push('focused');
    if (svg && element.tagName !== 'text') {
      const box = element.getBoundingClientRect();
      parts.push(`${element.getAttribute('fill') || style.fill}`, `${Math.round(box.width)}x${Math.round(box.height)}`);
    }
    if (svg || what === 'canvas') { const b = element.getBoundingClientRect(); parts.push(`at ${Math.round(b.x + b.width / 2)},${Math.round(b.y + b.height / 2)}`); }
    if (element.scrollHeight > element.clientHeight + 4 && /auto|scroll/.test(style.overflowY) || what === 'textbox' && element.scrollHeight > element.clientHeight + 8) parts.push('scrolls');
    lines.push('  '.repeat(Math.min(depth, 6)) + parts.join(' '));
    return true;
  };

  const walk = (element, depth, lines) => {
    if (SKIPPED.has(element.tagName) || HIDDEN.has(element.id) || lines.length > 400) return;
    const style = getComputedStyle(element);
    if (!visible(element, style)) {
      if (style.display === 'none' || style.visibility === 'hidden' || +style.opacity === 0) return;
    }
    else if (element !== document.body && describe(element, style, depth, lines)) depth += 1;
    if (element.tagName === 'SELECT' && !(element.multiple || element.size > 1)) return;
    for (const child of (element.shadowRoot || element).children) walk(child, depth, lines);
    if (element.tagName === 'IFRAME') { try { walk(element.contentDocument.body, depth, lines); } catch (e) { lines.push('  (a frame of another origin)'); } }
  };

  kept.outline = () => { const lines = []; walk(document.body, 0, lines); return lines.join('\n'); };
  kept.forget = () => { kept.ids = new WeakMap(); kept.elements.clear(); kept.next = 1; };
  kept.find = (id) => { const ref = kept.elements.get(id), e = ref && ref.deref(); return e && e.isConnected ? e : null; };
  // Where to point at an element: {x, y}, or {why} it cannot be pointed at.
  kept.point = (id) => {
    const element = kept.find(id);
    if (!element) return { why: kept.elements.has(id) ? 'it is gone' : 'there is no such element' };
    element.scrollIntoView({ block: 'nearest', inline: 'nearest', behavior: 'instant' });
    const box = element.getBoundingClientRect();
    let why = 'it is off the screen';
    for (const [across, down] of [[0.5, 0.5], [0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8], [0.05, 0.05], [0.95, 0.95], [0.95, 0.05], [0.05, 0.95]]) {
      const x = box.x + box.width * across, y = box.y + box.height * down;
      if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) continue;
      const hit = element.ownerDocument.elementFromPoint(x, y);
      if (!hit || hit === element || element.contains(hit) || hit.contains(element) || element.labels && [...element.labels].includes(hit)) return { x, y };
      why = `it is covered by ${hit.tagName.toLowerCase()} ${JSON.stringify(clean(hit.textContent).slice(0, 40))}`;
    }
    return { why };
  };
})()
