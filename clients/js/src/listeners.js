/** Callbacks by type. */

export class Listeners {
  /** @type {Map<string, Set<(value: any) => void>>} */ #byType = new Map();

  /** @param {string} type @param {(value: any) => void} listener  @returns what takes it off again */
  add(type, listener) {
    const listeners = this.#byType.get(type) ?? new Set();
    this.#byType.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Calls them all; one that throws is reported as an uncaught error, as for an EventTarget. @param {string} type @param {unknown} value */
  tell(type, value) {
    for (const listener of this.#byType.get(type) ?? []) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
