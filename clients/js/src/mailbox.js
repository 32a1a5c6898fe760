/** A queue between one that puts and one that takes, in order, which ends once all before its end was taken. Pure. */

/** @template T */
export class Mailbox {
  /** @type {T[]} */ #items = [];
  #head = 0;
  /** @type {((taken: Promise<T | undefined>) => void)[]} */ #waiting = [];
  /** @type {Promise<undefined> | null} */ #end = null;
  #limit = 0;
  /** @type {(() => void) | null} */ #stirred = null;

  get size() {
    return this.#items.length - this.#head;
  }

  /** The items that wait to be taken. */
  get items() {
    return this.#items.slice(this.#head);
  }

  /** Nothing counts that is put after the end. @param {T} item */
  put(item) {
    if (this.#end) return;
    const waiter = this.#waiting.shift();
    if (waiter) waiter(Promise.resolve(item));
    else this.#items.push(item);
  }

  /** `take` gives undefined, or rejects with the error, once it has given everything that was put. @param {unknown} [error] */
  end(error) {
    if (this.#end) return;
    this.#end = error === undefined ? Promise.resolve(undefined) : Promise.reject(error);
    this.#end.catch(() => {}); // it may be that nobody takes any more
    for (const waiter of this.#waiting.splice(0)) waiter(this.#end);
    this.stir();
  }

  /** Throws away what waits. */
  clear() {
    this.#items = [];
    this.#head = 0;
    this.stir();
  }

  /** @returns {Promise<T | undefined>} */
  take() {
    if (this.size > 0) {
      const item = this.#items[this.#head];
      this.#head += 1;
      if (this.#head === this.#items.length || this.#head === 1024) {
        this.#items.splice(0, this.#head);
        this.#head = 0;
      }
      if (this.size < this.#limit) this.stir();
      return Promise.resolve(item);
    }
    return this.#end ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  /**
   * Resolves when fewer than `limit` items are left, none will be taken any more, or whoever waits is to look again.
   * @param {number} limit
   */
  room(limit) {
    this.#limit = limit;
    return /** @type {Promise<void>} */ (
      new Promise((resolve) => {
        this.#stirred = resolve;
        if (this.size < limit || this.#end) resolve();
      })
    );
  }

  /** Lets whoever waits for room look again. */
  stir() {
    this.#stirred?.();
  }
}
