/** Callbacks by type. */

/** One callback; `off` once it was taken off. @typedef {{type: string, listener: (value: any) => void, off: boolean}} Listener */

/** As an uncaught error, as for an EventTarget: Node has no `reportError`. @param {unknown} error */
function report(error) {
  if (globalThis.reportError) globalThis.reportError(error);
  else {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/** Calls one, which harms nobody else if it throws. @param {Listener} listener @param {unknown} value */
export function call({ listener, off }, value) {
  if (off) return;
  try {
    listener(value);
  } catch (error) {
    report(error);
  }
}

export class Listeners {
  /** The arrays are never changed, as one may be in use. @type {Map<string, Listener[]>} */ #byType = new Map();

  /** @param {Listener} listener */
  add(listener) {
    const { type } = listener;
    this.#byType.set(type, [...(this.#byType.get(type) ?? []), listener]);
  }

  /** @param {Listener} listener */
  remove(listener) {
    const { type } = listener;
    listener.off = true;
    this.#byType.set(type, (this.#byType.get(type) ?? []).filter((other) => other !== listener));
  }

  /** Calls all of a type that were there before. @param {string} type @param {unknown} value */
  tell(type, value) {
    for (const listener of this.#byType.get(type) ?? []) call(listener, value);
  }
}
