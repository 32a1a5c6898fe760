/** Signing in if the server wants to know who one is: a token is exchanged for a cookie that no script can read. */

import { addressOf, byId, recall, remember } from './dom.js';

const USER = 'twinwire.user';

/** The name of who is signed in, or ''. */
export const user = () => recall(USER);

export class Login {
  #dialog = byId('login', HTMLDialogElement);
  #token = byId('token', HTMLInputElement);
  #refused = byId('refused', HTMLElement);
  #signOut = byId('sign-out', HTMLButtonElement);

  /** @param {() => void} signedIn @param {() => void} signedOut */
  constructor(signedIn, signedOut) {
    byId('login-form', HTMLFormElement).addEventListener('submit', async (event) => {
      event.preventDefault();
      if (await this.#send()) signedIn();
    });
    byId('login-later', HTMLButtonElement).addEventListener('click', () => this.#dialog.close());
    this.#signOut.addEventListener('click', async () => {
      await fetch(addressOf('logout'), { method: 'POST' }).catch(() => {}); // without a network the cookie stays, and expires
      this.#who('');
      signedOut();
    });
    this.#who(user());
  }

  ask() {
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  async #send() {
    const headers = { authorization: `Bearer ${this.#token.value.trim()}` };
    this.#refused.textContent = '';
    try {
      const response = await fetch(addressOf('login'), { method: 'POST', headers });
      const { user_id: name, message } = await response.json();
      if (!response.ok) throw new Error(response.status === 401 ? 'This token is not taken.' : message);
      this.#who(name);
    } catch (error) {
      this.#refused.textContent = /** @type {Error} */ (error).message;
      this.#token.select();
      return false;
    }
    this.#token.value = '';
    this.#dialog.close();
    return true;
  }

  /** @param {string} name */
  #who(name) {
    remember(USER, name);
    this.#signOut.hidden = !name;
    this.#signOut.textContent = `Sign out ${name}`;
  }
}
