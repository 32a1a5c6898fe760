/**
 * What one run is like to wait for: time to first token, tokens a second, and the time between tokens.
 *
 * A run that this page asked for is timed as it arrives, with all that the network does; one that was joined, whose past
 * comes all at once, by the timestamps of its events.
 */

const KEPT = 96;
const MEASURABLE_MS = 100;
const WIDTH = 240;
const HEIGHT = 48;
/** The time of a tool, of the user's answer, or without a process, is not the model's pace. */
const PAUSES = new Set(['TOOL_CALL_START', 'INPUT_REQUESTED', 'INPUT_ANSWERED', 'RUN_RESUMED']);

export class Meter {
  /** ms from the question to the first token, of thought or answer. @type {number | null} */ first = null;
  /** The newest times between tokens, in ms. @type {number[]} */ gaps = [];
  progress = 0;
  step = '';
  #arrivals;
  #began;
  /** When the token before came, or 0 if none did that counts. */ #last = 0;
  #time = 0;
  #count = 0;

  /** @param {boolean} arrivals  whether to go by arrival */
  constructor(arrivals) {
    this.#arrivals = arrivals;
    this.#began = arrivals ? performance.now() : NaN;
  }

  /** @param {{type: string, data: Record<string, any>, timestamp: string}} event */
  take({ type, data, timestamp }) {
    const now = this.#arrivals ? performance.now() : Date.parse(timestamp);
    if (Number.isNaN(this.#began)) this.#began = now;
    if (type === 'LLM_CHUNK' || type === 'THINKING') this.#token(now);
    else if (type === 'PROGRESS') this.progress = data.progress;
    else if (type === 'STEP_START') this.step = data.max_steps ? `${data.step} of ${data.max_steps}` : String(data.step);
    else if (PAUSES.has(type)) this.#last = 0;
  }

  /** Chunks a second, a chunk being about a token; null while there is too little to tell from. */
  get rate() {
    return this.#time > MEASURABLE_MS ? (1000 * this.#count) / this.#time : null;
  }

  /** The newest gaps as the points of an SVG polyline in 240 × 48, the longest at the top. */
  get points() {
    const most = Math.max(...this.gaps, 1);
    const x = (/** @type {number} */ index) => ((WIDTH * index) / (KEPT - 1)).toFixed(1);
    const y = (/** @type {number} */ gap) => (HEIGHT - 2 - ((HEIGHT - 4) * gap) / most).toFixed(1);
    return this.gaps.map((gap, index) => `${x(index)},${y(gap)}`).join(' ');
  }

  /** @param {number} now */
  #token(now) {
    this.first ??= now - this.#began;
    if (this.#last) {
      const gap = now - this.#last;
      this.#time += gap;
      this.#count += 1;
      this.gaps.push(gap);
      if (this.gaps.length > KEPT) this.gaps.shift();
    }
    this.#last = now;
  }
}
