/**
 * Perform an action that can be aborted, within a time limit.
 * @template T
 * @param {number} ms
 * @param {AbortSignal|undefined} signal the caller's
 * @param {(signal: AbortSignal) => Promise<T>} action
 * @returns {Promise<T>}
 */
export function within<T>(ms: number, signal: AbortSignal | undefined, action: (signal: AbortSignal) => Promise<T>): Promise<T>;
/** Waits that end when somebody rings, when the time is over, or when the caller aborts. */
export class Bell {
    /** End all current waits. */
    ring(): void;
    /**
     * Wait until somebody rings.
     * @param {number} ms at most; Infinity waits for a ring or the signal
     * @param {AbortSignal} [signal] its reason is thrown when it is aborted
     * @returns {Promise<boolean>} whether somebody rang
     */
    wait(ms: number, signal?: AbortSignal): Promise<boolean>;
    #private;
}
