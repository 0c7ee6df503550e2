// Words between those who are in the channel now. The server keeps none: who comes later has missed them.

const LINES_MAX = 200;

const $ = (id) => document.getElementById(id);

export class Chat {
  #unread = 0;

  /** `send(text)` resolves with whether the server took it. */
  constructor(send) {
    $('said').replaceChildren();
    $('talk').onclick = () => this.#open($('chat').hidden);
    $('say-form').onsubmit = async (event) => {
      event.preventDefault();
      const text = $('say').value.trim();
      if (!text) return;
      // The answer comes at its place among the words of the others.
      if (!(await send(text))) return;
      $('say').value = '';
      this.#line('You', text);
    };
    this.#open(false);
  }

  /** Signals of other pages have no text. */
  said(name, { text }) {
    if (typeof text !== 'string') return;
    this.#line(name, text);
    if (!$('chat').hidden) return;
    this.#unread++;
    this.#draw();
  }

  #line(name, text) {
    const line = document.createElement('li');
    const who = document.createElement('strong');
    who.textContent = name;
    line.append(who, ' ', text);
    const said = $('said');
    said.append(line);
    while (said.children.length > LINES_MAX) said.firstChild.remove();
    said.scrollTop = said.scrollHeight;
  }

  #open(open) {
    $('chat').hidden = !open;
    $('talk').setAttribute('aria-expanded', String(open));
    this.#unread = 0;
    this.#draw();
    if (open) $('say').focus();
  }

  #draw() {
    $('talk').textContent = this.#unread ? `Chat (${this.#unread})` : 'Chat';
  }
}
