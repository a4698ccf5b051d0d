/** Waits that end when somebody rings, when the time is over, or when the caller aborts. */

export class Bell {
  /** @type {Set<() => void>} */
  #waiting = new Set();

  /** End all current waits. */
  ring() {
    for (const end of [...this.#waiting]) end();
  }

  /**
   * Wait until somebody rings.
   * @param {number} ms at most; Infinity waits for a ring or the signal
   * @param {AbortSignal} [signal] its reason is thrown when it is aborted
   * @returns {Promise<boolean>} whether somebody rang
   */
  wait(ms, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      /** @type {ReturnType<typeof setTimeout>|undefined} */
      let timer;
      const leave = () => {
        clearTimeout(timer);
        this.#waiting.delete(ring);
        signal?.removeEventListener("abort", abort);
      };
      const ring = () => {
        leave();
        resolve(true);
      };
      const abort = () => {
        leave();
        reject(signal?.reason);
      };
      // A wait longer than a timer allows (25 days) has no limit either.
      if (ms < 2 ** 31) {
        timer = setTimeout(() => {
          leave();
          resolve(false);
        }, Math.max(0, ms));
      }
      this.#waiting.add(ring);
      signal?.addEventListener("abort", abort);
    });
  }
}

/**
 * Perform an action that can be aborted, within a time limit.
 * @template T
 * @param {number} ms
 * @param {AbortSignal|undefined} signal the caller's
 * @param {(signal: AbortSignal) => Promise<T>} action
 * @returns {Promise<T>}
 */
export async function within(ms, signal, action) {
  const own = new AbortController();
  const abort = () => own.abort(signal?.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  const timer = setTimeout(() => own.abort(new DOMException("it took too long", "TimeoutError")), Math.min(ms, 2 ** 31 - 1));
  try {
    return await action(own.signal);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}
