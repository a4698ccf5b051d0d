export const MOST_CHARACTERS: number;
/** Splits bytes into the data of events; comments, ids and names are not needed, since the data repeats them. */
export class EventStream {
    /**
     * Return the data of the events that a piece completes.
     * @param {Uint8Array} piece
     * @returns {string[]}
     */
    feed(piece: Uint8Array): string[];
    #private;
}
