// The little script of the shop: pages are fetched and put in place of the one before, a menu, suggestions while typing, questions before what
// cannot be undone, and stars to give. Without it, everything but the stars works as plain pages.
customElements.define('star-rating', class extends HTMLElement {
  connectedCallback() {
    const field = document.createElement('input');
    field.type = 'hidden'; field.name = this.getAttribute('name'); field.value = this.getAttribute('value');
    this.append(field);
    const shadow = this.attachShadow({ mode: 'open' });
    for (let n = 1; n <= 5; n++) {
      const star = document.createElement('button');
      star.type = 'button'; star.textContent = n === 1 ? '1 star' : `${n} stars`;
      star.setAttribute('aria-pressed', String(field.value === String(n)));
      star.addEventListener('click', () => {
        field.value = n;
        for (const each of shadow.querySelectorAll('button')) each.setAttribute('aria-pressed', String(each === star));
      });
      shadow.append(star);
    }
  }
});
async function visit(address, options, keep) {
  const answer = await fetch(address, options);
  if (!(answer.headers.get('content-type') || '').includes('html')) { location.href = address; return; }
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  if (!keep) history.pushState(null, '', answer.url);
  document.title = page.title;
  document.body.className = page.body.className;
  document.body.replaceChildren(...page.body.childNodes);
  window.scrollTo(0, 0);
}
const ours = (link) => link.origin === location.origin && !link.target && !link.hasAttribute('download') && !link.pathname.endsWith('/invoice');
document.addEventListener('click', (event) => {
  const opens = event.target.dataset && event.target.dataset.opens;
  if (opens) {
    const menu = document.getElementById(opens);
    menu.hidden = !menu.hidden;
    event.target.setAttribute('aria-expanded', String(!menu.hidden));
  }
  const link = event.target.closest('a');
  if (!link || !ours(link) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  visit(link.href);
});
document.addEventListener('submit', (event) => {
  const form = event.target, question = form.dataset.confirm;
  event.preventDefault();
  if (question && !confirm(question)) return;
  const data = new FormData(form);
  if (form.method === 'get') { visit(form.action.split('?')[0] + '?' + new URLSearchParams(data)); return; }
  visit(form.action, { method: 'post', body: form.enctype.startsWith('multipart') ? data : new URLSearchParams(data) });
});
addEventListener('popstate', () => visit(location.href, {}, true));
document.addEventListener('input', async (event) => {
  if (!event.target.matches('.find input')) return;
  const found = await (await fetch('/suggest?q=' + encodeURIComponent(event.target.value))).json();
  document.querySelector('.suggestions').replaceChildren(...found.map((p) => {
    const a = document.createElement('a');
    a.href = `/product/${p.id}`; a.textContent = p.name;
    return a;
  }));
});
