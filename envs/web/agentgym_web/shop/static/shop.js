// The little script of the shop: a menu, suggestions while typing, questions before what cannot be undone, and stars to give.
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
document.addEventListener('submit', (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});
document.addEventListener('click', (event) => {
  const opens = event.target.dataset && event.target.dataset.opens;
  if (!opens) return;
  const menu = document.getElementById(opens);
  menu.hidden = !menu.hidden;
  event.target.setAttribute('aria-expanded', String(!menu.hidden));
});
const find = document.querySelector('.find input'), list = document.querySelector('.suggestions');
if (find) find.addEventListener('input', async () => {
  const found = await (await fetch('/suggest?q=' + encodeURIComponent(find.value))).json();
  list.replaceChildren(...found.map((p) => { const a = document.createElement('a'); a.href = `/product/${p.id}`; a.textContent = p.name; return a; }));
});
